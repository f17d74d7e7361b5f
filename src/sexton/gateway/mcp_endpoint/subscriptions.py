"""Hearing of changes of one resource, whatever era its server speaks."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.lowlevel
from mcp import MCPError
from mcp.client.subscriptions import ListenNotSupportedError, ResourceUpdated, SubscriptionLost, listen

from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.holding import Holding
from sexton.mcp_servers import Lease

_log = logging.getLogger(__name__)

_FAREWELL: float = 2.0


async def follow_resource(
    holding: Holding,
    uri: str,
    tell: Callable[[str], None],
    *,
    on_agreed: Callable[[], None],
) -> None:
    """Call `tell` with the address of what changed, until cancelled; `on_agreed` once the server has agreed.

    The server is held for as long.  When its process ends it is started again,
    and `tell` is called, since nobody knows what changed meanwhile.  An older
    server's news come to the holding's own client, not through `tell`.

    Raises:
        MCPError, SextonError: the server did not agree, or could not be had.
    """
    again = False
    while True:
        async with holding.using(None) as lease:
            if again:
                tell(uri)
            try:
                if lease.introduction.is_modern:
                    await _follow_modern(lease, uri, tell, on_agreed)
                else:
                    await _follow_legacy(lease, uri, on_agreed)
            except SubscriptionLost:
                await anyio.lowlevel.checkpoint()
        again = True


async def keep_following(holding: Holding, uri: str, tell: Callable[[str], None], agreed: anyio.Event) -> None:
    """As `follow_resource`, but a failure ends it and is logged; `agreed` is set once the server has agreed."""
    try:
        await follow_resource(holding, uri, tell, on_agreed=agreed.set)
    except (MCPError, SextonError, ListenNotSupportedError) as error:
        _log.info("no more news of %s of server %r: %s", uri, holding.server, error)
    except Exception:  # noqa: BLE001 - the outermost edge of a task
        _log.exception("following %s of server %r failed", uri, holding.server)


async def _follow_modern(lease: Lease, uri: str, tell: Callable[[str], None], on_agreed: Callable[[], None]) -> None:
    async with listen(lease.session, resource_subscriptions=[uri]) as changes:
        on_agreed()
        async for change in changes:
            if isinstance(change, ResourceUpdated):
                tell(change.uri)


async def _follow_legacy(lease: Lease, uri: str, on_agreed: Callable[[], None]) -> None:
    await lease.forward("resources/subscribe", {"uri": uri})
    try:
        on_agreed()
        await lease.connection.server.ended.wait()
    finally:
        with anyio.move_on_after(_FAREWELL, shield=True):
            await _unsubscribe(lease, uri)


async def _unsubscribe(lease: Lease, uri: str) -> None:
    try:
        if not lease.is_over:
            await lease.forward("resources/unsubscribe", {"uri": uri})
    except (MCPError, SextonError) as error:
        _log.debug("could not unsubscribe from %s: %s", uri, error)
