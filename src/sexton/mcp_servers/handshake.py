"""Which protocol era a server speaks, found out on a live session.

Follows the MCP specification's rule for clients of both eras: ask
`server/discover`; whatever is not positive evidence of a 2026-07-28 server
means `initialize`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import anyio
from mcp import ClientSession, MCPError
from mcp_types import (
    UNSUPPORTED_PROTOCOL_VERSION,
    DiscoverResult,
    UnsupportedProtocolVersionErrorData,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from sexton.mcp_servers.server_errors import CallTimedOut

Protocol = Literal["auto", "legacy", "2026-07-28"]

PROBE_PATIENCE: Final = 5.0
"""Seconds to wait for the answer to `server/discover` before trying `initialize` as well.

Some old servers never answer what they do not know; a server that only starts
slowly loses nothing, because it is asked again when it refuses `initialize`.
"""

DISCOVER: Final = "server/discover"
INITIALIZE: Final = "initialize"


async def shake_hands(session: ClientSession, protocol: Protocol) -> bool:
    """Do the handshake on an entered `session`.

    Return whether the server left `server/discover` unanswered, so that it is
    better not asked again.

    Raises:
        MCPError: the server refused, or shares no version with us.
        ServerDied: it ended instead.
        CallTimedOut: it did not answer.
        InvalidAnswer: it answered `initialize` with something else.
    """
    if protocol == "auto":
        return await _find_era(session)
    await (session.initialize() if protocol == "legacy" else session.discover())
    return False


async def _find_era(session: ClientSession) -> bool:
    version = LATEST_MODERN_VERSION
    for may_ask_again in (True, False):
        answer = await _probe(session, version)
        if isinstance(answer, DiscoverResult):
            session.adopt(answer)
            return False
        offered = [] if answer is None else _offered_versions(answer)
        if (mutual := _mutual(offered)) and may_ask_again:
            version = mutual
            continue
        if answer is not None and offered and not any(each in HANDSHAKE_PROTOCOL_VERSIONS for each in offered):
            raise answer
        try:
            await session.initialize()
        except MCPError as refusal:
            # After a slow start: the question that we no longer waited for has settled the era.
            mutual = _mutual(_offered_versions(refusal))
            if not may_ask_again or not (mutual or answer is None):
                raise
            version = mutual or version
        else:
            return answer is None
    raise AssertionError("the second round returns or raises")


async def _probe(session: ClientSession, version: str) -> DiscoverResult | MCPError | None:
    """Ask `server/discover`.  Return None when there is no answer in time, or one that says nothing."""
    raw: dict[str, Any] | None = None
    with anyio.move_on_after(PROBE_PATIENCE):
        try:
            raw = await session.send_discover(version)
        except MCPError as refusal:
            return refusal
        except CallTimedOut:
            return None
    return None if raw is None else _modern(raw)


def _modern(raw: dict[str, Any]) -> DiscoverResult | None:
    try:
        result = DiscoverResult.model_validate(raw)
    except ValidationError:
        return None
    return result if _mutual(result.supported_versions) else None


def _offered_versions(error: MCPError) -> list[str]:
    if error.code != UNSUPPORTED_PROTOCOL_VERSION:
        return []
    try:
        return UnsupportedProtocolVersionErrorData.model_validate(error.error.data).supported
    except ValidationError:
        return []


def _mutual(offered: list[str]) -> str | None:
    return next((version for version in reversed(MODERN_PROTOCOL_VERSIONS) if version in offered), None)
