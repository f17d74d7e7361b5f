"""What one holder of a server wants to hear, and what it can answer."""

from __future__ import annotations

from dataclasses import dataclass

from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT
from mcp_types import Implementation, LoggingLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """The SDK session's callbacks of one holder; what is None is declined in the server's direction.

    `log_level` asks a 2026-07-28 server for log notifications of this holder's
    calls.  `answer_input_requests` False hands a 2026-07-28 server's
    `InputRequiredResult` to a caller that passes `allow_input_required=True`
    instead of answering it from these callbacks.
    """

    sampling: SamplingFnT | None = None
    elicitation: ElicitationFnT | None = None
    list_roots: ListRootsFnT | None = None
    logging: LoggingFnT | None = None
    message_handler: MessageHandlerFnT | None = None
    log_level: LoggingLevel | None = None
    client_info: Implementation | None = None
    answer_input_requests: bool = True
