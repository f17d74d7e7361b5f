"""What both eras share: the views, the clients, and what has to be done when time passes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp_types import CLIENT_INFO_META_KEY, INTERNAL_ERROR, INVALID_REQUEST

from sexton.clock import Clock
from sexton.gateway.mcp_endpoint.call_audit import CallAudit
from sexton.gateway.mcp_endpoint.endpoint_settings import EndpointSettings
from sexton.gateway.mcp_endpoint.legacy_session import LegacySession
from sexton.gateway.mcp_endpoint.methods import Methods
from sexton.gateway.mcp_endpoint.modern_client import ModernClient
from sexton.gateway.mcp_endpoint.offers import Offers
from sexton.gateway.mcp_endpoint.parked import ParkedCalls
from sexton.gateway.mcp_endpoint.reply import Reply
from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import Params, notification
from sexton.journal import Journal
from sexton.mcp_servers import ServerPool

_log = logging.getLogger(__name__)

TICK: Final = 1.0
"""Seconds between two looks at what is idle or overdue, as long as there is anything to look at."""


class Listener(Protocol):
    """Somebody who wants to hear of lists that changed."""

    @property
    def view(self) -> View: ...

    def list_changed(self, method: str) -> None: ...


@final
class Core:
    """Used within one event loop, while `run` runs."""

    def __init__(
        self,
        pool: ServerPool,
        settings: EndpointSettings,
        *,
        clock: Clock,
        journal: Journal | None,
        closing: anyio.Event,
        cutting_off: anyio.Event,
    ) -> None:
        self.settings = settings
        self.closing = closing
        self.cutting_off = cutting_off
        self.offers = Offers(pool)
        self.methods = Methods(self.offers, settings)
        self.audit = CallAudit(journal, clock=clock, changes=self.offers.may_change)
        self.audit.is_on = settings.audit
        self.parked = ParkedCalls(clock, settings.input_timeout)
        self.sessions: dict[str, LegacySession] = {}
        self.listeners: list[Listener] = []
        self.replies: set[Reply] = set()
        """The answers that are being made now."""
        self._pool = pool
        self._clock = clock
        self._modern: dict[str, ModernClient] = {}
        self._views: dict[str, View] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._news = anyio.Event()
        pool.follow(self._on_list_changed)

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """What outlives a request runs in here.  Raises MCPError when the gateway is stopping."""
        if self._tasks is None:
            raise MCPError(INTERNAL_ERROR, "the gateway is stopping")
        return self._tasks

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be of service until cancelled; then every client is ended and every server given back."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._cut_off)
                task_status.started()
                await self._keep_looking()
        finally:
            self._tasks = None
            self.audit.tell_all()
            with anyio.CancelScope(shield=True):
                for session in tuple(self.sessions.values()):
                    await self.end_session(session)
                for client in tuple(self._modern.values()):
                    await self._end_client(client)

    def configure(self, settings: EndpointSettings) -> None:
        """Take over other settings; every client is told to look at its tools again."""
        self.settings = settings
        self.methods = Methods(self.offers, settings)
        self.audit.is_on = settings.audit
        self._views.clear()
        for method in ("tools", "prompts", "resources"):
            self._tell(f"notifications/{method}/list_changed", lambda _: True)

    # Views

    def view(self, key: str) -> View:
        """Return the view of that key.  Raises MCPError if there is none."""
        servers = self._pool.servers()
        view = self._views.get(key)
        if view is None or view.servers != self._servers_of(key, servers):
            view = self._views[key] = self._made_view(key, servers)
        return view

    def input_schema(self, key: str, name: str) -> dict[str, Any] | None:
        """Return the input schema of a tool that a view shows under that name, if it is known."""
        found = self.view(key).split(name)
        return None if found is None else self.offers.schema_of(*found)

    def _servers_of(self, key: str, servers: tuple[str, ...]) -> tuple[str, ...]:
        kind, _, name = key.partition(":")
        if kind == "server":
            wanted: Iterable[str] = (name,)
        elif kind == "profile":
            profile = self.settings.profiles.get(name)
            if profile is None:
                raise MCPError(INVALID_REQUEST, _nothing_named("profile", name, self.settings.profiles))
            wanted = servers if profile.servers is None else profile.servers
        else:
            wanted = servers
        return tuple(server for server in wanted if server in servers)

    def _made_view(self, key: str, servers: tuple[str, ...]) -> View:
        kind, _, name = key.partition(":")
        shown = self._servers_of(key, servers)
        if kind == "server" and not shown:
            raise MCPError(INVALID_REQUEST, _nothing_named("server", name, servers))
        profile = self.settings.profiles.get(name) if kind == "profile" else None
        if profile is None:
            return View(key=key, servers=shown)
        return View(
            key=key,
            servers=shown,
            filters={server: profile.filter_for(server) for server in shown},
            prompts={server: profile.prompts_for(server) for server in shown},
            resources=profile.resources,
        )

    # Clients

    async def open_session(
        self, *, view_key: str, owner: str, version: str, client_info: Params, capabilities: Params
    ) -> LegacySession | None:
        """Return a new session, in the place of the one that was idle longest if there are too many, or None."""
        if not await self._make_room():
            return None
        session = LegacySession(
            self._pool,
            lambda: self.view(view_key),
            view_key=view_key,
            owner=owner,
            version=version,
            client_info=client_info,
            capabilities=capabilities,
            clock=self._clock,
            tasks=self.tasks,
            audit=self.audit,
        )
        self.sessions[session.id] = session
        self._news.set()
        return session

    async def end_session(self, session: LegacySession) -> None:
        """Forget a session and give back what it held."""
        if self.sessions.pop(session.id, None) is not None:
            await session.end()

    async def modern_client(self, owner: str, said: str | None, meta: Params) -> ModernClient | None:
        """Return whose request it is; see `modern_client` for the rule.  None if there are too many clients."""
        info = meta.get(CLIENT_INFO_META_KEY)
        name = info.get("name") if isinstance(info, dict) else None
        key = f"{owner}\n{name}\n{said}"
        client = self._modern.get(key)
        if client is None:
            if not await self._make_room():
                return None
            client = self._modern[key] = ModernClient(
                self._pool, owner=owner, key=key, name=str(name or ""), clock=self._clock, audit=self.audit
            )
            self._news.set()
        return client

    async def _make_room(self) -> bool:
        while len(self.sessions) + len(self._modern) >= self.settings.max_sessions:
            idle: list[LegacySession | ModernClient] = [each for each in self.sessions.values() if not each.is_busy]
            idle += [each for each in self._modern.values() if not each.is_busy]
            if not idle:
                return False
            oldest = min(idle, key=lambda each: each.used_at)
            if isinstance(oldest, LegacySession):
                await self.end_session(oldest)
            else:
                await self._end_client(oldest)
        return True

    async def _end_client(self, client: ModernClient) -> None:
        if self._modern.pop(client.key, None) is not None:
            await client.end()

    # News

    def _on_list_changed(self, server: str, method: str) -> None:
        self.offers.forget(server, method)
        self._tell(method, lambda view: server in view.servers)

    def _tell(self, method: str, concerns: Concerns) -> None:
        for session in tuple(self.sessions.values()):
            try:
                if concerns(session.view):
                    session.channel.push(notification(method, None))
            except MCPError:  # its profile or server is gone
                continue
        for listener in tuple(self.listeners):
            if concerns(listener.view):
                listener.list_changed(method)

    # Time

    async def _cut_off(self) -> None:
        """End what still runs when it has had its time."""
        await self.cutting_off.wait()
        for reply in tuple(self.replies):
            reply.go()

    async def _keep_looking(self) -> None:
        while True:
            if not (self.sessions or self._modern or len(self.parked)):
                self._news = anyio.Event()
                await self._news.wait()
            await self._clock.sleep(TICK)
            try:
                await self._do_what_is_due()
            except Exception:  # noqa: BLE001 - one client that cannot be ended must not keep the others
                _log.exception("looking after the clients of the endpoint failed")

    async def _do_what_is_due(self) -> None:
        now = self._clock.monotonic()
        self.parked.end_overdue()
        self.audit.tell_due()
        for session in tuple(self.sessions.values()):
            if not session.is_busy and now - session.used_at >= self.settings.idle_timeout:
                _log.info("ended the session of %s: nothing was heard of it for long", session.holder)
                await self.end_session(session)
            else:
                await session.release_idle(now - self.settings.linger)
        for client in tuple(self._modern.values()):
            if not client.is_busy and now - client.used_at >= self.settings.idle_timeout:
                await self._end_client(client)
            else:
                await client.release_idle(now - self.settings.linger)


class Concerns(Protocol):
    """Says whether news concern who sees that view."""

    def __call__(self, view: View, /) -> bool: ...


def _nothing_named(kind: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"There is no {kind} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
