"""From start to stop: what happens to the gateway as a whole, and in which order.

Start: settings, data folder, containment (with the recovery of what a crash
left behind), database, servers, scheduler, HTTP, `ready`.  Stop is the
reverse.  SIGTERM or SIGINT: start no more runs, give those that run
`drain_timeout`, then stop; a second one: stop now.  SIGHUP, or a changed
settings file: apply what changed, and nothing if the file is broken; but a
SIGHUP because the terminal was closed stops.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import anyio
import anyio.abc

import sexton
from sexton.clock import Clock, SystemClock
from sexton.daemon.console_feed import ConsoleFeed
from sexton.daemon.data_folder import claimed_data_folder
from sexton.daemon.quantities import format_duration
from sexton.daemon.redacted_logs import redacted_logs
from sexton.daemon.service_notify import ServiceNotifier
from sexton.daemon.settings import Settings, load_settings
from sexton.daemon.settings_problems import Problem, SettingsError
from sexton.daemon.settings_watch import SettingsWatch
from sexton.daemon.telemetry import telemetry
from sexton.daemon.terminal import ControllingTerminal
from sexton.daemon.tool_check import unknown_tools
from sexton.daemon.wiring import Parts, change_targets, running_parts, trees_now
from sexton.errors import SextonError
from sexton.gateway.http import OWNER, login_path
from sexton.journal import JSON, Event, Journal
from sexton.redaction import Redactor
from sexton.threads import in_thread


async def serve(
    settings_path: Path,
    data_dir: Path,
    *,
    on_event: Callable[[Event], None],
    on_login_link: Callable[[str], None] | None = None,
) -> None:
    """Run the gateway until it is told to stop by a signal.

    `on_event` gets each event of the journal, in order, on a thread of its
    own; `gateway.ready` has the `url`.  `on_login_link` gets a link
    that logs one browser in as the owner, once; it stands in no event.  Raises SettingsError, DataFolderInUse
    and every other SextonError that keeps the gateway from starting or going on.
    """
    started_at = datetime.now(UTC)
    settings = load_settings(settings_path, started_at=started_at)
    clock, redactor = SystemClock(), Redactor(settings.secrets)
    with (
        redacted_logs(redactor),
        telemetry(settings.telemetry, os.environ),
        _plain_errors(),
        claimed_data_folder(data_dir),
        closing(Journal.open(data_dir / "journal.jsonl", clock=clock, redactor=redactor)) as journal,
        closing(ConsoleFeed(journal, on_event)) as feed,
    ):
        life = _Lifecycle(
            settings,
            data_dir=data_dir,
            journal=journal,
            clock=clock,
            started_at=started_at,
            redactor=redactor,
            on_login_link=on_login_link,
        )
        await life.run(feed)


@final
class _Lifecycle:
    """One life of one gateway."""

    def __init__(
        self,
        settings: Settings,
        *,
        data_dir: Path,
        journal: Journal,
        clock: Clock,
        started_at: datetime,
        redactor: Redactor,
        on_login_link: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._redactor = redactor
        self._on_login_link = on_login_link
        self._data_dir = data_dir
        self._journal = journal
        self._clock = clock
        self._started_at = started_at
        self._notifier = ServiceNotifier()
        self._terminal = ControllingTerminal()
        self._watch = SettingsWatch(settings.path, clock=clock)
        self._stop = anyio.Event()
        self._is_ready = False
        self._life = anyio.CancelScope()
        self._parts: Parts | None = None
        self._told_before = journal.last_id

    async def run(self, feed: ConsoleFeed) -> None:
        """Start, serve, stop."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._watch_signals)
            tasks.start_soon(feed.run)
            tasks.start_soon(self._keep_watchdog)
            self._tell("gateway.starting", pid=os.getpid(), version=sexton.__version__)
            async with AsyncExitStack() as last:
                with self._life:
                    await self._live(last)
                self._tell("gateway.stopped", left=self._left())
                await self._write_last_words()
            tasks.cancel_scope.cancel()

    async def _write_last_words(self) -> None:
        if self._parts is not None and self._parts.archive is not None:
            await self._parts.archive.write_last_words()

    def _left(self) -> list[JSON]:
        """The names of the trees that even SIGKILL has not ended; their keepers go on trying."""
        return [tree.name for tree in trees_now(self._parts.containment.trees)] if self._parts else []

    async def _live(self, last: AsyncExitStack) -> None:
        parts = running_parts(
            self._settings,
            data_dir=self._data_dir,
            journal=self._journal,
            clock=self._clock,
            started_at=self._started_at,
            last=last,
            redactor=self._redactor,
            told_before=self._told_before,
        )
        async with parts as self._parts:
            self._be_ready(self._parts)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_reloading, self._parts)
                tasks.start_soon(self._parts.agent.preload)
                await self._stop.wait()
                tasks.cancel_scope.cancel()
            await self._drain(self._parts)

    def _be_ready(self, parts: Parts) -> None:
        self._is_ready = True
        self._tell("gateway.ready", url=parts.url, boundary=str(parts.containment.boundary))
        self._tell_warnings(parts, self._settings.warnings)
        self._notifier.ready(f"serving at {parts.url}")
        if self._on_login_link is not None:
            self._on_login_link(parts.url + login_path(parts.logins.make_code(OWNER)))

    def _tell_warnings(self, parts: Parts, warnings: Iterable[Problem]) -> None:
        """What works and should still be known; a tool that nobody has seen is told at every reading of the file."""

        def known(server: str) -> list[str] | None:
            tools = parts.pool.known_tools(server)
            return None if tools is None else [tool.name for tool in tools]

        for warning in (*warnings, *unknown_tools(self._settings.jobs, known)):
            self._tell_settings("warning", what=warning.text(self._settings.path.name))

    async def _drain(self, parts: Parts) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.chats.drain, self._settings.drain_timeout)
            drained = await parts.scheduler.drain(self._settings.drain_timeout)
        await parts.channels.take_down()
        for run in drained.stuck:
            self._tell(
                "gateway.run_stuck", what=f"Run {run.id} of job '{run.job}' has not ended; its processes will be."
            )

    # Signals

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and not self._terminal.is_gone():
                    self._watch.ask()
                else:
                    self._on_stop_signal(signal.Signals(number).name)

    def _on_stop_signal(self, name: str) -> None:
        if self._stop.is_set() or not self._is_ready:
            self._stop_now(name)
            return
        self._stop.set()
        budget = format_duration(self._settings.drain_timeout)
        self._tell("gateway.stopping", signal=name, drain=self._settings.drain_timeout)
        self._notifier.stopping(f"draining for at most {budget}")

    def _stop_now(self, name: str) -> None:
        """End every process at once, so that nobody waits for the stop ladder of a server."""
        self._tell("gateway.stopping_now", signal=name)
        self._notifier.stopping("stopping now")
        if self._parts is not None:
            self._parts.cut_off()  # before the servers go, so that no call blames its server
        self._life.cancel()
        if self._parts is not None:
            self._parts.containment.kill_all()

    async def _keep_watchdog(self) -> None:
        """WATCHDOG=1 from the event loop itself: a loop that hangs is what the watchdog is for."""
        if (interval := self._notifier.watchdog_interval) is None:
            return
        while True:
            self._notifier.alive()
            await self._clock.sleep(interval)

    # Settings

    async def _keep_reloading(self, parts: Parts) -> None:
        while True:
            was_asked = await self._watch.wait_change()
            self._notifier.reloading()
            await self._reload(parts, was_asked=was_asked)
            self._notifier.ready(f"serving at {parts.url}")

    async def _reload(self, parts: Parts, *, was_asked: bool) -> None:
        path = self._settings.path
        try:
            fresh = await in_thread(lambda: load_settings(path, started_at=self._started_at))
        except SettingsError as broken:
            self._tell_settings("broken", what=f"{path.name} was changed and cannot be used; nothing was changed here.")
            for problem in broken.problems:
                self._tell_settings("problem", what=problem.text(path.name))
            return
        except SextonError as broken:
            self._tell_settings("broken", what=f"{broken.what} Nothing was changed here.", hint=broken.hint)
            return
        if fresh == self._settings:
            if was_asked:
                self._tell_settings("unchanged")
            return
        try:
            await self._apply(parts, fresh)
        except SextonError as problem:
            self._tell_settings(
                "not_applied", what=f"{path.name} could not be applied: {problem.what}", hint=problem.hint
            )

    async def _apply(self, parts: Parts, fresh: Settings) -> None:
        before = self._settings
        self._redactor.learn(fresh.secrets)
        await parts.channels.configure(fresh.channels)
        await change_targets(parts.deliveries, before.targets, fresh.targets, clock=self._clock)
        await parts.pool.reconfigure(fresh.servers)
        if fresh.endpoint != before.endpoint or fresh.servers != before.servers:
            parts.endpoint.configure(fresh.endpoint)
        parts.agent.configure(fresh.agent)
        changes = await parts.scheduler.replace_config_jobs(fresh.jobs)
        self._settings = fresh
        servers = _Changes.between(before.servers, fresh.servers)
        targets = _Changes.between(before.targets, fresh.targets)
        channels = _Changes.between(before.channels, fresh.channels)
        self._tell_settings(
            "reloaded",
            servers_added=list(servers.added),
            servers_changed=list(servers.changed),
            servers_removed=list(servers.removed),
            jobs_added=list(changes.added),
            jobs_changed=list(changes.changed),
            jobs_removed=list(changes.removed),
            targets_added=list(targets.added),
            targets_changed=list(targets.changed),
            targets_removed=list(targets.removed),
            channels_added=list(channels.added),
            channels_changed=list(channels.changed),
            channels_removed=list(channels.removed),
        )
        self._tell_warnings(parts, sorted(set(fresh.warnings) - set(before.warnings)))
        if keys := before.needs_restart(fresh):
            self._tell_settings("needs_restart", what=f"A change of {', '.join(keys)} needs a restart of the gateway.")

    def _tell(self, kind: str, **data: JSON) -> None:
        self._journal.append(kind, subject="gateway", **data)

    def _tell_settings(self, what_happened: str, **data: JSON) -> None:
        told = {name: value for name, value in data.items() if value is not None}
        self._journal.append(f"settings.{what_happened}", subject="settings", **told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def between(cls, before: object, after: object) -> _Changes:
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        return cls(
            added=tuple(name for name in after if name not in before),
            changed=tuple(name for name in after if name in before and after[name] != before[name]),
            removed=tuple(name for name in before if name not in after),
        )


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Task groups raise groups; a person gets the one error that was the cause."""
    try:
        yield
    except BaseExceptionGroup as group:
        causes = list(_leaves(group))
        if all(isinstance(cause, SextonError) for cause in causes):
            raise causes[0] from group
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner
