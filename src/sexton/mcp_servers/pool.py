"""All MCP servers: leases on them, what tools they have, how they are doing.

`ServerPool` is what the layers above use.  Starting, sharing and ending is
done by `Fleet`; what tools there are is kept by `Catalogue`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp_types import Tool

from sexton.clock import Clock
from sexton.containment import Containment, TreeStatus
from sexton.errors import SextonError
from sexton.mcp_servers.breaker import BreakerPolicy, BreakerState
from sexton.mcp_servers.call_watch import OnCall, tell_nobody
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.catalogue import Catalogue, CataloguedTool, name_tools
from sexton.mcp_servers.fleet import Fleet
from sexton.mcp_servers.fleet_process import EventSink, FleetProcess
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.lease import Lease
from sexton.mcp_servers.lease_book import ProcessState, ProcessUse
from sexton.mcp_servers.list_news import TOOLS_CHANGED
from sexton.mcp_servers.opening import server_opener
from sexton.mcp_servers.pool_errors import unknown_server
from sexton.mcp_servers.running_server import OpenServer, RunningServer
from sexton.mcp_servers.server_config import HttpServer, ServerConfig, ToolFilter
from sexton.mcp_servers.server_status import CheckReport, ServerProcessStatus, ServerState, ServerStatus
from sexton.threads import in_thread

LOG = logging.getLogger(__name__)

RESTART_DRAIN: Final = 10.0
"""Seconds that holders keep a process after somebody asked for a restart."""

RECONFIGURE_DRAIN: Final = 60.0
"""The same, after the server's definition changed or was removed."""

CHECKER: Final = "check"


@final
class ServerPool:
    """The MCP servers of one gateway, shared by all who need them.

    `run` owns everything and must be running; when it has returned, every
    process is proven gone.  Leases may be taken and left in any task of the
    same event loop.  `data_dir` holds the catalogue and the servers' logs;
    `on_call` is told of every tool call that has ended, whoever made it.
    """

    def __init__(
        self,
        configs: Mapping[str, ServerConfig],
        containment: Containment,
        *,
        clock: Clock,
        journal: EventSink,
        data_dir: Path,
        open_server: OpenServer | None = None,
        policy: BreakerPolicy | None = None,
        chance: Callable[[], float] = random.random,
        on_call: OnCall = tell_nobody,
    ) -> None:
        self._containment = containment
        self._clock = clock
        self._journal = journal
        self._catalogue = Catalogue(data_dir / "catalogue")
        self._open_server = open_server or server_opener(containment, data_dir / "logs")
        self._warned: dict[str, tuple[str, ...]] = {}
        self._told: set[tuple[str, str]] = set()
        self._followers: list[Callable[[str, str], None]] = []
        self._fleet = Fleet(
            configs,
            self._open,
            clock=clock,
            events=journal,
            accompany=self._follow_tools,
            policy=policy or BreakerPolicy(),
            chance=chance,
            on_call=on_call,
        )

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start what is kept warm, then serve until cancelled; all servers are gone when this returns."""
        await self._fleet.run(task_status=task_status)

    @asynccontextmanager
    async def lease(
        self,
        server: str,
        *,
        holder: str,
        allow: ToolFilter | None = None,
        callbacks: Callbacks | None = None,
        returns: bool = True,
    ) -> AsyncIterator[Lease]:
        """Have the use of a server, which is started if it does not run.

        `holder` says who uses it, like `run:<id>` or `chat:<id>`; two leases of
        one holder share a process also when the server is exclusive.  `allow`
        narrows what this holder may call, on top of the server's own lists.
        `callbacks` answer what the server asks of this holder.  `returns`
        False says that the holder will not come back, so that an exclusive
        process need not wait for it.

        Raises:
            UnknownServer, ServerUnavailable, NoPlace, PoolClosed: see `Fleet.take`.
        """
        lease = Lease(self._fleet, server, holder=holder, allow=allow, callbacks=callbacks, returns=returns)
        try:
            await lease.connect()
            self._warn_holder(server, holder, allow)
            yield lease
        finally:
            lease.let_go()

    async def tools(self, server: str, *, allow: ToolFilter | None = None) -> tuple[Tool, ...]:
        """Return the tools of a server that its lists (and `allow`) let through.

        Answered from the catalogue; only a server that was never asked before is started.
        Raises what `lease` raises, and ServerDied or CallRefused.
        """
        config = self._config(server)
        known = self._catalogue.tools(config)
        if known is None:
            async with self.lease(server, holder="catalogue", returns=False) as lease:
                known = await lease.connection.server.list_tools()
                await self._record(config, known)
        filters = (config.tools, allow or ToolFilter())
        return tuple(tool for tool in known if all(each.admits(tool.name) for each in filters))

    def known_tools(self, server: str) -> tuple[Tool, ...] | None:
        """Return all tools of a server from the catalogue; None if it was never asked.  Starts nothing."""
        config = self._fleet.configs.get(server)
        return None if config is None else self._catalogue.tools(config)

    async def introduction(self, server: str) -> Introduction:
        """Return what a server said of itself when it was last started; one that never was is started.

        Raises what `lease` raises.
        """
        known = self._catalogue.introduction(self._config(server))
        if known is None:
            async with self.lease(server, holder="catalogue", returns=False) as lease:
                return lease.introduction
        return known

    def config(self, server: str) -> ServerConfig:
        """Return the definition of a server.  Raises UnknownServer."""
        return self._config(server)

    def servers(self) -> tuple[str, ...]:
        """Return the names of all configured servers, in the order of the configuration."""
        return tuple(self._fleet.configs)

    def is_running(self, server: str) -> bool:
        """Say whether a process of the server is ready, so that asking it something starts nothing."""
        return any(use.state is ProcessState.READY for use in self._fleet.uses(server))

    def farewell(self, holder: str) -> None:
        """`holder` will not come back: an exclusive process that waits for it ends."""
        self._fleet.farewell(holder)

    def follow(self, hear: Callable[[str, str], None]) -> None:
        """Tell `hear`, from here on, of every change of a list: the server's name and the notification's method."""
        self._followers.append(hear)

    async def named_tools(
        self, servers: Iterable[str] | None = None, *, allow: ToolFilter | None = None
    ) -> dict[str, CataloguedTool]:
        """Return the tools of several servers (None: all) by their `server__tool` names.

        Raises:
            ToolNameClash: two tools would have the same name.
            Also what `tools` raises.
        """
        names = self._fleet.configs if servers is None else servers
        return name_tools({server: await self.tools(server, allow=allow) for server in names})

    async def check(self, server: str) -> CheckReport:
        """Use a server for a moment and report what came of it.  A server that failed lately is tried at once.

        Raises UnknownServer, PoolClosed; every other failure stands in the report.
        """
        config = self._config(server)
        was_running = any(use.state is ProcessState.READY for use in self._fleet.uses(server))
        began = self._clock.monotonic()
        if self._fleet.breaker(server).starts_allowed(began) == 0:
            self._fleet.breaker(server).reset()
        report = CheckReport(server=server, ok=False, seconds=0.0, was_running=was_running)
        try:
            async with self.lease(server, holder=CHECKER, returns=False) as lease:
                running = lease.connection.server
                tools = await running.list_tools()
                report = replace(
                    report,
                    ok=True,
                    protocol_version=running.introduction.protocol_version,
                    server_info=running.introduction.words(),
                    tools=tools,
                    warnings=_filter_warnings(config, tools),
                )
                await self._record(config, tools)
        except SextonError as error:
            cause = error.__cause__ if isinstance(error.__cause__, SextonError) else error
            report = replace(report, error=error.what, hint=cause.hint, cause=cause)
        except MCPError as error:
            report = replace(report, error=f"server {server!r} started but refused to list its tools: {error}")
        return replace(report, seconds=round(self._clock.monotonic() - began, 3))

    async def restart(self, server: str, *, drain: float = RESTART_DRAIN) -> None:
        """End the server's processes and wait until that is proven; its breaker is reset.

        From now on new holders wait for a fresh process.  Present holders keep
        theirs until they leave, for `drain` seconds at most; then their calls
        fail.  A server that nobody needs now starts again on its next use.
        Raises UnknownServer, PoolClosed.
        """
        await self._fleet.restart(server, drain=drain)

    async def reconfigure(self, configs: Mapping[str, ServerConfig], *, drain: float = RECONFIGURE_DRAIN) -> None:
        """Take over new definitions.

        A server whose process would be another one (command, environment,
        limits, sharing, …) is restarted as `restart` does; timeouts and lists of
        tools simply apply from now on; all others are not touched.
        """
        await self._fleet.reconfigure(configs, drain=drain)

    def status(self) -> tuple[ServerStatus, ...]:
        """Return how every configured server is doing, by name."""
        trees = {tree.leader_pid: tree for tree in self._containment.trees()}
        return tuple(self._status(config, trees) for _, config in sorted(self._fleet.configs.items()))

    # Starting

    @asynccontextmanager
    async def _open(self, config: ServerConfig) -> AsyncIterator[RunningServer]:
        """Open a server in the way that worked last time."""
        started = False
        try:
            async with self._open_server(self._catalogue.advised(config)) as server:
                started = True
                self._catalogue.learn(config, server.introduction, probe_unwelcome=server.probe_unwelcome)
                yield server
        except SextonError:
            if not started:
                self._catalogue.unlearn(config)
            raise

    # Tools

    async def _follow_tools(self, config: ServerConfig, server: RunningServer) -> None:
        """Keep the catalogue up to date for as long as the server runs."""
        server.news.follow(partial(self._pass_on, config.name))
        was_known = self._catalogue.tools(config) is not None
        recorded: tuple[Tool, ...] | None = None
        while True:
            try:
                tools = await server.list_tools()
            except (SextonError, MCPError) as error:
                self._journal.append("server.tools_unknown", subject=config.name, error=str(error))
                await server.wait_tools_changed()
                continue
            if tools is recorded:  # nothing was awaited since it was known, so no change is missed
                await server.wait_tools_changed()
                continue
            said_so, recorded = recorded is not None, tools
            is_news = await self._record(config, tools)
            if said_so or (is_news and was_known):
                self._tell_followers(config.name, TOOLS_CHANGED)

    def _pass_on(self, server: str, method: str) -> None:
        """Tell followers of a change; of tools only once the catalogue has them, since that is where they look."""
        if method != TOOLS_CHANGED:
            self._tell_followers(server, method)

    def _tell_followers(self, server: str, method: str) -> None:
        for hear in self._followers:
            hear(server, method)

    async def _record(self, config: ServerConfig, tools: tuple[Tool, ...]) -> bool:
        """Take over what a server lists.  Return whether it is news."""
        is_news = self._catalogue.record(config, tools)
        if is_news:
            self._journal.append("server.tools_changed", subject=config.name, tools=[tool.name for tool in tools])
        if is_news or self._catalogue.needs_saving(config):
            try:
                # A disk that hangs must not hold up the end of a server.
                await in_thread(lambda: self._catalogue.save(config), abandon_on_cancel=True)
            except OSError as error:
                self._journal.append("server.tools_not_kept", subject=config.name, error=str(error))
        self._warn(config, tools)
        return is_news

    def _warn(self, config: ServerConfig, tools: tuple[Tool, ...]) -> None:
        warnings = _filter_warnings(config, tools)
        if warnings and warnings != self._warned.get(config.name):
            self._journal.append("server.warning", subject=config.name, warnings=list[Any](warnings))
        self._warned[config.name] = warnings

    def _warn_holder(self, server: str, holder: str, allow: ToolFilter | None) -> None:
        """Tell once of each entry of a holder's list that matches none of the tools that are known by now."""
        config = self._fleet.configs.get(server)
        tools = None if config is None or allow is None else self._catalogue.tools(config)
        if tools is None or allow is None:
            return
        entries = [entry for entry in allow.unmatched(tool.name for tool in tools) if (server, entry) not in self._told]
        if entries:
            self._told.update((server, entry) for entry in entries)
            warnings = [f"{entry!r} in the list of tools of {holder} matches none of its tools" for entry in entries]
            self._journal.append("server.warning", subject=server, warnings=list[Any](warnings))

    # Status

    def _status(self, config: ServerConfig, trees: Mapping[int | None, TreeStatus]) -> ServerStatus:
        uses = self._fleet.uses(config.name)
        processes = tuple(
            self._process_status(use, process, trees) for use in uses if (process := self._fleet.find(use.id))
        )
        breaker = self._fleet.breaker_status(config.name)
        tools = self._catalogue.tools(config)
        memory = [process.memory for process in processes if process.memory is not None]
        return ServerStatus(
            name=config.name,
            state=_server_state(uses, breaker.state),
            sharing=config.sharing,
            transport=config.transport.kind if isinstance(config.transport, HttpServer) else "stdio",
            holders=tuple(holder for use in uses for holder in use.holders),
            waiting=self._fleet.waiting(config.name),
            pids=tuple(pid for process in processes for pid in process.pids),
            memory=sum(memory) if memory else None,
            age=max((process.age for process in processes), default=None),
            calls=sum(process.calls for process in processes),
            tools=None if tools is None else len(tools),
            breaker=breaker.state,
            breaker_status=breaker,
            last_error=breaker.last_error,
            warnings=() if tools is None else _filter_warnings(config, tools),
            processes=processes,
        )

    def _process_status(
        self, use: ProcessUse, process: FleetProcess, trees: Mapping[int | None, TreeStatus]
    ) -> ServerProcessStatus:
        now = self._clock.monotonic()
        pid = process.server.pid if process.server else None
        tree = trees.get(pid) if pid is not None else None
        return ServerProcessStatus(
            id=str(use.id),
            state=use.state,
            holders=use.holders,
            pid=pid,
            pids=tree.pids if tree else (),
            memory=tree.memory_bytes if tree else None,
            age=now - process.began_at,
            idle_for=None if use.idle_since is None else now - use.idle_since,
            calls=process.server.calls if process.server else 0,
        )

    def _config(self, server: str) -> ServerConfig:
        config = self._fleet.configs.get(server)
        if config is None:
            raise unknown_server(server, self._fleet.configs)
        return config


def _server_state(uses: Iterable[ProcessUse], breaker: BreakerState) -> ServerState:
    states = {use.state for use in uses}
    if ProcessState.READY in states:
        return ServerState.RUNNING
    if ProcessState.STARTING in states:
        return ServerState.STARTING
    if states:
        return ServerState.STOPPING
    resting = {BreakerState.BACKING_OFF: ServerState.BACKING_OFF, BreakerState.OPEN: ServerState.BROKEN}
    return resting.get(breaker, ServerState.STOPPED)


def _filter_warnings(config: ServerConfig, tools: Iterable[Tool]) -> tuple[str, ...]:
    """Name the entries of a server's lists that match none of its tools."""
    return tuple(
        f"[servers.{config.name}] tools: {entry!r} matches none of its tools"
        for entry in config.tools.unmatched(tool.name for tool in tools)
    )
