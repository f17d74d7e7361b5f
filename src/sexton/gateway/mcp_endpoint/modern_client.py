"""One client of 2026-07-28, whose requests have nothing to do with each other; and one such request.

No session says which requests come from the same client.  Those with the same
token and the same name in their envelope count as one, unless the client says
more: `sexton mcp` names itself in the header `Sexton-Client`, once for each
process of it.  It matters for exclusive servers, which give one process to
each client.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import anyio.abc
from mcp import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
)

from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.call_audit import CallAudit
from sexton.gateway.mcp_endpoint.forwarding import forward_from_modern
from sexton.gateway.mcp_endpoint.holding import ClientPeer, Holding, Sink, release_quietly
from sexton.gateway.mcp_endpoint.parked import ParkedCall, ParkedCalls
from sexton.gateway.mcp_endpoint.reply import Reply
from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import LOG_LEVELS, Params, meta_of, notification, plain_name, rpc_error
from sexton.mcp_servers import QUESTIONS, ServerPool

MAY_NEED_INPUT: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The requests that can be answered with what is missing."""


@final
class ModernClient:
    """The servers that it holds.  Each call has a holding to itself, so that what a server asks is about that call."""

    def __init__(self, pool: ServerPool, *, owner: str, key: str, name: str, clock: Clock, audit: CallAudit) -> None:
        self.audit = audit
        digest = hashlib.sha256(key.encode()).hexdigest()[:6]
        self.owner = owner
        self.key = key
        self.holder = f"mcp:{plain_name(name)}-{digest}"
        self.used_at = clock.monotonic()
        self._requests = 0
        self._pool = pool
        self._clock = clock
        self._free: dict[tuple[str, str, str], list[tuple[Holding, ClientPeer]]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a request of it is under way."""
        return self._requests > 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A request of it is under way."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self.used_at = self._clock.monotonic()

    @contextmanager
    def borrowed(self, server: str, view: View, info: Params, capabilities: Params) -> Iterator[Holding]:
        """A holding that nobody else uses meanwhile."""
        key = (server, view.key, json.dumps(capabilities, sort_keys=True) if capabilities else "")
        free = self._free.get(key)
        holding, peer = free.pop() if free else self.make_holding(server, view, info, capabilities)
        try:
            yield holding
        finally:
            self._free.setdefault(key, []).append((holding, peer))

    def make_holding(
        self, server: str, view: View, info: Params, capabilities: Params, otherwise: Sink | None = None
    ) -> tuple[Holding, ClientPeer]:
        """Return a holding, and the client as the server sees it."""
        peer = ClientPeer(info, capabilities, otherwise, token=self.owner)
        holding = Holding(
            self._pool, server, holder=self.holder, allow=view.filters.get(server), peer=peer, clock=self._clock
        )
        return holding, peer

    async def release_idle(self, before: float) -> None:
        """Give back the servers that were not used since `before`."""
        for key, free in tuple(self._free.items()):
            for pair in tuple(free):
                if pair not in free:  # somebody has borrowed it meanwhile
                    continue
                since = pair[0].idle_since()
                if since is None or since <= before:
                    free.remove(pair)
                    await release_quietly(pair[0])
            if not free and not self._free.get(key):
                self._free.pop(key, None)

    async def end(self) -> None:
        """It has not been heard of for long: give everything back."""
        for free in tuple(self._free.values()):
            for holding, _ in tuple(free):
                await release_quietly(holding)
        self._free.clear()
        self._pool.farewell(self.holder)


@final
class ModernCall:
    """One request: an `Exchange` for those who answer it, and a `Sink` for what servers say meanwhile."""

    def __init__(
        self,
        client: ModernClient,
        view: View,
        reply: Reply,
        params: Params,
        *,
        parked: ParkedCalls,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        meta = meta_of(params)
        self.view = view
        self.client = client
        self.token: object = meta.get("progressToken")
        self.log_level: object = meta.get(LOG_LEVEL_META_KEY)
        info, capabilities = meta.get(CLIENT_INFO_META_KEY), meta.get(CLIENT_CAPABILITIES_META_KEY)
        self.client_info: Params = info if isinstance(info, dict) else {"name": "unknown", "version": ""}
        self.capabilities: Params = capabilities if isinstance(capabilities, dict) else {}
        self._reply = reply
        self._meta = meta
        self._parked = parked
        self._tasks = tasks

    async def forward(self, server: str, method: str, params: Params | None) -> dict[str, Any]:
        """See `Exchange`."""
        asked = params if params and "_meta" in params else {**(params or {}), "_meta": dict(self._meta)}
        if method not in MAY_NEED_INPUT or not any(name in self.capabilities for name in QUESTIONS.values()):
            return await self._make(self, server, method, asked)
        call = ParkedCall(self.client.key, self.token)

        async def make(sink: ParkedCall) -> dict[str, Any]:
            return await self._make(sink, server, method, asked)

        self._tasks.start_soon(call.run, make)
        return await self._next_round(call)

    async def resume(self, params: Params) -> dict[str, Any]:
        """Go on with a call that waited for the client's input.  Raises MCPError."""
        call = self._parked.take(params.get("requestState"), self.client.key)
        responses = params.get("inputResponses")
        call.take_responses(responses if isinstance(responses, dict) else {})
        return await self._next_round(call)

    def tell(self, method: str, params: Params | None) -> None:
        """Say it on the stream of this request; log messages only from the level that was asked for."""
        if method == "notifications/message" and not self._wants((params or {}).get("level")):
            return
        self._reply.push(notification(method, params))

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """Only a call that can be parked is asked: this client can answer nothing."""
        del params
        raise MCPError(-32600, f"sexton declines {method}: the client cannot answer it in this request")

    async def _next_round(self, call: ParkedCall) -> dict[str, Any]:
        result = await call.next_round(self)
        if call.waits:
            self._parked.park(call)
        return result

    async def _make(self, sink: Sink, server: str, method: str, params: Params) -> dict[str, Any]:
        level = self.log_level if self.log_level in LOG_LEVELS else None
        try:
            with self.client.borrowed(server, self.view, self.client_info, self.capabilities) as holding:
                async with holding.using(sink, log_level=str(level) if level else None) as lease:
                    answer = _with_what_it_needs(holding.peer, forward_from_modern(lease, method, params))
                    return await self.client.audit.of(self.client.owner, server, method, params, answer)
        except SextonError as error:
            raise rpc_error(error) from error

    def _wants(self, level: object) -> bool:
        if self.log_level not in LOG_LEVELS:
            return False
        return level not in LOG_LEVELS or LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(str(self.log_level))


async def _with_what_it_needs(peer: ClientPeer, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer.  Raises MCPError; one that says so when the server asked for what the client cannot do.

    An older server asks before it knows; this era's client is told which capability to declare.
    """
    peer.forget_missing()
    try:
        result = await answer
    except MCPError as error:
        if (missing := peer.missing) is None:
            raise
        raise _missing(missing) from error
    if result.get("isError") and (missing := peer.missing) is not None:
        raise _missing(missing)
    return result


def _missing(capability: str) -> MCPError:
    data: dict[str, Any] = {"requiredCapabilities": {capability: {}}}
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, f"The server needs a client with {capability}.", data)
