"""The processes of all servers: starts them when somebody needs one, hands them out, and ends them.

Owns one task per process.  What to do is decided by the lease book, the
breaker and `retirement`; this is where it is done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import anyio.abc
import anyio.lowlevel

from sexton import tracing
from sexton.clock import Clock
from sexton.containment import TreeStuck
from sexton.errors import SextonError
from sexton.mcp_servers.breaker import Breaker, BreakerPolicy, BreakerState, BreakerStatus
from sexton.mcp_servers.call_watch import OnCall, Watched, tell_nobody, watched_call
from sexton.mcp_servers.fleet_process import EventSink, FleetProcess, Wait, end_of, needs_new_process
from sexton.mcp_servers.lease_book import Hold, LeaseBook, ProcessId, ProcessState, ProcessUse, Steps, Terms, Ticket
from sexton.mcp_servers.pool_errors import no_place, pool_closed, start_failed, start_refused, unknown_server
from sexton.mcp_servers.retirement import Reason, Service, judge
from sexton.mcp_servers.running_server import OpenServer, RunningServer
from sexton.mcp_servers.server_config import ServerConfig, Sharing
from sexton.mcp_servers.server_errors import ServerDied
from sexton.mcp_servers.timekeeper import Timekeeper

if TYPE_CHECKING:
    from sexton.journal import JSON

LOG = logging.getLogger(__name__)

STABLE_AFTER: Final = 60.0
"""Seconds after which a server that then dies is not taken for one that cannot start."""

MAX_NAMED: Final = 10
"""How many holders one event names, the latest ones."""

NOT_CONFIGURED: Final = Terms(may_start=0)
"""For a server that was taken out of the configuration while somebody holds it."""


@final
class Fleet:
    """Starts, hands out and ends processes.  Used within one event loop; `run` must be running.

    Between two awaits the book and the processes agree: every method that
    changes one settles the other before it returns.
    """

    def __init__(
        self,
        configs: Mapping[str, ServerConfig],
        open_server: OpenServer,
        *,
        clock: Clock,
        events: EventSink,
        accompany: Callable[[ServerConfig, RunningServer], Coroutine[Any, Any, None]],
        policy: BreakerPolicy,
        chance: Callable[[], float],
        on_call: OnCall = tell_nobody,
    ) -> None:
        self.configs = dict(configs)
        self._open_server = open_server
        self._clock = clock
        self._events = events
        self._accompany = accompany
        self._policy = policy
        self._chance = chance
        self._on_call = on_call
        self._book = LeaseBook()
        self._breakers: dict[str, Breaker] = {}
        self._processes: dict[ProcessId, FleetProcess] = {}
        self._waits: dict[Ticket, Wait] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._time = Timekeeper(clock, self._do_what_is_due)

    def watched_call(self, server: str, tool: str, holder: str) -> AbstractContextManager[Watched]:
        """Around one call of a tool: its span, and word of its end to who counts."""
        return watched_call(server, tool, holder, clock=self._clock, on_call=self._on_call)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be of service until cancelled; then end every process and return when that is proven."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for server in self.configs:
                    self._settle(server)
                task_status.started()
                await self._time.run()
            finally:
                self._tasks = None
                self._refuse_all()

    # For leases

    async def take(self, server: str, *, holder: str, returns: bool) -> Hold:
        """Wait for a process of `server`, starting one if need be.

        Cancelling this wait leaves no trace: a hold that was granted meanwhile
        is given back, and a start that nobody else waits for is given up.

        Raises:
            UnknownServer: there is none of that name.
            ServerUnavailable: it did not start, or failed lately.
            NoPlace: every process it may have stayed in use for `connect_timeout`.
            PoolClosed: `run` is not running.
        """
        self._require(server)
        ticket = self._book.ask(server, holder=holder, now=self._clock.monotonic(), returns=returns)
        wait = self._waits[ticket] = Wait()
        self._settle(server)
        taken: Hold | None = None
        try:
            await wait.decided.wait()
            if wait.error is not None:
                raise wait.error
            taken = wait.hold
        finally:
            if taken is None:
                self._leave(ticket, wait)
        assert taken is not None
        return taken

    def give_back(self, hold: Hold) -> None:
        """End a hold.  Raises NotHeld the second time."""
        now = self._clock.monotonic()
        if self._book.give_back(hold, now=now):
            self._time.look_by(self._look_after(hold.process, now))
        self._settle(hold.process.server)

    def farewell(self, holder: str) -> None:
        """`holder` will not come back, to no server: an exclusive process that waits for it ends."""
        for server in self.configs:
            self._book.farewell(server, holder)
            self._settle(server)

    def find(self, process: ProcessId) -> FleetProcess | None:
        """Return a process, or None when it is proven gone."""
        return self._processes.get(process)

    def holders_of(self, process: ProcessId) -> tuple[str, ...]:
        """Return who holds a process."""
        use = self._book.use(process)
        return use.holders if use else ()

    def answered(self, server: str) -> None:
        """The server answered a request, well or not: it works."""
        breaker = self.breaker(server)
        if breaker.failures:
            breaker.proved_good()
            self._tell("breaker_closed", server)

    def connection_lost(self, hold: Hold, error: SextonError) -> None:
        """A holder found that its process can no longer be reached: nobody else gets it."""
        process = self._processes.get(hold.process)
        if process is not None:
            self._lost(process, error)

    def start_task(self, task: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a task beside the processes, until it ends or `run` is cancelled.  Raises PoolClosed."""
        if self._tasks is None:
            raise pool_closed()
        self._tasks.start_soon(task, *args)

    # For people

    async def restart(self, server: str, *, drain: float, reason: Reason = Reason.RESTART) -> None:
        """End every process of `server` and wait until that is proven; the next holder gets a fresh one.

        From now on nobody joins the old ones.  Who holds one keeps it for
        `drain` seconds at most.  The breaker is reset.
        """
        self._require(server)
        self.breaker(server).reset()
        await self.drain(server, drain=drain, reason=reason)

    async def drain(self, server: str, *, drain: float, reason: Reason) -> None:
        """See `restart`; the breaker stays as it is."""
        ending = [process for process in self._processes.values() if process.id.server == server]
        self._begin_drain(server, drain=drain, reason=reason)
        for process in ending:
            await process.gone.wait()

    async def reconfigure(self, configs: Mapping[str, ServerConfig], *, drain: float) -> None:
        """Take over new definitions.  Only processes whose own definition changed are ended, as `restart` does."""
        before, self.configs = self.configs, dict(configs)
        for server, old in before.items():
            new = self.configs.get(server)
            if new is None:
                self._refuse_waiting(server)
                self._begin_drain(server, drain=drain, reason=Reason.REMOVED)
            elif needs_new_process(old, new):
                self.breaker(server).reset()
                self._begin_drain(server, drain=drain, reason=Reason.CONFIG_CHANGED)
        for server in self.configs:
            self._settle(server)
        self._time.look_now()
        await anyio.lowlevel.checkpoint()

    def breaker(self, server: str) -> Breaker:
        """Return the breaker of a server."""
        return self._breakers.setdefault(server, Breaker(self._policy, chance=self._chance))

    def breaker_status(self, server: str) -> BreakerStatus:
        return self.breaker(server).status(self._clock.monotonic())

    def uses(self, server: str) -> tuple[ProcessUse, ...]:
        """Return the present processes of a server as the book sees them, oldest first."""
        return self._book.processes(server)

    def waiting(self, server: str) -> tuple[str, ...]:
        """Return who waits for a server."""
        return tuple(ticket.holder for ticket in self._book.waiting(server))

    # Settling: what the book decides is done here

    def _settle(self, server: str, failure: SextonError | None = None) -> None:
        if self._tasks is None:
            return
        steps = self._book.settle(server, self._terms(server))
        for process in steps.starts:
            self._begin(process)
        for process in steps.stops:
            self._end(process, Reason.NOT_NEEDED)
        self._tell_waiting(server, steps, failure)
        if steps.starts or steps.stops or steps.refused or self._book.waiting(server):
            self._time.look_now()

    def _tell_waiting(self, server: str, steps: Steps, failure: SextonError | None) -> None:
        for grant in steps.grants:
            self._waits.pop(grant.ticket).grant(grant.hold)
        for process in dict.fromkeys(grant.hold.process for grant in steps.grants):
            self._tell_shared(process)
        for ticket in steps.refused:
            self._waits.pop(ticket).refuse(self._refusal(server, failure))

    def _terms(self, server: str) -> Terms:
        config = self.configs.get(server)
        if config is None:
            return NOT_CONFIGURED
        return Terms(
            exclusive=config.sharing is Sharing.EXCLUSIVE,
            max_processes=config.max_processes,
            keep_warm=config.keep_warm,
            may_start=self.breaker(server).starts_allowed(self._clock.monotonic()),
        )

    def _refusal(self, server: str, failure: SextonError | None) -> SextonError:
        status = self.breaker_status(server)
        if server not in self.configs:
            return unknown_server(server, self.configs)
        if failure is None:
            return start_refused(server, status)
        return start_failed(server, failure, status)

    def _begin(self, process: ProcessId) -> None:
        assert self._tasks is not None
        entry = FleetProcess(process, self.configs[process.server], self._clock.monotonic())
        self._processes[process] = entry
        self.breaker(process.server).starting()
        self._tell("starting", process, waiting=list(self.waiting(process.server)))
        self._tasks.start_soon(self._serve, entry, name=f"server {process}")

    def _end(self, process: ProcessId, reason: Reason) -> None:
        """Stop a process that the book has taken out of use."""
        entry = self._processes[process]
        entry.reason = entry.reason or reason
        if entry.server is None:
            self.breaker(process.server).start_given_up()
            entry.scope.cancel()
        entry.told_to_stop.set()
        self._tell("retired", process, reason=entry.reason, calls=entry.server.calls if entry.server else 0)

    # One process

    async def _serve(self, process: FleetProcess) -> None:
        """Run one process from its start until its end is proven."""
        try:
            with process.scope:
                await self._open_and_watch(process)
        finally:
            self._gone(process)

    async def _open_and_watch(self, process: FleetProcess) -> None:
        start = tracing.begin("server start", server=process.id.server, process=str(process.id))
        try:
            async with self._open_server(process.config) as server:
                start.end()
                if self._started(process, server):
                    await self._watch(process, server)
        except TreeStuck as error:
            process.stuck = error
            self._lost(process, error)
        except SextonError as error:
            self._lost(process, error)
        except Exception as error:  # the outermost edge of this process's task
            LOG.exception("server %s: a defect of ours", process.id)
            self._lost(process, SextonError(f"server {process.id.server!r} was lost by a defect of ours: {error!r}"))
        finally:
            tracing.end_unfinished(start)

    async def _watch(self, process: FleetProcess, server: RunningServer) -> None:
        """Return when the server has ended, or has to."""
        async with anyio.create_task_group() as tasks:

            async def stop_when_told() -> None:
                await process.told_to_stop.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_when_told)
            tasks.start_soon(self._accompany, process.config, server)
            await server.ended.wait()
            if server.end is not None:
                self._lost(process, server.end.failure(written=True))
            tasks.cancel_scope.cancel()

    def _started(self, process: FleetProcess, server: RunningServer) -> bool:
        if self._book.state(process.id) is not ProcessState.STARTING:
            return False  # given up in the moment in which it became ready
        now = self._clock.monotonic()
        process.server, process.started_at = server, now
        self.breaker(process.id.server).started()
        self._book.started(process.id, now=now)
        self._tell("started", process.id, pid=server.pid, seconds=round(now - process.began_at, 3))
        self._settle(process.id.server)
        self._time.look_now()
        return True

    def _lost(self, process: FleetProcess, error: SextonError) -> None:
        """It failed to start, or ended unasked: nobody holds it from here on."""
        if self._book.state(process.id) in {None, ProcessState.ENDING}:
            return
        server, starting = process.id.server, process.server is None
        holders = [hold.holder for hold in self._book.lost(process.id)]
        self._count_failure(process, error, idle=not holders)
        process.told_to_stop.set()
        self._tell(
            "start_failed" if starting else "died",
            process.id,
            error=error.what,
            holders=list[Any](holders),
            **end_of(error),
        )
        self._tell_if_open(server)
        self._settle(server, failure=error)
        self._time.look_now()

    def _count_failure(self, process: FleetProcess, error: SextonError, *, idle: bool) -> None:
        now, breaker = self._clock.monotonic(), self.breaker(process.id.server)
        if process.server is None:
            breaker.start_failed(error.what, now)
            return
        if now - process.started_at >= STABLE_AFTER:
            breaker.proved_good()
        # Some servers end by themselves, in good order, when nobody has used them for a while.
        in_good_order = idle and isinstance(error, ServerDied) and error.returncode == 0
        if not in_good_order or process.config.keep_warm:
            breaker.connection_lost(error.what, now)

    def _gone(self, process: FleetProcess) -> None:
        """Its end is proven, or it is `stuck`, and then containment goes on trying."""
        if self._book.state(process.id) is not ProcessState.ENDING:
            self._book.lost(process.id)  # `run` was cancelled
        self._book.gone(process.id)
        del self._processes[process.id]
        process.gone.set()
        if process.stuck is None:
            self._tell("gone", process.id, reason=process.reason)
        else:
            self._tell("stuck", process.id, error=process.stuck.what)
        self._settle(process.id.server)
        self._time.look_now()

    # Time

    def _do_what_is_due(self) -> float:
        """Retire, end, refuse and start what its time has come for.  Return when to look again."""
        now = self._clock.monotonic()
        times = [self._look_after(process, now) for process in tuple(self._processes)]
        times += [self._look_after_waiting(server, config, now) for server, config in self.configs.items()]
        times += [self._look_after_warmth(server, now) for server, config in self.configs.items() if config.keep_warm]
        return min(times, default=math.inf)

    def _look_after(self, process_id: ProcessId, now: float) -> float:
        """End a process whose time has come.  Return when to look again."""
        process, use = self._processes[process_id], self._book.use(process_id)
        if use is not None and use.state is ProcessState.DRAINING:
            return self._end_overdue(process, now)
        if use is None or use.state is not ProcessState.READY or use.idle_since is None or process.server is None:
            return math.inf
        config = self.configs.get(use.id.server, process.config)
        unused = config.sharing is Sharing.SHARED or use.owner is None
        service = Service(
            started_at=process.started_at,
            idle_since=use.idle_since,
            calls=process.server.calls,
            keeps_warm=config.keep_warm and unused,
        )
        verdict = judge(config, service, now=now)
        if verdict.reason is not None:
            self._book.retire(use.id)
            self._end(use.id, verdict.reason)
            self._settle(use.id.server)
            return math.inf
        return verdict.look_again_at

    def _end_overdue(self, process: FleetProcess, now: float) -> float:
        if now < process.end_by:
            return process.end_by
        holders = [hold.holder for hold in self._book.lost(process.id)]
        self._tell("taken_away", process.id, holders=list[Any](holders), reason=process.reason)
        self._end(process.id, Reason.RESTART)
        self._settle(process.id.server)
        return math.inf

    def _look_after_waiting(self, server: str, config: ServerConfig, now: float) -> float:
        """Refuse who waited for a place for too long; a start that is under way has its own deadline."""
        next_look = math.inf
        for ticket in self._book.without_prospect(server, self._terms(server)):
            if now < ticket.asked_at + config.connect_timeout:
                next_look = min(next_look, ticket.asked_at + config.connect_timeout)
                continue
            self._book.withdraw(ticket)
            holders = [holder for use in self._book.processes(server) for holder in use.holders]
            places = self._terms(server).places
            error = no_place(server, holders, waited=config.connect_timeout, places=places)
            self._waits.pop(ticket).refuse(error)
            self._settle(server)
        return next_look

    def _look_after_warmth(self, server: str, now: float) -> float:
        """Start a server that is kept warm again as soon as its breaker allows it."""
        retry_at = self.breaker(server).retry_at()
        if retry_at is None or any(use.state is not ProcessState.ENDING for use in self._book.processes(server)):
            return math.inf
        if now < retry_at:
            return retry_at
        if not self._book.processes(server):
            self._settle(server)
        return math.inf

    # Ending on purpose

    def _begin_drain(self, server: str, *, drain: float, reason: Reason) -> None:
        """Let nobody join the present processes, and end them when nobody holds them, or after `drain` seconds."""
        for use in self._book.processes(server):
            process = self._processes[use.id]
            if use.state is ProcessState.STARTING:
                self._book.lost(use.id)
                self._end(use.id, reason)
            elif use.state is ProcessState.READY:
                self._book.drain(use.id)
                process.reason = reason
                process.end_by = self._clock.monotonic() + drain
                self._tell("draining", use.id, holders=list(use.holders), reason=reason)
        self._settle(server)
        self._time.look_now()

    def _leave(self, ticket: Ticket, wait: Wait) -> None:
        """A waiting holder goes."""
        if self._waits.pop(ticket, None) is not None:
            self._book.withdraw(ticket)
            self._settle(ticket.server)
        elif wait.hold is not None:
            self.give_back(wait.hold)

    def _refuse_waiting(self, server: str) -> None:
        for ticket in self._book.waiting(server):
            self._book.withdraw(ticket)
            self._waits.pop(ticket).refuse(self._refusal(server, None))

    def _refuse_all(self) -> None:
        for ticket, wait in tuple(self._waits.items()):
            self._book.withdraw(ticket)
            wait.refuse(pool_closed())
        self._waits.clear()

    def _require(self, server: str) -> None:
        if self._tasks is None:
            raise pool_closed()
        if server not in self.configs:
            raise unknown_server(server, self.configs)

    # Telling

    def _tell_shared(self, process: ProcessId) -> None:
        use = self._book.use(process)
        holders = list(dict.fromkeys(use.holders)) if use else []
        if len(holders) > 1:
            self._tell("shared", process, count=len(holders), holders=list[Any](holders[-MAX_NAMED:]))

    def _tell_if_open(self, server: str) -> None:
        status = self.breaker_status(server)
        if status.state is BreakerState.OPEN:
            self._tell("breaker_open", server, failures=status.failures, retry_in=round(status.retry_in, 3))

    def _tell(self, what: str, subject: ProcessId | str, **data: JSON) -> None:
        if isinstance(subject, ProcessId):
            self._events.append(f"server.{what}", subject=subject.server, process=str(subject), **data)
        else:
            self._events.append(f"server.{what}", subject=subject, **data)
