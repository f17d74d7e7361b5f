"""What one holder of a server wants to hear, and what it can answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT
from mcp_types import Implementation, LoggingLevel

from sexton import __version__
from sexton.mcp_servers.peer import Peer, polite_refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """The SDK session's callbacks of one holder; what is None is declined in the server's direction.

    `log_level` asks a 2026-07-28 server for log notifications of this holder's
    calls.  `answer_input_requests` False hands a 2026-07-28 server's
    `InputRequiredResult` to a caller that passes `allow_input_required=True`
    instead of answering it from these callbacks.

    `peer` is a client of somebody else, to which everything passes as it is;
    with it, no other field counts.
    """

    sampling: SamplingFnT | None = None
    elicitation: ElicitationFnT | None = None
    list_roots: ListRootsFnT | None = None
    logging: LoggingFnT | None = None
    message_handler: MessageHandlerFnT | None = None
    log_level: LoggingLevel | None = None
    client_info: Implementation | None = None
    answer_input_requests: bool = True
    peer: Peer | None = None


@final
class _AnyHolder:
    """Stands for all the holders that a process will have, when it is told at its start what its client can do."""

    owner = None
    client_info: Mapping[str, Any] = {"name": "sexton", "version": __version__}
    capabilities: Mapping[str, Any] = {
        "sampling": {},
        "elicitation": {"form": {}, "url": {}},
        "roots": {"listChanged": True},
    }

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        del params
        return polite_refusal(method)

    def hear(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Nothing is for all of them."""


ANY_HOLDER: Final = Callbacks(peer=_AnyHolder())
"""What a shared process of the older protocols is opened with: some of its holders can answer, others decline.

See `polite_refusal` for how they do.
"""
