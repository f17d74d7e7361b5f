"""Which protocol era a server speaks, found out on a live session.

Follows the MCP specification's rule for clients of both eras: ask
`server/discover`; whatever is not positive evidence of a 2026-07-28 server
means `initialize`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

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

DISCOVER: Final = "server/discover"
INITIALIZE: Final = "initialize"


async def shake_hands(session: ClientSession, protocol: Protocol) -> None:
    """Do the handshake on an entered `session`.

    Raises:
        MCPError: the server refused, or shares no version with us.
        ServerDied: it ended instead.
        CallTimedOut: it did not answer.
    """
    if protocol == "legacy":
        await session.initialize()
    elif protocol == "auto":
        await _find_era(session)
    else:
        await session.discover()


async def _find_era(session: ClientSession) -> None:
    version = LATEST_MODERN_VERSION
    for may_ask_again in (True, False):
        try:
            found = _modern(await session.send_discover(version))
        except CallTimedOut:
            found = None
        except MCPError as error:
            offered = _offered_versions(error)
            if (mutual := _mutual(offered)) and may_ask_again:
                version = mutual
                continue
            if offered and not any(each in HANDSHAKE_PROTOCOL_VERSIONS for each in offered):
                raise
            found = None
        if found is not None:
            session.adopt(found)
            return
        try:
            await session.initialize()
        except MCPError as error:
            # A slow start: our question was answered after we stopped waiting, which settled
            # the era; the refusal of `initialize` names the versions to ask for.
            mutual = _mutual(_offered_versions(error))
            if not (mutual and may_ask_again):
                raise
            version = mutual
        else:
            return


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
