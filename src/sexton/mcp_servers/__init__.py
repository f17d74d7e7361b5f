"""MCP servers: how they are defined, started, shared, called and ended.

Owns the connection to each server and who may use it when.  Promises that a
server is started on first need, that whoever uses it gives it back exactly
once, and that it is ended, with its whole process tree, when its time has
come.  What a call is for, and when it is made, is the business of the layers
above; that no process survives is the promise of `sexton.containment`.
"""

from __future__ import annotations

from mcp_types import CallToolResult, ContentBlock, Tool

from sexton.mcp_servers.breaker import BreakerPolicy, BreakerState, BreakerStatus
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.catalogue import CataloguedTool, ToolNameClash, name_tools, qualified_name
from sexton.mcp_servers.holder_session import MAX_INPUT_ROUNDS
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.json_line import BIG_LINE, decode, decode_slowly, encode
from sexton.mcp_servers.lease import Lease
from sexton.mcp_servers.lease_book import ProcessState
from sexton.mcp_servers.peer import QUESTIONS, Peer, polite_refusal
from sexton.mcp_servers.pool import ServerPool
from sexton.mcp_servers.pool_errors import (
    CallRefused,
    NoPlace,
    PoolClosed,
    ServerUnavailable,
    ToolDenied,
    UnknownServer,
)
from sexton.mcp_servers.questions import AnswerWanted, InputWanted, SamplingDeclined, callbacks_for
from sexton.mcp_servers.remote_transport import RemoteServer
from sexton.mcp_servers.server_config import HttpServer, ServerConfig, Sharing, StdioServer, ToolFilter
from sexton.mcp_servers.server_errors import (
    CallTimedOut,
    ConnectFailed,
    ConnectTimedOut,
    InvalidAnswer,
    InvalidToolResult,
    NotWritten,
    ServerDied,
)
from sexton.mcp_servers.server_process import ServerProcess
from sexton.mcp_servers.server_status import CheckReport, ServerProcessStatus, ServerState, ServerStatus

__all__ = [
    "BIG_LINE",
    "MAX_INPUT_ROUNDS",
    "QUESTIONS",
    "AnswerWanted",
    "BreakerPolicy",
    "BreakerState",
    "BreakerStatus",
    "CallRefused",
    "CallTimedOut",
    "CallToolResult",
    "Callbacks",
    "CataloguedTool",
    "CheckReport",
    "ConnectFailed",
    "ConnectTimedOut",
    "ContentBlock",
    "HttpServer",
    "InputWanted",
    "Introduction",
    "InvalidAnswer",
    "InvalidToolResult",
    "Lease",
    "NoPlace",
    "NotWritten",
    "Peer",
    "PoolClosed",
    "ProcessState",
    "RemoteServer",
    "SamplingDeclined",
    "ServerConfig",
    "ServerDied",
    "ServerPool",
    "ServerProcess",
    "ServerProcessStatus",
    "ServerState",
    "ServerStatus",
    "ServerUnavailable",
    "Sharing",
    "StdioServer",
    "Tool",
    "ToolDenied",
    "ToolFilter",
    "ToolNameClash",
    "UnknownServer",
    "callbacks_for",
    "decode",
    "decode_slowly",
    "encode",
    "name_tools",
    "polite_refusal",
    "qualified_name",
]
