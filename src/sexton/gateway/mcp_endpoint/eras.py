"""What has to be changed of a message on its way between the eras of the protocol (pure).

The handshake era ends with 2025-11-25; from 2026-07-28 on every request
carries an envelope in `_meta` and every result says what it is (`resultType`)
and, for what may be cached, for how long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_PARAMS,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)
from mcp_types.methods import CACHEABLE_METHODS

from sexton.gateway.mcp_endpoint.wire import Params

_ENVELOPE: Final = (
    PROTOCOL_VERSION_META_KEY,
    CLIENT_INFO_META_KEY,
    CLIENT_CAPABILITIES_META_KEY,
    LOG_LEVEL_META_KEY,
)
_MODERN_RESULT: Final = ("resultType", "ttlMs", "cacheScope")
_RESOURCE_NOT_FOUND: Final = -32002
"""The handshake era's code; 2026-07-28 says invalid params (SEP-2164)."""

UNCACHED: Final = {"ttlMs": 0, "cacheScope": "private"}


def legacy_params(params: Params | None) -> dict[str, Any] | None:
    """Return the parameters of a 2026-07-28 request as an older server knows them."""
    if params is None:
        return None
    kept = {name: value for name, value in params.items() if name not in ("inputResponses", "requestState")}
    meta = {name: value for name, value in (params.get("_meta") or {}).items() if name not in _ENVELOPE}
    if meta:
        return {**kept, "_meta": meta}
    kept.pop("_meta", None)
    return kept


def modern_params(params: Params | None, log_level: str) -> dict[str, Any]:
    """Return the parameters of a request of the handshake era as a 2026-07-28 server knows them.

    The rest of the envelope comes from the session.  Log messages were sent
    unasked in the older era, so they are asked for here.
    """
    meta = {**((params or {}).get("_meta") or {}), LOG_LEVEL_META_KEY: log_level}
    return {**(params or {}), "_meta": meta}


def legacy_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a 2026-07-28 server as an older client knows it."""
    kept = {name: value for name, value in result.items() if name not in _MODERN_RESULT}
    meta = kept.get("_meta")
    if isinstance(meta, Mapping) and SERVER_INFO_META_KEY in meta:
        meta = {name: value for name, value in meta.items() if name != SERVER_INFO_META_KEY}
        if meta:
            kept["_meta"] = meta
        else:
            del kept["_meta"]
    return kept


def modern_result(method: str, result: Mapping[str, Any], server_info: Params) -> dict[str, Any]:
    """Return the result of an older server, or of ours, as a 2026-07-28 client wants it."""
    meta = result.get("_meta")
    meta = {**meta} if isinstance(meta, Mapping) else {}
    meta.setdefault(SERVER_INFO_META_KEY, server_info)
    cache = UNCACHED if method in CACHEABLE_METHODS else {}
    return {**cache, "resultType": "complete", **result, "_meta": meta}


def modern_error(method: str, error: MCPError) -> MCPError:
    """Return the error of an older server as a 2026-07-28 client knows it."""
    if method == "resources/read" and error.error.code == _RESOURCE_NOT_FOUND:
        return MCPError(INVALID_PARAMS, error.error.message, error.error.data)
    return error


def is_input_required(result: Mapping[str, Any]) -> bool:
    """Say whether a 2026-07-28 server wants something of the client first."""
    return result.get("resultType") == "input_required"
