"""The HTTP API under `/api/v1`, on a loopback address.

Owns the routes (`app.py`, one table), who may call them (`auth.py`), the form of documents and errors, and the server.
Promises: no answer without the token; every error is a problem document; a client that goes away ends its own call and
nobody else's; closing the server waits for nobody for ever.
"""

from __future__ import annotations

from sexton.gateway.http.app import create_app
from sexton.gateway.http.auth import Gate, load_token
from sexton.gateway.http.caller import OWNER, Caller, Scope, caller_of
from sexton.gateway.http.calls import call_document, require_tool
from sexton.gateway.http.endpoint import Endpoint, WayIn
from sexton.gateway.http.limits import HttpLimits
from sexton.gateway.http.listening import Listening, is_loopback, is_network
from sexton.gateway.http.login import login_path
from sexton.gateway.http.logins import Logins
from sexton.gateway.http.metrics import Metrics
from sexton.gateway.http.nodes import tree_summary
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.server import reserved_port, serve_http
from sexton.gateway.http.servers import check_document, server_document, tool_document
from sexton.gateway.http.tokens import Tokens

__all__ = [
    "OWNER",
    "Caller",
    "Endpoint",
    "Gate",
    "Gateway",
    "HttpLimits",
    "Listening",
    "Logins",
    "Metrics",
    "Scope",
    "Tokens",
    "WayIn",
    "call_document",
    "caller_of",
    "check_document",
    "create_app",
    "is_loopback",
    "is_network",
    "load_token",
    "login_path",
    "require_tool",
    "reserved_port",
    "serve_http",
    "server_document",
    "tool_document",
    "tree_summary",
]
