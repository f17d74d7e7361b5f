"""Sleeps until the next slot, claims what is due and runs it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.database import DatabaseError
from sexton.journal import JSON, Journal
from sexton.redaction import Redactor
from sexton.scheduler import timetable
from sexton.scheduler.alarm import Alarm
from sexton.scheduler.claim import Claim, Claimer, Taken
from sexton.scheduler.gateways import Beats, Gateway, is_gone, this_gateway
from sexton.scheduler.job import Job, JobStatus, Limits, Origin, Perform, Run, RunCount, RunRecord, ToolCall
from sexton.scheduler.job_rows import JobChanges
from sexton.scheduler.lease import BEAT_EVERY, KILL_AFTER, ONE_MACHINE, Hold, LeaseTimes
from sexton.scheduler.needs import Offer
from sexton.scheduler.node_rows import NodeStatus
from sexton.scheduler.rows import RunEnd, Settled
from sexton.scheduler.run_states import RunState
from sexton.scheduler.run_store import RunStore
from sexton.scheduler.run_task import CUT_OFF, LOST, SHUTDOWN, RunTask, cancelled
from sexton.tracing import mark_failed, traced

LOG = logging.getLogger(__name__)
# Never sleep longer than this, so that a clock that jumps and a machine that was asleep are noticed.
LONGEST_SLEEP = 5.0
JUMP = timedelta(seconds=2)
PROGRESS_EVERY = 1.0
PRUNE_AFTER = 20
# How much of what a run says a crash can lose.
DRAFTS_EVERY = 2.0
RETRY_WRITES_EVERY = 2.0
GIVE_UP_WRITES_AFTER = 5.0
# When the gateway stops.  Longer than any tree needs that SIGKILL ends (see containment's StopTimes).
DRAIN_ENDS_WITHIN = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a drain had to end: runs that were cut off, and runs that have not ended although they were told to."""

    interrupted: tuple[Run, ...] = ()
    stuck: tuple[Run, ...] = ()


class _Batch:
    """The runs that one tick started; when the last has ended, the orphans of all may be swept."""

    def __init__(self, size: int) -> None:
        self.left = size


@final
class Scheduler:
    """The jobs of one gateway.

    `perform` does what a run does; `after_tick` is called when all runs of a tick have ended, never inside a run and
    never twice at a time.  Everything that happens is told to the journal: `job.added`, `job.changed`, `job.removed`,
    `job.paused`, `job.resumed` and `run.queued`, `run.started`, `run.progress`, `run.ended` (with its state),
    `run.skipped`, `run.missed`, `run.stuck`, `run.lost`, `run.unrecorded` under the job's name; `clock.jumped`,
    `gateway.dead`, `node.drained`, `node.undrained`, `node.forgotten`, `node.cut_off`, `node.back`, `database.failing`
    and `database.recovered` under this gateway's.

    `offer` is what this node can serve, and `describe` what others are told of it with each beat; `lease`
    says how long claims hold without a beat, by `uptime`, a clock that also counts suspension; when this node is cut
    off, `on_fence` is to end at once whatever else only one node may do, its runs are ended, and `on_cut_off` is to end
    what is left of them at once.  `keep_until` is told with each beat when, by `uptime`, somebody else is to do that
    for us unless it is told more (None: never), since we may be stopped then.  `place` names our data folder, `node_id`
    this process among the nodes.
    """

    def __init__(
        self,
        store: RunStore,
        perform: Perform,
        *,
        clock: Clock,
        journal: Journal,
        limits: Limits | None = None,
        after_tick: Callable[[], Awaitable[None]] | None = None,
        node: str = "gateway",
        offer: Offer | None = None,
        describe: Callable[[], Mapping[str, JSON]] | None = None,
        place: str | None = None,
        lease: LeaseTimes = ONE_MACHINE,
        uptime: Callable[[], float] | None = None,
        on_fence: Callable[[], None] | None = None,
        on_cut_off: Callable[[], None] | None = None,
        keep_until: Callable[[float | None], None] | None = None,
        node_id: str | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._store = store
        self._perform = perform
        self._clock = clock
        self._journal = journal
        self._limits = limits or Limits()
        self._after_tick = after_tick
        self._redactor = redactor or Redactor()
        self._gateway = this_gateway(node, place=place, node_id=node_id)
        self._offer = offer or Offer(name=node)
        self._describe = describe or dict
        self._lease = lease
        self._uptime = uptime or clock.monotonic
        self._on_fence = on_fence or (lambda: None)
        self._on_cut_off = on_cut_off or (lambda: None)
        self._keep_until = keep_until or (lambda _: None)
        self._engine = store.engine
        self._beats = Beats(lease)
        self.hold = Hold(lease, now=self._uptime())
        self._is_cut_off = False
        self._offers: dict[str, anyio.Event] = {}
        self._taking = anyio.Lock()
        self._strays: frozenset[str] = frozenset()
        self._alarm = Alarm(clock)
        self._sweep = Alarm(clock)
        self._tasks: dict[str, RunTask] = {}
        self._batches: dict[str, _Batch] = {}
        self._draining = False
        self._drained = False
        self._out_of_time = False
        self._failing: DatabaseError | None = None
        self._ended_since_prune: dict[str, int] = {}
        self._progress_told: dict[str, float] = {}
        self._idle = Alarm(clock)

    # Running

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled.  Runs that are still going then are ended and recorded as interrupted.

        Raises `DatabaseError` when the database fails at the start; a failure later is told to the journal and tried
        again, while what runs goes on.
        """
        sent_at = self._uptime()
        await self._store.register(self._described(), now=self._clock.now())
        self._renew_hold(sent_at)
        await self._settle_dead(await self._certainly_dead())
        self._tell_moved(await self._store.realign(now=self._clock.now()))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_beating)
                tasks.start_soon(self._watch_clock)
                tasks.start_soon(self._keep_sweeping)
                tasks.start_soon(self._keep_drafting)
                tasks.start_soon(self._keep_working, tasks)
                tasks.start_soon(self._keep_fence)
                task_status.started()
                await self._keep_ticking(tasks)
        finally:
            self._keep_until(None)  # every run has ended
            with anyio.move_on_after(GIVE_UP_WRITES_AFTER, shield=True):
                await self._leave()

    async def drain(self, timeout: float) -> Drained:
        """Start nothing more; give what runs `timeout` seconds to end by itself, then end it.

        Comes back when nothing runs any more, or `DRAIN_ENDS_WITHIN` seconds after the runs were told to end.
        """
        self._draining = True
        self._engine.pause()
        self._alarm.ring()
        await self._wait_idle(timeout)
        self._out_of_time = True
        ended = tuple(task.claim.run for task in self._tasks.values())
        for task in list(self._tasks.values()):
            task.end(SHUTDOWN)
        await self._wait_idle(DRAIN_ENDS_WITHIN)
        stuck = tuple(task.claim.run for task in self._tasks.values())
        return Drained(interrupted=tuple(run for run in ended if run not in stuck), stuck=stuck)

    @property
    def failing(self) -> DatabaseError | None:
        """What the database said when it last failed; None since it was last written."""
        return self._failing

    # Jobs

    async def put_job(self, job: Job) -> None:
        """Add a job or change it.  Raises `UsageError` when it cannot be meant, or stands in the config file."""
        now = self._clock.now()
        self._tell_changes(await self._store.put_job(job, now=now))

    async def remove_job(self, name: str) -> None:
        """Forget a job; what waits of it is cancelled, what runs is left to end, its history stays."""
        self._tell_changes(await self._store.remove_job(name, now=self._clock.now()))

    async def replace_config_jobs(self, jobs: Sequence[Job]) -> JobChanges:
        """Make these the jobs of the config file.  Only what changed is touched; a pause by hand stays."""
        config_jobs = [replace(job, origin=Origin.CONFIG) for job in jobs]
        changes = await self._store.replace_config_jobs(
            config_jobs,
            now=self._clock.now(),
            source=self._gateway.name if self._lease.fence_after is not None else None,
        )
        self._tell_changes(changes)
        return changes

    async def pause(self, name: str) -> None:
        """Let no further slot run; the slots of the pause become one row, skipped, when it ends."""
        if await self._store.set_paused(name, paused=True, now=self._clock.now()) is not None:
            self._journal.append("job.paused", subject=name)

    async def resume(self, name: str) -> None:
        skipped = await self._store.set_paused(name, paused=False, now=self._clock.now())
        if skipped is not None:
            self._journal.append("job.resumed", subject=name)
            self._tell_ended(skipped)
            self._alarm.ring()

    async def run_now(self, name: str) -> Run:
        """Queue a run by hand.  It starts at once unless a limit, or a run of the same job, is in its way."""
        run, cancels, replaced = await self._store.add_manual_run(name, now=self._clock.now())
        self._tell_ended(replaced)
        self._cancel_here(cancels)
        self._journal.append("run.queued", subject=name, **_told(run))
        self._alarm.ring()
        return run

    async def cancel(self, run_id: str, *, reason: str = "cancelled by hand") -> Run:
        """End a run, wherever it runs.  Comes back at once; the row says when it has ended."""
        run = await self._store.request_cancel(run_id, reason=reason, now=self._clock.now())
        if run.state is RunState.CANCELLED and run.started_at is None and run.ended_at is not None:
            self._tell_ended([run])
        self._cancel_here({run_id: reason})
        self._alarm.ring()
        return run

    async def next_times(self, job: str | Job, count: int = 5) -> tuple[datetime, ...]:
        """When the next runs start, jitter included; also of a job that is not (yet) put, or paused."""
        if isinstance(job, str):
            job = await self._store.job(job)
        return timetable.next_starts(job, after=self._clock.now(), count=count)

    async def job(self, name: str) -> Job:
        return await self._store.job(name)

    async def jobs(self) -> tuple[JobStatus, ...]:
        """All jobs, by name."""
        return await self._store.statuses()

    async def runs(
        self,
        job: str | None = None,
        state: RunState | Collection[RunState] = (),
        *,
        limit: int = 50,
        before: str | None = None,
        since: datetime | None = None,
    ) -> tuple[Run, ...]:
        """Runs, newest first; `before` is the id of the last one seen, `since` keeps what was made then or later."""
        states = (state,) if isinstance(state, RunState) else tuple(state)
        return await self._store.runs(job=job, states=states, limit=limit, before=before, since=since)

    async def run_counts(self, *, since: datetime) -> tuple[RunCount, ...]:
        """How many runs that were made since then are in which state, by job."""
        return await self._store.run_counts(since=since)

    async def run_record(self, run_id: str) -> RunRecord:
        """A run with its whole output and its log.  Raises `UnknownRun`."""
        return await self._store.run_record(run_id)

    async def tool_calls(self, run_id: str, *, after: int = 0, limit: int = 100) -> tuple[ToolCall, ...]:
        """The calls that a run has made and that have ended, in order, from the one after the `after`th."""
        return await self._store.tool_calls(run_id, after=after, limit=limit)

    # Nodes

    async def nodes(self) -> tuple[NodeStatus, ...]:
        """The nodes on this database, by name."""
        return await self._store.nodes()

    async def set_drained(self, name: str, *, drained: bool, by: str) -> None:
        """Let a node take no more runs, or take them again; what runs there goes on.  Raises `UnknownNode`."""
        if await self._store.set_drained(name, drained=drained, by=by, now=self._clock.now()):
            self._journal.append("node.drained" if drained else "node.undrained", subject=name, by=by)
            self._alarm.ring()

    async def forget_node(self, name: str, *, by: str) -> JobChanges:
        """Take a node that is gone out of the list.  Raises `UnknownNode`, `NodeNotGone`; see `RunStore`."""
        changes = await self._store.forget_node(name, now=self._clock.now())
        self._journal.append("node.forgotten", subject=name, by=by)
        self._tell_changes(changes)
        return changes

    def _described(self) -> Gateway:
        return replace(self._gateway, offers=self._describe())

    @property
    def is_open(self) -> bool:
        """Whether this node takes more work: it is neither drained nor stopping nor cut off."""
        return not self._is_closed

    @property
    def is_drained(self) -> bool:
        """Whether this node was taken out of service by hand."""
        return self._drained

    @property
    def is_cut_off(self) -> bool:
        """Whether others may believe that this node is dead, and it has ended its work."""
        return self._is_cut_off

    @property
    def node_id(self) -> str:
        """Names this process among the nodes."""
        return self._gateway.id

    # Ticks

    async def _keep_ticking(self, tasks: anyio.abc.TaskGroup) -> None:
        next_at: datetime | None = None
        while True:
            try:
                if next_at is None or next_at > self._clock.now() or self._drained:
                    next_at = await self._look_out()
                if next_at is not None and next_at <= self._clock.now() and not self._is_closed:
                    next_at = await self._tick(tasks)
            except DatabaseError as error:
                self._note_failure(error)
                next_at = None
                await self._clock.sleep(RETRY_WRITES_EVERY)
                continue
            await self._alarm.wait(self._sleep_until(next_at))

    def _sleep_until(self, next_at: datetime | None) -> float:
        if next_at is None or self._is_closed:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.0, (next_at - self._clock.now()).total_seconds()))

    async def _look_out(self) -> datetime | None:
        outlook = await self._store.outlook(self._gateway)
        self._cancel_here(outlook.cancels)
        if outlook.drained is not self._drained:
            self._drained = outlook.drained
            self._open_or_close()
        return outlook.next_at

    @property
    def _is_closed(self) -> bool:
        """Whether nothing more is to start here."""
        return self._draining or self._drained or self._is_cut_off

    def _open_or_close(self) -> None:
        (self._engine.pause if self._is_closed else self._engine.resume)()
        self._alarm.ring()

    def _claimer(self, gateway: Gateway | None = None) -> Claimer:
        return Claimer(
            gateway=gateway or self._gateway,
            now=self._clock.now(),
            limits=self._limits,
            running=tuple(task.claim.job for task in self._tasks.values()),
            offer=self._offer,
        )

    async def _tick(self, tasks: anyio.abc.TaskGroup) -> datetime | None:
        async with self._taking:
            tick = await self._store.tick(self._claimer())
            self._note_recovery()
            batch = _Batch(len(tick.claims))
            for claim in tick.claims:
                self._start(tasks, claim, batch)
        self._cancel_here(tick.cancels)
        self._tell_ended(tick.ended)
        return tick.next_at

    # What the engine offers

    async def _keep_working(self, tasks: anyio.abc.TaskGroup) -> None:
        async def take(run_id: str) -> bool:
            return await self._take_offer(tasks, run_id)

        await self._engine.work(take, wake=self._alarm.ring)

    async def _take_offer(self, tasks: anyio.abc.TaskGroup, run_id: str) -> bool:
        """Take a run if it can be had, and wait for its end.  The wait may be cut off; the run is a task of ours."""
        over, answers = anyio.Event(), list[bool]()
        tasks.start_soon(self._claim_offered, tasks, run_id, over, answers)
        await over.wait()
        return answers == [True]

    async def _claim_offered(
        self, tasks: anyio.abc.TaskGroup, run_id: str, over: anyio.Event, answers: list[bool]
    ) -> None:
        """Claims one run at a time, so that each sees what the one before it has taken."""
        try:
            async with self._taking:
                taken = Taken() if self._is_closed else await self._store.take(run_id, self._claimer())
                answers.append(taken.is_over or taken.claim is not None)
                if taken.claim is not None:
                    self._offers[run_id] = over
                    self._start(tasks, taken.claim, _Batch(1))
                elif taken.late is not None:
                    self._tell_ended([taken.late])
        except DatabaseError as error:
            self._note_failure(error)
        finally:
            if run_id not in self._offers:
                over.set()

    def _start(self, tasks: anyio.abc.TaskGroup, claim: Claim, batch: _Batch) -> None:
        run = claim.run
        task = RunTask(
            claim,
            clock=self._clock,
            on_progress=lambda text: self._tell_progress(run, text),
            on_stuck=lambda seconds: self._tell_stuck(run, seconds),
            redactor=self._redactor,
        )
        self._tasks[run.id] = task
        self._batches[run.id] = batch
        self._journal.append("run.started", subject=run.job, **_told(run))
        tasks.start_soon(self._perform_run, task)

    async def _perform_run(self, task: RunTask) -> None:
        run = task.claim.run
        try:
            with traced("run", job=run.job, run=run.id, trigger=str(run.trigger), attempt=run.attempt) as span:
                end = self._unless_cut_off(task, await task.perform(self._perform))
                span.set_attribute("sexton.state", str(end.state))
                if end.state is not RunState.RAN:
                    mark_failed(span, end.reason or str(end.state))
        except anyio.get_cancelled_exc_class():
            # What cannot be written now is found and settled by the next start.
            with anyio.move_on_after(GIVE_UP_WRITES_AFTER, shield=True):
                await self._record(task, task.interrupted())
            raise
        else:
            await self._record(task, end)
        finally:
            self._forget(task)

    async def _record(self, task: RunTask, end: RunEnd) -> None:
        """Write the end of a run, as often as it takes: a full disk must not make it forgotten.

        Only when the gateway stops and its time is over, the next start has to settle it as interrupted.
        """
        while True:
            try:
                settled = await self._store.finish(task.claim, end)
            except DatabaseError as error:
                self._note_failure(error)
                if self._out_of_time:
                    self._tell_unrecorded(task.claim.run, end)
                    return
                await self._clock.sleep(RETRY_WRITES_EVERY)
            else:
                self._note_recovery()
                self._tell_settled(task.claim.run, settled)
                return

    def _forget(self, task: RunTask) -> None:
        run = task.claim.run
        del self._tasks[run.id]
        if offered := self._offers.pop(run.id, None):
            offered.set()
        self._progress_told.pop(run.id, None)
        batch = self._batches.pop(run.id)
        batch.left -= 1
        if not batch.left:
            self._sweep.ring()
        self._alarm.ring()
        self._idle.ring()

    # Around the ticks

    async def _keep_sweeping(self) -> None:
        while True:
            await self._sweep.wait(None)
            if self._after_tick is not None:
                await self._call_after_tick(self._after_tick)

    async def _call_after_tick(self, after_tick: Callable[[], Awaitable[None]]) -> None:
        try:
            await after_tick()
        except Exception:  # The outermost edge of this task: the next tick tries again.
            LOG.exception("what follows a tick failed")

    async def _prune(self) -> None:
        full = [name for name, count in self._ended_since_prune.items() if count >= PRUNE_AFTER]
        for name in full:
            await self._store.prune(name, keep=self._limits.history)
            del self._ended_since_prune[name]

    async def _keep_drafting(self) -> None:
        while True:
            await self._clock.sleep(DRAFTS_EVERY)
            drafts = [(task, draft) for task in self._tasks.values() if (draft := task.draft()) is not None]
            if not drafts:
                continue
            try:
                await self._store.keep_drafts([draft for _, draft in drafts])
            except DatabaseError as error:
                self._note_failure(error)
                continue
            self._note_recovery()
            for task, draft in drafts:
                task.drafted(draft)

    async def _keep_beating(self) -> None:
        while True:
            await self._clock.sleep(BEAT_EVERY)
            try:
                await self._beat()
                await self._prune()
            except DatabaseError as error:
                self._beats.forget()
                self._note_failure(error)

    async def _beat(self) -> None:
        running, sent_at = set(self._tasks), self._uptime()
        async with self._taking:  # what is being claimed now is no stray
            pulse = await self._store.beat(self._claimer(self._described()))
            strays = pulse.held - set(self._tasks)
        self._renew_hold(sent_at)
        self._note_recovery()
        self._tell_settlements(pulse.settled)
        self._tell_ended(pulse.late)
        for run_id in running - pulse.held:
            if task := self._tasks.get(run_id):
                task.end(LOST)
        await self._settle_strays(strays)
        if self._is_cut_off and self.hold.left(self._uptime()) > 0:  # not by a beat that was on its way for too long
            self._be_back()
        await self._settle_dead(self._beats.dead(pulse.others, self._gateway, at=self._clock.monotonic()))

    # The fence

    async def _keep_fence(self) -> None:
        """End our work before others may settle it, when our beat has not been committed for too long."""
        if self._lease.fence_after is None:
            return
        while True:
            left = self.hold.left(self._uptime())
            if left > 0 or self._is_cut_off:
                await self._clock.sleep(min(1.0, max(left, 0.1)))
                continue
            self._is_cut_off = True
            self._on_fence()
            self._open_or_close()
            self._journal.append("node.cut_off", subject=self._gateway.name, runs=len(self._tasks))
            for task in list(self._tasks.values()):
                task.end(CUT_OFF)
            await self._clock.sleep(KILL_AFTER)
            if self._is_cut_off:
                self._on_cut_off()
                self.hold.is_given_up = True
                self._keep_until(None)  # what is started from now on, for clients, is under no claim

    def _renew_hold(self, sent_at: float) -> None:
        self.hold.renewed(sent_at)
        if not self.hold.is_given_up or self.hold.left(self._uptime()) > 0:
            self._keep_until(self.hold.ended_for_us_at)

    def _unless_cut_off(self, task: RunTask, end: RunEnd) -> RunEnd:
        """What failed when our claim was over was ended for us, while we were stopped."""
        if end.state is not RunState.FAILED or self.hold.left(self._uptime()) > 0:
            return end
        task.end(CUT_OFF)
        return task.interrupted()

    def _be_back(self) -> None:
        self._is_cut_off = self.hold.is_given_up = False
        self._journal.append("node.back", subject=self._gateway.name)
        self._open_or_close()

    async def _settle_strays(self, strays: frozenset[str]) -> None:
        """What was a stray at the last beat too: the commit of its claim, or of its end, was not told to us."""
        lasting, self._strays = strays & self._strays, strays
        if lasting:
            self._tell_settlements(await self._store.settle_strays(self._gateway.id, lasting, now=self._clock.now()))

    async def _certainly_dead(self) -> list[Gateway]:
        others = [gateway for gateway in await self._store.gateways() if gateway.id != self._gateway.id]
        self._beats.dead(others, self._gateway, at=self._clock.monotonic())
        return [other for other in others if is_gone(other, self._gateway) and self._had_our_place(other)]

    def _had_our_place(self, other: Gateway) -> bool:
        """Then what it left of processes has been ended before we came here."""
        return other.process.get("place") == self._gateway.process.get("place")

    async def _settle_dead(self, gateways: Iterable[Gateway]) -> None:
        for gateway in gateways:
            settled = await self._store.settle_dead(gateway, now=self._clock.now(), by=self._gateway.name)
            if settled is None:
                continue
            self._journal.append("gateway.dead", subject=gateway.id, node=gateway.name, runs=len(settled))
            self._tell_settlements(settled)
            self._alarm.ring()

    async def _watch_clock(self) -> None:
        """Tell of jumps of the wall clock (or a machine that slept), and start anew from where it stands now."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        while True:
            await self._clock.sleep(1.0)
            wall_now, steady_now = self._clock.now(), self._clock.monotonic()
            jump = (wall_now - wall) - timedelta(seconds=steady_now - steady)
            wall, steady = wall_now, steady_now
            if abs(jump) > JUMP:
                self._journal.append("clock.jumped", subject=self._gateway.name, seconds=jump.total_seconds())
                with suppress(DatabaseError):  # The next tick meets and tells the same failure.
                    self._tell_moved(await self._store.realign(now=wall_now, jump=jump))
                self._alarm.ring()

    async def _leave(self) -> None:
        with suppress(DatabaseError):  # The next start finds us gone and does the same.
            await self._store.unregister(self._gateway.id, now=self._clock.now())

    async def _wait_idle(self, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        while self._tasks and (left := deadline - self._clock.monotonic()) > 0:
            await self._idle.wait(left)

    def _cancel_here(self, cancels: Mapping[str, str]) -> None:
        for run_id, reason in cancels.items():
            if task := self._tasks.get(run_id):
                task.end(cancelled(reason))

    # Telling

    def _note_failure(self, error: DatabaseError) -> None:
        if self._failing is None or self._failing.failure is not error.failure:
            self._journal.append(
                "database.failing",
                subject=self._gateway.name,
                failure=str(error.failure),
                what=error.what,
                hint=error.hint,
            )
        self._failing = error

    def _note_recovery(self) -> None:
        """Called after a write: a full disk can still be read."""
        if self._failing is not None:
            self._journal.append("database.recovered", subject=self._gateway.name)
            self._failing = None

    def _tell_changes(self, changes: JobChanges) -> None:
        for kind in ("added", "changed", "removed"):
            for name in getattr(changes, kind):
                self._journal.append(f"job.{kind}", subject=name)
        self._tell_ended(changes.cancelled)
        self._alarm.ring()

    def _tell_moved(self, names: Iterable[str]) -> None:
        for name in names:
            self._journal.append(
                "job.changed", subject=name, reason="the clock was set back: its next slot is computed anew"
            )

    def _tell_ended(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._ended_since_prune[run.job] = self._ended_since_prune.get(run.job, 0) + 1
            kind = f"run.{run.state}" if run.state in {RunState.SKIPPED, RunState.MISSED} else "run.ended"
            self._journal.append(kind, subject=run.job, **_told(run))

    def _tell_settled(self, run: Run, settled: Settled | None) -> None:
        if settled is None:
            self._journal.append("run.lost", subject=run.job, run=run.id, reason=LOST.reason)
            return
        self._tell_ended([settled.run])
        if settled.again is not None:
            self._journal.append("run.queued", subject=run.job, **_told(settled.again))

    def _tell_settlements(self, settlements: Iterable[Settled]) -> None:
        for settled in settlements:
            self._tell_settled(settled.run, settled)

    def _tell_unrecorded(self, run: Run, end: RunEnd) -> None:
        self._journal.append("run.unrecorded", subject=run.job, run=run.id, state=str(end.state), error=end.error)

    def _tell_progress(self, run: Run, text: str) -> None:
        now = self._clock.monotonic()
        if now - self._progress_told.get(run.id, -PROGRESS_EVERY) >= PROGRESS_EVERY:
            self._progress_told[run.id] = now
            self._journal.append("run.progress", subject=run.job, run=run.id, text=text[:500])

    def _tell_stuck(self, run: Run, seconds: float) -> None:
        LOG.error("run %s of job '%s' has not ended %g s after it was told to", run.id, run.job, seconds)
        self._journal.append("run.stuck", subject=run.job, run=run.id, seconds=seconds)


def _told(run: Run) -> dict[str, str | int | float | None]:
    """What the journal keeps of a run: enough for a line on a console, never the whole output."""
    told: dict[str, str | int | float | None] = {
        "run": run.id,
        "state": str(run.state),
        "trigger": str(run.trigger),
        "attempt": run.attempt,
        "slot": run.slot.isoformat() if run.slot else None,
        "reason": run.reason,
    }
    if run.count > 1:
        told["count"] = run.count
    if run.ended_at and run.started_at:
        told["seconds"] = round((run.ended_at - run.started_at).total_seconds(), 3)
    if run.output:
        told["output"] = run.output[:200]
    if run.error:
        told["error"] = run.error[:500]
    return told
