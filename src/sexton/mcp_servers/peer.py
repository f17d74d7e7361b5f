"""A client that somebody else runs and that uses a server through us: what passes to it, passes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from mcp import MCPError
from mcp_types import INVALID_REQUEST


class Peer(Protocol):
    """One holder's side of what a server says by itself; everything is JSON, unchecked."""

    @property
    def owner(self) -> str | None:
        """Whom it acts for, if others act for them as well: what one of them is asked is no secret to the others."""
        ...

    @property
    def client_info(self) -> Mapping[str, Any]:
        """Its name and version (MCP: Implementation)."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it can answer (MCP: ClientCapabilities)."""
        ...

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Answer a request of the server.  Cancelled when the server no longer wants it.  Raises MCPError."""
        ...

    def hear(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Take a notification.  Called in the order in which the server sent them, before the answer that follows."""
        ...


QUESTIONS: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a server may ask of a client, and the capability that the client needs for it."""


def polite_refusal(method: str) -> dict[str, Any]:
    """Answer a server for a holder that cannot.

    A server of the older protocols is told once for all its holders what its
    client can do; most holders (jobs above all) cannot.  Whom nobody can ask,
    declines; who has no roots, has an empty list of them.

    Raises:
        MCPError: there is no answer that says it, as for sampling.
    """
    match method:
        case "elicitation/create":
            return {"action": "decline"}
        case "roots/list":
            return {"roots": []}
        case _:
            raise MCPError(INVALID_REQUEST, f"sexton declines {method}: the caller cannot answer it")
