"""The use of one server by one client of the endpoint.

A lease is taken when the client first needs the server and given back when it
has not used it for a while, so that a client that does nothing keeps no server
alive, and one that does much does not ask for a lease at every call.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, final

import anyio
from mcp import MCPError

from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.wire import Params
from sexton.mcp_servers import QUESTIONS, Callbacks, Lease, ServerPool, ToolFilter, polite_refusal

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where what a server says during one call goes: to the client that made the call."""

    @property
    def token(self) -> object:
        """The progress token of the call; None if the client wants no progress."""
        ...

    def tell(self, method: str, params: Params | None) -> None:
        """Pass a notification on."""
        ...

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """Pass a question on and wait for the answer.  Raises MCPError."""
        ...


@final
class ClientPeer:
    """A client's side of one server: what the server says goes to the call that caused it.

    That is the call whose progress token it names, else the latest one under
    way, else whatever the client has for what belongs to no call (`otherwise`).
    """

    def __init__(self, client_info: Params, capabilities: Params, otherwise: Sink | None, *, token: str) -> None:
        self.owner: str | None = f"token:{token}"
        self.client_info: Mapping[str, Any] = client_info
        self.capabilities: Mapping[str, Any] = capabilities
        self.missing: str | None = None
        """The capability that a server asked for in vain, and could not be given a polite answer about."""
        self._otherwise = otherwise
        self._calls: list[Sink] = []

    def forget_missing(self) -> None:
        """Another call begins."""
        self.missing = None

    def begin(self, call: Sink) -> None:
        """`call` is under way from here on."""
        self._calls.append(call)

    def end(self, call: Sink) -> None:
        """It no longer is."""
        self._calls.remove(call)

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """Put a server's question to the client; one that cannot answer declines."""
        sink = self._latest()
        needed = QUESTIONS.get(method)
        if sink is not None and needed in self.capabilities:
            return await sink.ask(method, params)
        try:
            return polite_refusal(method)
        except MCPError:
            self.missing = needed
            raise

    def hear(self, method: str, params: Params | None) -> None:
        """Pass on what a server says."""
        if method.endswith("/list_changed"):
            return  # told to every client by `changes`, whether it uses the server now or not
        sink = self._latest()
        if method == "notifications/progress":
            token = (params or {}).get("progressToken")
            sink = next((call for call in self._calls if call.token == token), None)
        elif method == "notifications/resources/updated":
            sink = self._otherwise
        if sink is not None:
            sink.tell(method, params)

    def _latest(self) -> Sink | None:
        return self._calls[-1] if self._calls else self._otherwise


@final
class Holding:
    """One client's lease on one server, there when it is needed."""

    def __init__(
        self,
        pool: ServerPool,
        server: str,
        *,
        holder: str,
        allow: ToolFilter | None,
        peer: ClientPeer,
        clock: Clock,
    ) -> None:
        self.server = server
        self.peer = peer
        self._pool = pool
        self._holder = holder
        self._allow = allow
        self._clock = clock
        self._users = 0
        self._used_at = -math.inf
        self._lease: Lease | None = None
        self._context: AbstractAsyncContextManager[Lease] | None = None
        self._taking = anyio.Lock()
        self._log_level: str | None = None

    @asynccontextmanager
    async def using(self, call: Sink | None, *, log_level: str | None = None) -> AsyncIterator[Lease]:
        """Use the server for `call`, or for something that is no call (None).

        `log_level` is what the client wants to hear of an older server.

        Raises what `ServerPool.lease` raises.
        """
        self._users += 1
        if call is not None:
            self.peer.begin(call)
        try:
            lease = self._lease
            if lease is None or lease.is_over:
                lease = await self._take()
            if log_level != self._log_level:
                await self._set_log_level(lease, log_level)
            yield lease
        finally:
            if call is not None:
                self.peer.end(call)
            self._users -= 1
            self._used_at = self._clock.monotonic()

    def idle_since(self) -> float | None:
        """Return since when the lease is not used; None when it is, or there is none."""
        return None if self._lease is None or self._users else self._used_at

    @property
    def is_held(self) -> bool:
        """Whether there is a lease."""
        return self._lease is not None

    async def notify(self, method: str) -> None:
        """Tell the server something of the client, if it is held."""
        if self._lease is not None and not self._lease.is_over:
            await self._lease.notify(method)

    async def release(self) -> None:
        """Give the lease back; the next use takes another one."""
        context, self._context, self._lease, self._log_level = self._context, None, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def _take(self) -> Lease:
        async with self._taking:
            if self._lease is not None and not self._lease.is_over:
                return self._lease
            await self.release()
            context = self._pool.lease(
                self.server, holder=self._holder, allow=self._allow, callbacks=Callbacks(peer=self.peer)
            )
            self._lease = await context.__aenter__()
            self._context = context
            return self._lease

    async def _set_log_level(self, lease: Lease, level: str | None) -> None:
        """An older server has one level for its client; the pool asks it for the most talkative of its holders."""
        self._log_level = level
        introduction = lease.introduction
        if level is None or introduction.is_modern or not introduction.has("logging"):
            return
        try:
            await lease.forward("logging/setLevel", {"level": level})
        except MCPError as error:
            _log.info("server %r takes no log level: %s", self.server, error)


async def release_quietly(holding: Holding) -> None:
    """Release at the end of a client, when there is nobody to tell of a failure."""
    try:
        await holding.release()
    except SextonError:
        return
