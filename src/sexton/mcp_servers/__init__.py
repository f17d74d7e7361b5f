"""MCP servers: how they are defined, started, shared, called and ended.

Owns the connection to each server and who may use it when.  Promises that a
server is started on first need, that whoever uses it gives it back exactly
once, and that it is ended, with its whole process tree, when its time has
come.  What a call is for, and when it is made, is the business of the layers
above; that no process survives is the promise of `sexton.containment`.
"""

from __future__ import annotations

from sexton.mcp_servers.server_config import HttpServer, ServerConfig, Sharing, StdioServer, ToolFilter

__all__ = [
    "HttpServer",
    "ServerConfig",
    "Sharing",
    "StdioServer",
    "ToolFilter",
]
