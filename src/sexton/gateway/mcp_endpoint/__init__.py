"""All MCP servers as one, over Streamable HTTP, in both eras of the protocol.

Owns the clients of the endpoint: their sessions, their calls under way, what
they have subscribed to, and which servers they hold at the moment.  Promises
that a client of either era can use a server of either era; that what a server
asks or tells reaches the client whose call caused it, or is declined; that a
client that goes takes its calls with it and disturbs nobody; and that one that
does nothing keeps no server alive.  Starting and sharing servers is the
business of `sexton.mcp_servers`, who may come in that of `sexton.gateway.http`.

Of messages only what has to be understood is; the rest passes as it is.
"""

from __future__ import annotations

from sexton.gateway.mcp_endpoint.endpoint import Endpoint
from sexton.gateway.mcp_endpoint.endpoint_settings import EndpointSettings, Profile

__all__ = ["Endpoint", "EndpointSettings", "Profile"]
