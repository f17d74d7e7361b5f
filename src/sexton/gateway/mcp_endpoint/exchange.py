"""One request of one client, as those see it who answer it."""

from __future__ import annotations

from typing import Any, Protocol

from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import Params


class Exchange(Protocol):
    """Knows who asks, in which view of the servers, and how the question gets to one of them."""

    @property
    def view(self) -> View: ...

    async def forward(self, server: str, method: str, params: Params | None) -> dict[str, Any]:
        """Send a request to a server on behalf of the client; the result is in the client's era.

        What the server says or asks meanwhile goes to the client.  Raises MCPError.
        """
        ...
