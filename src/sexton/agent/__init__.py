"""Agents: turns of a model with tools, the conversations that they belong to, and who must be asked.

Owns the configuration of models, the turn (its leases, budget, approvals and
record), conversations and memories in the database, and `Chats`, the service
behind every way to chat.  Promises that a turn gives back what it leased
however it ends, that no tool call which may have had an effect is made twice
by us, and that stopping is immediate.  Which way a message came, and how the
reply is shown, is the business of the layers above; processes and MCP are the
business of `mcp_servers`.

pydantic-ai, which talks to the models, is loaded on first use: only
`sexton.agent.loop` imports it.
"""

from __future__ import annotations

from sexton.agent.approval import (
    ApprovalOver,
    Approvals,
    ApprovalState,
    PendingApproval,
    Question,
    QuestionKind,
    UnknownApproval,
)
from sexton.agent.approval_store import DatabaseApprovals
from sexton.agent.budget import Budget, BudgetSpent, Usage
from sexton.agent.chats import Chats, ConversationBusy, OwnToolsOf, Turn, WhenBusy
from sexton.agent.completion import ClientTool, Completion, Completions, Wanted, client_call
from sexton.agent.conversation import ChatSettings, Conversation, ConversationRecord, Found, TurnRow, TurnState
from sexton.agent.conversation_store import UnknownConversation, UnknownMessage
from sexton.agent.events import (
    ApprovalAnswered,
    ApprovalAsked,
    ModelChanged,
    Steered,
    TextDelta,
    TextWithdrawn,
    ToolCallEnded,
    ToolCallStarted,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from sexton.agent.memory_store import Memory, MemoryStore
from sexton.agent.messages import Attachment, CallRecord, CallState, Message, Role, UserMessage
from sexton.agent.model_config import (
    BASE_URLS,
    LOCAL_URL,
    AgentConfig,
    Approval,
    ModelConfig,
    ModelFailed,
    NoModel,
    Price,
    ServerApprovals,
)
from sexton.agent.model_relay import ModelRelay, Relayed
from sexton.agent.own_tools import Messenger, OwnToolsOfJob, SextonTools
from sexton.agent.tool_rights import MARKS, NotAllowed
from sexton.agent.tool_rules import ToolRules
from sexton.agent.toolbox import NoTools, OwnTool, ToolSource
from sexton.agent.turn import Agent, TurnPlan, TurnRecord, TurnResult
from sexton.agent.turn_feed import EventStream

__all__ = [
    "BASE_URLS",
    "LOCAL_URL",
    "MARKS",
    "Agent",
    "AgentConfig",
    "Approval",
    "ApprovalAnswered",
    "ApprovalAsked",
    "ApprovalOver",
    "ApprovalState",
    "Approvals",
    "Attachment",
    "Budget",
    "BudgetSpent",
    "CallRecord",
    "CallState",
    "ChatSettings",
    "Chats",
    "ClientTool",
    "Completion",
    "Completions",
    "Conversation",
    "ConversationBusy",
    "ConversationRecord",
    "DatabaseApprovals",
    "EventStream",
    "Found",
    "Memory",
    "MemoryStore",
    "Message",
    "Messenger",
    "ModelChanged",
    "ModelConfig",
    "ModelFailed",
    "ModelRelay",
    "NoModel",
    "NoTools",
    "NotAllowed",
    "OwnTool",
    "OwnToolsOf",
    "OwnToolsOfJob",
    "PendingApproval",
    "Price",
    "Question",
    "QuestionKind",
    "Relayed",
    "Role",
    "ServerApprovals",
    "SextonTools",
    "Steered",
    "TextDelta",
    "TextWithdrawn",
    "ToolCallEnded",
    "ToolCallStarted",
    "ToolRules",
    "ToolSource",
    "Turn",
    "TurnEnded",
    "TurnEvent",
    "TurnPlan",
    "TurnRecord",
    "TurnResult",
    "TurnRow",
    "TurnStarted",
    "TurnState",
    "UnknownApproval",
    "UnknownConversation",
    "UnknownMessage",
    "Usage",
    "UserMessage",
    "Wanted",
    "WhenBusy",
    "client_call",
]
