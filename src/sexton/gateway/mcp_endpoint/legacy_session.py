"""One client of the handshake era (2024-11-05 to 2025-11-25), from `initialize` to its end."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR
from mcp_types.version import is_version_at_least

from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.call_audit import CallAudit
from sexton.gateway.mcp_endpoint.event_channel import EventChannel
from sexton.gateway.mcp_endpoint.event_trail import KEPT_BYTES
from sexton.gateway.mcp_endpoint.forwarding import forward_from_legacy
from sexton.gateway.mcp_endpoint.holding import ClientPeer, Holding, release_quietly
from sexton.gateway.mcp_endpoint.reply import Reply
from sexton.gateway.mcp_endpoint.subscriptions import follow_resource
from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import Message, Params, meta_of, notification, plain_name, request, rpc_error
from sexton.mcp_servers import ServerPool

_log = logging.getLogger(__name__)

KEPT_STREAMS: Final = 16
"""Answers of a session that were streams, and that its client can come back for."""


@final
class LegacySession:
    """What is known of the client, the calls it has under way, and the servers it holds."""

    def __init__(
        self,
        pool: ServerPool,
        view: Callable[[], View],
        *,
        view_key: str,
        owner: str,
        version: str,
        client_info: Params,
        capabilities: Params,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        audit: CallAudit,
    ) -> None:
        self.audit = audit
        self.id = secrets.token_urlsafe(24)
        self.view_key = view_key
        self.owner = owner
        self.version = version
        self.client_info = client_info
        self.capabilities = capabilities
        self.holder = f"mcp:{plain_name(client_info.get('name'))}-{secrets.token_hex(3)}"
        self.log_level: str | None = None
        self.channel = EventChannel()
        self.used_at = clock.monotonic()
        self.ended = False
        self._pool = pool
        self._view = view
        self._clock = clock
        self._tasks = tasks
        self._holdings: dict[str, Holding] = {}
        self._calls: dict[Any, anyio.CancelScope] = {}
        self._questions: dict[str, _Question] = {}
        self._numbers = itertools.count(1)
        self._followed: dict[str, anyio.CancelScope] = {}
        self._streams: dict[str, Reply] = {}

    @property
    def view(self) -> View:
        """The servers that it sees, by the present configuration.  Raises MCPError if there are none of that name."""
        return self._view()

    @property
    def is_busy(self) -> bool:
        """Whether it has calls under way or listens, so that it is not abandoned."""
        return bool(self._calls) or self.channel.is_open

    def touch(self) -> None:
        """Something was heard of it."""
        self.used_at = self._clock.monotonic()

    # Calls

    @contextmanager
    def calling(self, request_id: object, scope: anyio.CancelScope) -> Iterator[None]:
        """A call is under way; `scope` is cancelled when the client cancels it."""
        self._calls[request_id] = scope
        try:
            yield
        finally:
            if self._calls.get(request_id) is scope:
                del self._calls[request_id]
            self.touch()

    def cancel_call(self, request_id: object) -> None:
        """The client no longer wants the answer."""
        if isinstance(request_id, str | int) and (scope := self._calls.get(request_id)) is not None:
            scope.cancel()

    # Streams that the client can come back for

    @property
    def takes_empty_events(self) -> bool:
        """See `Resumable`; older clients fail on them."""
        return is_version_at_least(self.version, "2025-11-25")

    def keep_stream(self, reply: Reply) -> str:
        """See `Resumable`.  The oldest that are over make room."""
        over = [name for name, each in self._streams.items() if not each.is_open]
        while over and (len(self._streams) >= KEPT_STREAMS or self._kept_bytes() > KEPT_BYTES):
            del self._streams[over.pop(0)]
        name = str(next(self._numbers))
        self._streams[name] = reply
        return f"{name}-"

    def stream(self, name: str) -> Reply | None:
        """Return the answer whose stream has that name, if it is kept."""
        return self._streams.get(name)

    def _kept_bytes(self) -> int:
        return sum(each.trail.size for each in self._streams.values() if each.trail is not None)

    # Questions to the client

    async def ask(self, reply: Reply | None, method: str, params: Params | None) -> dict[str, Any]:
        """Put a question to the client, on the stream of the call that caused it, and wait.  Raises MCPError."""
        question_id = f"sexton-{next(self._numbers)}"
        question = self._questions[question_id] = _Question()
        say = reply.push if reply is not None and reply.is_open else self.channel.push
        say(request(question_id, method, params))
        try:
            await question.answered.wait()
        except anyio.get_cancelled_exc_class():
            say(notification("notifications/cancelled", {"requestId": question_id}))
            raise
        finally:
            del self._questions[question_id]
        return question.result()

    def take_answer(self, message: Message) -> None:
        """The client has answered one of our questions; an answer that nobody waits for is dropped."""
        question = self._questions.get(str(message.get("id")))
        if question is not None:
            question.message = message
            question.answered.set()

    # Servers

    def holding(self, server: str) -> Holding:
        """Return its use of a server."""
        if (held := self._holdings.get(server)) is None:
            peer = ClientPeer(self.client_info, self.capabilities, _Aside(self), token=self.owner)
            held = self._holdings[server] = Holding(
                self._pool,
                server,
                holder=self.holder,
                allow=self.view.filters.get(server),
                peer=peer,
                clock=self._clock,
            )
        return held

    def tell_roots_changed(self) -> None:
        """The client has other roots now: the servers that it uses should know."""
        for holding in self._holdings.values():
            if holding.is_held:
                self._tasks.start_soon(holding.notify, "notifications/roots/list_changed")

    async def subscribe(self, server: str, uri: str) -> None:
        """Let the client hear when a resource changes.  Raises MCPError."""
        if uri in self._followed:
            return
        scope = self._followed[uri] = anyio.CancelScope()
        try:
            failure = await self._tasks.start(self._follow, self.holding(server), uri, scope)
        except BaseException:
            self._followed.pop(uri, None)
            scope.cancel()
            raise
        if failure is not None:
            self._followed.pop(uri, None)
            raise failure

    def unsubscribe(self, uri: str) -> None:
        """No longer."""
        if (scope := self._followed.pop(uri, None)) is not None:
            scope.cancel()

    async def release_idle(self, before: float) -> None:
        """Give back the servers that were not used since `before`."""
        for holding in tuple(self._holdings.values()):
            if (since := holding.idle_since()) is not None and since <= before:
                await release_quietly(holding)

    async def end(self) -> None:
        """Cancel its calls and give everything back."""
        self.ended = True
        for scope in (*self._calls.values(), *self._followed.values()):
            scope.cancel()
        for question in self._questions.values():
            question.message = {"error": {"code": CONNECTION_CLOSED, "message": "the client has left"}}
            question.answered.set()
        self.channel.close()
        self._streams.clear()
        for holding in tuple(self._holdings.values()):
            await release_quietly(holding)
        self._pool.farewell(self.holder)

    async def _follow(
        self,
        holding: Holding,
        uri: str,
        scope: anyio.CancelScope,
        *,
        task_status: anyio.abc.TaskStatus[MCPError | None],
    ) -> None:
        """Follow a resource; started with None once the server agreed, or with the reason why not."""
        told = False

        def tell(outcome: MCPError | None = None) -> None:
            nonlocal told
            if not told:
                told = True
                task_status.started(outcome)

        try:
            with scope:
                await follow_resource(holding, uri, self._tell_updated, on_agreed=tell)
        except MCPError as error:
            tell(error)
        except SextonError as error:
            tell(rpc_error(error))
        except Exception:  # noqa: BLE001 - the outermost edge of a task
            _log.exception("following %s of server %r failed", uri, holding.server)
        finally:
            if self._followed.get(uri) is scope:
                del self._followed[uri]
            tell(MCPError(INTERNAL_ERROR, "the subscription was given up"))

    def _tell_updated(self, uri: str) -> None:
        self.channel.push(notification("notifications/resources/updated", {"uri": uri}))


@final
class LegacyCall:
    """One request of such a client: an `Exchange` for those who answer it, a `Sink` for what servers say meanwhile."""

    def __init__(self, session: LegacySession, reply: Reply, params: Params | None) -> None:
        self.session = session
        self.view = session.view
        self.token: object = meta_of(params).get("progressToken")
        self._reply = reply

    async def forward(self, server: str, method: str, params: Params | None) -> dict[str, Any]:
        """See `Exchange`."""
        session = self.session
        try:
            async with session.holding(server).using(self, log_level=session.log_level) as lease:
                answer = forward_from_legacy(
                    lease, self, method, params, log_level=session.log_level, capabilities=session.capabilities
                )
                return await session.audit.of(session.owner, server, method, params, answer)
        except SextonError as error:
            raise rpc_error(error) from error

    def tell(self, method: str, params: Params | None) -> None:
        """Say it on the stream of this call."""
        if self._reply.is_open:
            self._reply.push(notification(method, params))

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """Ask on the stream of this call."""
        return await self.session.ask(self._reply, method, params)


@final
class _Aside:
    """For what a server says while no call of the client is under way."""

    token = None

    def __init__(self, session: LegacySession) -> None:
        self._session = session

    def tell(self, method: str, params: Params | None) -> None:
        self._session.channel.push(notification(method, params))

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        return await self._session.ask(None, method, params)


@final
class _Question:
    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.message: Message = {}

    def result(self) -> dict[str, Any]:
        result, error = self.message.get("result"), self.message.get("error")
        if isinstance(result, dict):
            return result
        if isinstance(error, Mapping) and isinstance(error.get("code"), int):
            raise MCPError(error["code"], str(error.get("message")), error.get("data"))
        raise MCPError(INTERNAL_ERROR, "the client's answer is none")
