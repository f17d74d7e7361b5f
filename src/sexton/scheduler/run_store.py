"""Jobs and runs in the database.

Every method is one transaction.  What decides (which slots run, what may
start) is in pure modules; this one reads what they need and writes what they
said.  A claim is one compare-and-set: a run leaves `queued` once, and its
`fence` goes up each time it changes hands, so that only the gateway that holds
it now can write its end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, or_, select, tuple_, update

from sexton import database as tables
from sexton.database import Database
from sexton.errors import UsageError
from sexton.journal import JSON
from sexton.scheduler import timetable
from sexton.scheduler.admission import Room, Verdict, admit, count_resources, retry_delay
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import (
    EXCERPT,
    NOTHING,
    Job,
    JobStatus,
    Limits,
    LogLine,
    OnInterrupted,
    Origin,
    Run,
    RunRecord,
    Trigger,
    UnknownJob,
    UnknownRun,
)
from sexton.scheduler.job_document import check_job, from_document, to_document
from sexton.scheduler.run_id import new_run_id
from sexton.scheduler.run_states import ACTIVE, ENDED, RunState
from sexton.scheduler.slot_plan import ON_TIME, plan_slots, start_of

DUE_AT_ONCE = 500
WAITING_AT_ONCE = 500
MOST_RERUNS = 3
# Debian cron's rule (cron(8)): a clock that is set back by more than this was corrected; by less, slots are not redone.
CORRECTION = timedelta(hours=3)

_job = tables.job
_run = tables.run
_output = tables.run_output
_node = tables.node
_ACTIVE = tuple(str(state) for state in ACTIVE)
_ENDED = tuple(str(state) for state in ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run that this gateway holds, until it writes its end with the same fence."""

    run: Run
    job: Job
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What there is to do: a tick is due at `next_at` (None: nothing in sight); `cancels` are wishes for our runs."""

    next_at: datetime | None
    cancels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick did: runs claimed, rows that ended without running, runs to be cancelled in favour of others."""

    claims: tuple[Claim, ...] = ()
    ended: tuple[Run, ...] = ()
    cancels: Mapping[str, str] = field(default_factory=dict)
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    state: RunState
    at: datetime
    reason: str | None = None
    output: str | None = None
    error: str | None = None
    details: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)
    log: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A run that has ended, and the one that tries again, if any."""

    run: Run
    again: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanges:
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    cancelled: tuple[Run, ...] = ()


class RunStore:
    """See the module.  Raises `DatabaseError` from every method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Gateways

    async def register(self, gateway: Gateway, *, now: datetime) -> None:
        await self._database.write(partial(_register, gateway=gateway, now=now))

    async def unregister(self, gateway_id: str) -> None:
        await self._database.write(partial(_unregister, gateway_id=gateway_id))

    async def beat(self, gateway_id: str) -> bool:
        """Say that we live.  False: another gateway took us for dead and settled our runs."""
        return await self._database.write(partial(_beat, gateway_id=gateway_id))

    async def gateways(self) -> tuple[Gateway, ...]:
        return await self._database.read(_gateways)

    async def held_by(self, gateway_id: str) -> frozenset[str]:
        """The ids of the runs that the database says are running there."""
        return await self._database.read(partial(_held_by, gateway_id=gateway_id))

    async def settle_dead(self, gateway_id: str, *, now: datetime) -> tuple[Settled, ...]:
        """End what a dead gateway was running as interrupted; queue again what its job wants rerun."""
        return await self._database.write(partial(_settle_dead, gateway_id=gateway_id, now=now))

    # Jobs

    async def put_job(self, job: Job, *, now: datetime) -> JobChanges:
        """Add or change one job.  Raises `UsageError` when it cannot be meant or belongs to the other origin."""
        check_job(job)
        return await self._database.write(partial(_put_job, job=job, now=now))

    async def replace_config_jobs(self, jobs: Sequence[Job], *, now: datetime) -> JobChanges:
        """Make the config's jobs be these; a job that did not change is not touched."""
        for job in jobs:
            check_job(job)
        return await self._database.write(partial(_replace_config_jobs, jobs=jobs, now=now))

    async def remove_job(self, name: str, *, now: datetime) -> JobChanges:
        return await self._database.write(partial(_remove_jobs, names=[name], now=now))

    async def set_paused(self, name: str, *, paused: bool, now: datetime) -> tuple[Run, ...] | None:
        """Pause or resume.  None: it was so already; else the rows of the slots that were skipped in the pause."""
        return await self._database.write(partial(_set_paused, name=name, paused=paused, now=now))

    async def job(self, name: str) -> Job:
        return await self._database.read(partial(_job_named, name=name))

    async def statuses(self) -> tuple[JobStatus, ...]:
        return await self._database.read(_statuses)

    async def realign(self, *, now: datetime) -> tuple[str, ...]:
        """Bring back jobs whose next slot was computed when the clock stood hours ahead; their names."""
        return await self._database.write(partial(_realign, now=now))

    # Ticks

    async def outlook(self, gateway_id: str) -> Outlook:
        return await self._database.read(partial(_outlook, gateway_id=gateway_id))

    async def tick(self, gateway: Gateway, *, now: datetime, limits: Limits, running: Sequence[Job]) -> Tick:
        """Turn due slots into rows and claim what may start, given the jobs of the runs `running` on this gateway."""
        return await self._database.write(
            partial(_tick, gateway=gateway, now=now, limits=limits, running=tuple(running))
        )

    # Runs

    async def finish(self, claim: Claim, end: RunEnd) -> Settled | None:
        """Write the end of a run that we hold.  None: we do not hold it any more."""
        return await self._database.write(partial(_finish, claim=claim, end=end))

    async def add_manual_run(self, name: str, *, now: datetime) -> tuple[Run, Mapping[str, str], tuple[Run, ...]]:
        """A waiting run by hand, with what it replaces: running runs to cancel, waiting ones that were cancelled."""
        return await self._database.write(partial(_add_manual_run, name=name, now=now))

    async def request_cancel(self, run_id: str, *, reason: str, now: datetime) -> Run:
        """Cancel a waiting run; of a running one, leave the wish for the gateway that holds it."""
        return await self._database.write(partial(_request_cancel, run_id=run_id, reason=reason, now=now))

    async def runs(
        self, *, job: str | None, states: Collection[RunState], limit: int, before: str | None
    ) -> tuple[Run, ...]:
        return await self._database.read(partial(_runs, job=job, states=states, limit=limit, before=before))

    async def run_record(self, run_id: str) -> RunRecord:
        return await self._database.read(partial(_run_record, run_id=run_id))

    async def prune(self, job: str, *, keep: int) -> int:
        """Delete the oldest ended runs of a job but for `keep`; how many that were."""
        return await self._database.write(partial(_prune, job=job, keep=keep))


# Rows


def _run_of(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        job=row.job,
        state=RunState(row.state),
        trigger=Trigger(row.trigger),
        slot=row.slot,
        slot_end=row.slot_end,
        count=row.slot_count,
        attempt=row.attempt,
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        output=row.excerpt,
        error=row.error,
        details=row.details,
        node=row.owner,
    )


def _row_of(run: Run, *, priority: int, not_before: datetime | None = None) -> dict[str, Any]:
    return {
        "id": run.id,
        "job": run.job,
        "slot": run.slot,
        "slot_end": run.slot_end,
        "slot_count": run.count,
        "attempt": run.attempt,
        "state": str(run.state),
        "trigger": str(run.trigger),
        "reason": run.reason,
        "priority": priority,
        "not_before": not_before or run.created_at,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "details": dict(run.details),
        "fence": 0,
    }


def _job_of(row: Row[Any]) -> Job:
    return replace(from_document(row.definition), paused=row.paused)


def _definition(job: Job) -> dict[str, Any]:
    return to_document(job)


def _add_runs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(_run), rows)


# Gateways


def _register(connection: Connection, *, gateway: Gateway, now: datetime) -> None:
    connection.execute(
        insert(_node).values(
            id=gateway.id, name=gateway.name, process=dict(gateway.process), beat=gateway.beat, started_at=now
        )
    )


def _unregister(connection: Connection, *, gateway_id: str) -> None:
    connection.execute(delete(_node).where(_node.c.id == gateway_id))


def _beat(connection: Connection, *, gateway_id: str) -> bool:
    statement = update(_node).where(_node.c.id == gateway_id).values(beat=_node.c.beat + 1)
    return connection.execute(statement).rowcount == 1


def _gateways(connection: Connection) -> tuple[Gateway, ...]:
    rows = connection.execute(select(_node)).all()
    return tuple(Gateway(id=row.id, name=row.name, process=row.process, beat=row.beat) for row in rows)


def _held_by(connection: Connection, *, gateway_id: str) -> frozenset[str]:
    statement = select(_run.c.id).where(_run.c.state == str(RunState.RUNNING), _run.c.owner == gateway_id)
    return frozenset(connection.execute(statement).scalars())


def _settle_dead(connection: Connection, *, gateway_id: str, now: datetime) -> tuple[Settled, ...]:
    _unregister(connection, gateway_id=gateway_id)
    held = select(_run).where(_run.c.state == str(RunState.RUNNING), _run.c.owner == gateway_id).order_by(_run.c.id)
    end = RunEnd(state=RunState.INTERRUPTED, at=now, reason="the gateway ended while it ran")
    return tuple(_end_run(connection, row, end) for row in connection.execute(held.with_for_update()).all())


# Jobs


def _put_job(connection: Connection, *, job: Job, now: datetime) -> JobChanges:
    row = connection.execute(select(_job).where(_job.c.name == job.name).with_for_update()).one_or_none()
    if row is None:
        _insert_job(connection, job, now)
        return JobChanges(added=(job.name,))
    if Origin(row.origin) is not job.origin:
        raise _wrong_origin(job.name, Origin(row.origin))
    return JobChanges(changed=(job.name,)) if _change_job(connection, row, job, now) else JobChanges()


def _wrong_origin(name: str, origin: Origin) -> UsageError:
    if origin is Origin.CONFIG:
        return UsageError(f"Job '{name}' stands in the config file.", hint="change it there, or choose another name")
    return UsageError(
        f"Job '{name}' was added at run time and cannot stand in the config file too.",
        hint=f"rename one of them, or run: sexton jobs remove {name}",
    )


def _insert_job(connection: Connection, job: Job, now: datetime) -> None:
    slot = _first_slot(job, now)
    connection.execute(
        insert(_job).values(
            name=job.name,
            definition=_definition(job),
            origin=str(job.origin),
            paused=job.paused,
            next_slot=slot,
            next_start=None if job.paused else start_of(job, slot),
            created_at=now,
            changed_at=now,
        )
    )


def _first_slot(job: Job, now: datetime) -> datetime | None:
    """A one-shot time that has passed already is a slot too: it ends as a row that says what became of it."""
    if job.schedule is None:
        return None
    coming = timetable.next_slot(job.schedule, job.timezone, after=now)
    return coming or timetable.only_slot(job.schedule)


def _change_job(connection: Connection, row: Row[Any], job: Job, now: datetime) -> bool:
    before = from_document(row.definition)
    if before == job:
        return False
    paused = job.paused if job.paused != before.paused else row.paused
    same_times = all(getattr(before, name) == getattr(job, name) for name in ("schedule", "timezone"))
    slot = row.next_slot if same_times else _first_slot(job, now)
    connection.execute(
        update(_job)
        .where(_job.c.name == job.name)
        .values(
            definition=_definition(job),
            paused=paused,
            next_slot=slot,
            next_start=None if paused else start_of(job, slot),
            changed_at=now,
        )
    )
    return True


def _replace_config_jobs(connection: Connection, *, jobs: Sequence[Job], now: datetime) -> JobChanges:
    rows = {row.name: row for row in connection.execute(select(_job).with_for_update()).all()}
    added, changed = [], []
    for job in jobs:
        row = rows.get(job.name)
        if row is None:
            _insert_job(connection, job, now)
            added.append(job.name)
        elif Origin(row.origin) is not Origin.CONFIG:
            raise _wrong_origin(job.name, Origin(row.origin))
        elif _change_job(connection, row, job, now):
            changed.append(job.name)
    wanted = {job.name for job in jobs}
    gone = [name for name, row in rows.items() if row.origin == str(Origin.CONFIG) and name not in wanted]
    removal = _remove_jobs(connection, names=gone, now=now)
    return replace(removal, added=tuple(added), changed=tuple(changed))


def _remove_jobs(connection: Connection, *, names: Sequence[str], now: datetime) -> JobChanges:
    """What waits is cancelled; what runs is left to end; the history stays."""
    rows = connection.execute(select(_job).where(_job.c.name.in_(names)).with_for_update()).all()
    if missing := set(names) - {row.name for row in rows}:
        raise _unknown_job(connection, missing.pop())
    ended: list[Run] = []
    for row in rows:
        ended += _end_pause(connection, row, now)
        ended += _cancel_waiting(connection, row.name, "the job was removed", now)
    connection.execute(delete(_job).where(_job.c.name.in_(names)))
    return JobChanges(removed=tuple(names), cancelled=tuple(ended))


def _unknown_job(connection: Connection, name: str) -> UnknownJob:
    known = tuple(connection.execute(select(_job.c.name).order_by(_job.c.name).limit(20)).scalars())
    return UnknownJob(name, known=known)


def _cancel_waiting(connection: Connection, job: str, reason: str, now: datetime) -> list[Run]:
    waiting = select(_run).where(_run.c.job == job, _run.c.state == str(RunState.QUEUED)).with_for_update()
    end = RunEnd(state=RunState.CANCELLED, at=now, reason=reason)
    return [_write_end(connection, row, end) for row in connection.execute(waiting).all()]


def _set_paused(connection: Connection, *, name: str, paused: bool, now: datetime) -> tuple[Run, ...] | None:
    row = connection.execute(select(_job).where(_job.c.name == name).with_for_update()).one_or_none()
    if row is None:
        raise _unknown_job(connection, name)
    if row.paused == paused:
        return None
    job = _job_of(row)
    skipped = [] if paused else _end_pause(connection, row, now)
    slot = row.next_slot
    if skipped and job.schedule is not None:
        slot = timetable.next_slot(job.schedule, job.timezone, after=now)
    start = None if paused else start_of(job, slot)
    values = {"paused": paused, "next_slot": slot, "next_start": start, "changed_at": now}
    connection.execute(update(_job).where(_job.c.name == name).values(**values))
    return tuple(skipped)


def _end_pause(connection: Connection, row: Row[Any], now: datetime) -> list[Run]:
    """One row for all slots that came while the job was paused."""
    job = _job_of(row)
    if not row.paused or row.next_slot is None or job.schedule is None:
        return []
    missed = timetable.stretch(job.schedule, job.timezone, first=row.next_slot, until=now)
    if missed is None:
        return []
    run = _stretch_run(job, missed, RunState.SKIPPED, "paused", now)
    _add_runs(connection, [_row_of(run, priority=job.priority)])
    return [run]


def _stretch_run(job: Job, stretch: timetable.Stretch, state: RunState, reason: str, now: datetime) -> Run:
    return Run(
        id=new_run_id(now),
        job=job.name,
        state=state,
        trigger=Trigger.SCHEDULE,
        slot=stretch.first,
        slot_end=stretch.last if stretch.count > 1 else None,
        count=stretch.count,
        reason=reason,
        created_at=now,
        ended_at=now,
        details={} if stretch.exact else {"count_at_least": True},
    )


def _job_named(connection: Connection, *, name: str) -> Job:
    row = connection.execute(select(_job).where(_job.c.name == name)).one_or_none()
    if row is None:
        raise _unknown_job(connection, name)
    return _job_of(row)


def _statuses(connection: Connection) -> tuple[JobStatus, ...]:
    rows = connection.execute(select(_job).order_by(_job.c.name)).all()
    active: dict[str, list[Run]] = defaultdict(list)
    for row in connection.execute(select(_run).where(_run.c.state.in_(_ACTIVE)).order_by(_run.c.id)).all():
        active[row.job].append(_run_of(row))
    ended = _run.alias()  # of its own, for the statement around it reads the same table
    newest = (
        select(ended.c.id)
        .where(ended.c.job == _job.c.name, ended.c.state.in_(_ENDED))
        .order_by(ended.c.id.desc())
        .limit(1)
        .correlate(_job)
        .scalar_subquery()
    )
    last = {row.job: _run_of(row) for row in connection.execute(select(_run).join(_job, _run.c.id == newest)).all()}
    return tuple(
        JobStatus(job=_job_of(row), next_at=row.next_start, active=tuple(active[row.name]), last=last.get(row.name))
        for row in rows
    )


def _realign(connection: Connection, *, now: datetime) -> tuple[str, ...]:
    """A slot that is further away than the schedule's next one by hours comes from a clock that was wrong then."""
    moved = []
    for row in connection.execute(select(_job).where(_job.c.next_slot > now + CORRECTION).with_for_update()).all():
        job = _job_of(row)
        slot = timetable.next_slot(job.schedule, job.timezone, after=now) if job.schedule else None
        if slot is None or row.next_slot - slot <= CORRECTION:
            continue
        start = None if row.paused else start_of(job, slot)
        connection.execute(update(_job).where(_job.c.name == row.name).values(next_slot=slot, next_start=start))
        moved.append(row.name)
    return tuple(moved)


# Ticks


def _outlook(connection: Connection, *, gateway_id: str) -> Outlook:
    wishes = select(_run.c.id, _run.c.cancel_reason).where(
        _run.c.state == str(RunState.RUNNING), _run.c.owner == gateway_id, _run.c.cancel_reason.is_not(None)
    )
    cancels = {row.id: row.cancel_reason for row in connection.execute(wishes).all()}
    return Outlook(next_at=_next_at(connection, after=None), cancels=cancels)


def _next_at(connection: Connection, *, after: datetime | None) -> datetime | None:
    """When the next job starts or, after that time, the next waiting run may."""
    job = select(func.min(_job.c.next_start))
    waiting = select(func.min(_run.c.not_before)).where(_run.c.state == str(RunState.QUEUED))
    if after is not None:
        waiting = waiting.where(_run.c.not_before > after)
    times = [connection.execute(statement).scalar() for statement in (job, waiting)]
    return min((time for time in times if time is not None), default=None)


def _tick(connection: Connection, *, gateway: Gateway, now: datetime, limits: Limits, running: tuple[Job, ...]) -> Tick:
    ended, cancels = _plan_due(connection, now)
    late, claims = _claim(connection, gateway, now, limits, running)
    return Tick(claims=tuple(claims), ended=(*ended, *late), cancels=cancels, next_at=_next_at(connection, after=now))


def _plan_due(connection: Connection, now: datetime) -> tuple[list[Run], dict[str, str]]:
    due = (
        select(_job)
        .where(_job.c.next_start <= now)
        .order_by(_job.c.next_start)
        .limit(DUE_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(due).all()
    active = _active_by_job(connection, [row.name for row in rows])
    planner = _Planner(connection, now)
    for row in rows:
        planner.plan(row, active[row.name])
    planner.write()
    return planner.ended, planner.cancels


def _active_by_job(connection: Connection, jobs: Sequence[str]) -> defaultdict[str, list[Row[Any]]]:
    active: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    if jobs:
        statement = select(_run).where(_run.c.job.in_(jobs), _run.c.state.in_(_ACTIVE)).order_by(_run.c.id)
        for row in connection.execute(statement).all():
            active[row.job].append(row)
    return active


class _Planner:
    """Collects what a tick makes of the due jobs, to write it in few statements."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self._rows: list[dict[str, Any]] = []
        self._advances: list[dict[str, Any]] = []
        self.ended: list[Run] = []
        self.cancels: dict[str, str] = {}

    def plan(self, row: Row[Any], active: list[Row[Any]]) -> None:
        job = _job_of(row)
        plan = plan_slots(job, first=row.next_slot, now=self._now)
        if plan.missed:
            reason = f"could not run at its time (catch_up = {job.catch_up})"
            self._end(job, _stretch_run(job, plan.missed, RunState.MISSED, reason, self._now))
        waiting = sum(row.state == str(RunState.QUEUED) for row in active)
        running = len(active) - waiting
        for due in plan.due:
            run = self._run(job, due.slot, due.trigger)
            match admit(job, due.trigger, waiting=waiting, running=running):
                case Verdict.SKIP:
                    self._end(job, self._skipped(run, "the previous run has not ended"))
                    continue
                case Verdict.FULL:
                    self._end(job, self._skipped(run, "too many runs of this job are waiting"))
                    continue
                case Verdict.REPLACE:
                    self.ended += _replace_active(self._connection, active, self.cancels, self._now)
                    waiting = 0
                case Verdict.ADMIT:
                    pass
            waiting += 1
            self._rows.append(_row_of(run, priority=job.priority))
        self._advances.append({"b_name": job.name, "next_slot": plan.next_slot, "next_start": plan.next_start})

    def write(self) -> None:
        """Rows first, so that a slot which has one already (the clock went back) keeps it and gets no second."""
        rows = self._without_taken(self._rows)
        _add_runs(self._connection, rows)
        written = {row["id"] for row in rows}
        self.ended = [run for run in self.ended if run.id in written or run.state is RunState.CANCELLED]
        if self._advances:
            from_b = _job.c.name == bindparam("b_name")
            values: dict[str, Any] = {"next_slot": bindparam("next_slot"), "next_start": bindparam("next_start")}
            self._connection.execute(update(_job).where(from_b).values(**values), self._advances)

    def _without_taken(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        slots = [(row["job"], row["slot"]) for row in rows]
        statement = select(_run.c.job, _run.c.slot).where(tuple_(_run.c.job, _run.c.slot).in_(slots))
        taken = {(row.job, row.slot) for row in self._connection.execute(statement).all()} if slots else set()
        return [row for row in rows if (row["job"], row["slot"]) not in taken]

    def _run(self, job: Job, slot: datetime, trigger: Trigger) -> Run:
        return Run(
            id=new_run_id(self._now),
            job=job.name,
            state=RunState.QUEUED,
            trigger=trigger,
            slot=slot,
            created_at=self._now,
        )

    def _skipped(self, run: Run, reason: str) -> Run:
        return replace(run, state=RunState.SKIPPED, reason=reason, ended_at=self._now)

    def _end(self, job: Job, run: Run) -> None:
        self.ended.append(run)
        self._rows.append(_row_of(run, priority=job.priority))


def _replace_active(
    connection: Connection, active: Iterable[Row[Any]], cancels: dict[str, str], now: datetime
) -> list[Run]:
    """Cancel what waits, and leave the wish to cancel with what runs."""
    reason = "replaced by the next run"
    ended = []
    for row in active:
        if row.state == str(RunState.QUEUED):
            end = RunEnd(state=RunState.CANCELLED, at=now, reason=reason)
            ended.append(_write_end(connection, row, end))
        else:
            connection.execute(update(_run).where(_run.c.id == row.id).values(cancel_reason=reason))
            cancels[row.id] = reason
    return ended


def _claim(
    connection: Connection, gateway: Gateway, now: datetime, limits: Limits, running: tuple[Job, ...]
) -> tuple[list[Run], list[Claim]]:
    """Claim waiting runs, by priority and then by age, as far as every limit allows."""
    by_job = (
        select(_run.c.job, func.count().label("running"))
        .where(_run.c.state == str(RunState.RUNNING))
        .group_by(_run.c.job)
    )
    room = Room(
        limits=limits,
        running=len(running),
        running_by_job=Counter({row.job: row.running for row in connection.execute(by_job)}),
        running_by_resource=count_resources(running),
    )
    late: list[Run] = []
    claims: list[Claim] = []
    after: tuple[int, str] | None = None
    while not room.is_full:
        rows = _waiting(connection, now, after)
        for row in rows:
            job = _job_of(row)
            if _is_too_late(job, row, now):
                reason = "waited for longer than its catch_up_window"
                late.append(_write_end(connection, row, RunEnd(state=RunState.MISSED, at=now, reason=reason)))
            elif room.take(job):
                claims.append(_take(connection, row, job, gateway, now))
        if len(rows) < WAITING_AT_ONCE:
            break
        after = (rows[-1].priority, rows[-1].id)
    return late, claims


def _waiting(connection: Connection, now: datetime, after: tuple[int, str] | None) -> Sequence[Row[Any]]:
    statement = (
        select(_run, _job.c.definition, _job.c.paused)
        .join(_job, _job.c.name == _run.c.job)
        .where(_run.c.state == str(RunState.QUEUED), _run.c.not_before <= now)
        .order_by(_run.c.priority.desc(), _run.c.id)
        .limit(WAITING_AT_ONCE)
        .with_for_update(skip_locked=True, of=_run)
    )
    if after is not None:
        priority, run_id = after
        lower = _run.c.priority < priority
        statement = statement.where(or_(lower, and_(_run.c.priority == priority, _run.c.id > run_id)))
    return connection.execute(statement).all()


def _is_too_late(job: Job, row: Row[Any], now: datetime) -> bool:
    if row.slot is None or row.trigger == str(Trigger.RETRY):
        return False
    late = now - row.slot - timedelta(seconds=job.jitter)
    return bool(late > max(timedelta(seconds=job.catch_up_window), ON_TIME))


def _take(connection: Connection, row: Row[Any], job: Job, gateway: Gateway, now: datetime) -> Claim:
    connection.execute(
        update(_run)
        .where(_run.c.id == row.id, _run.c.state == str(RunState.QUEUED))
        .values(state=str(RunState.RUNNING), owner=gateway.id, fence=row.fence + 1, started_at=now)
    )
    run = replace(_run_of(row), state=RunState.RUNNING, started_at=now, node=gateway.id)
    return Claim(run=run, job=job, fence=row.fence + 1)


# Runs


def _finish(connection: Connection, *, claim: Claim, end: RunEnd) -> Settled | None:
    held = select(_run).where(
        _run.c.id == claim.run.id, _run.c.state == str(RunState.RUNNING), _run.c.fence == claim.fence
    )
    row = connection.execute(held.with_for_update()).one_or_none()
    return None if row is None else _end_run(connection, row, end)


def _end_run(connection: Connection, row: Row[Any], end: RunEnd) -> Settled:
    run = _write_end(connection, row, end)
    stored = connection.execute(select(_job).where(_job.c.name == run.job)).one_or_none()
    again = _again(_job_of(stored), run, end.at) if stored is not None else None
    if again is None:
        return Settled(run=run)
    follow_up, not_before, priority = again
    _add_runs(connection, [_row_of(follow_up, priority=priority, not_before=not_before)])
    return Settled(run=run, again=follow_up)


def _again(job: Job, run: Run, now: datetime) -> tuple[Run, datetime, int] | None:
    if run.state is RunState.FAILED and run.attempt <= job.retries:
        reason, not_before = f"attempt {run.attempt} failed", now + retry_delay(job, run.id, run.attempt)
    elif (
        run.state is RunState.INTERRUPTED
        and job.on_interrupted is OnInterrupted.RERUN
        and run.attempt <= job.retries + MOST_RERUNS
    ):
        reason, not_before = f"attempt {run.attempt} was interrupted", now
    else:
        return None
    follow_up = Run(
        id=new_run_id(now),
        job=run.job,
        state=RunState.QUEUED,
        trigger=Trigger.RETRY,
        slot=run.slot,
        attempt=run.attempt + 1,
        reason=reason,
        created_at=now,
    )
    return follow_up, not_before, job.priority


def _write_end(connection: Connection, row: Row[Any], end: RunEnd) -> Run:
    excerpt = None if end.output is None else end.output[:EXCERPT]
    values: dict[str, Any] = {
        "state": str(end.state),
        "ended_at": end.at,
        "reason": end.reason or row.reason,
        "excerpt": excerpt,
        "error": end.error,
        "details": {**row.details, **end.details},
        "fence": row.fence + 1,
    }
    connection.execute(update(_run).where(_run.c.id == row.id).values(**values))
    if end.log or (end.output or "") != (excerpt or ""):
        log = [[line.at.isoformat(), line.text] for line in end.log]
        connection.execute(insert(_output).values(run=row.id, output=end.output, log=log))
    return replace(
        _run_of(row),
        state=end.state,
        ended_at=end.at,
        reason=values["reason"],
        output=excerpt,
        error=end.error,
        details=values["details"],
    )


def _add_manual_run(
    connection: Connection, *, name: str, now: datetime
) -> tuple[Run, Mapping[str, str], tuple[Run, ...]]:
    job = _job_named(connection, name=name)
    active = _active_by_job(connection, [name])[name]
    waiting = sum(row.state == str(RunState.QUEUED) for row in active)
    cancels: dict[str, str] = {}
    replaced: list[Run] = []
    match admit(job, Trigger.MANUAL, waiting=waiting, running=len(active) - waiting):
        case Verdict.FULL:
            raise UsageError(f"{waiting} runs of job '{name}' are waiting already.", hint="wait, or cancel some")
        case Verdict.REPLACE:
            replaced = _replace_active(connection, active, cancels, now)
        case Verdict.ADMIT | Verdict.SKIP:
            pass
    run = Run(id=new_run_id(now), job=name, state=RunState.QUEUED, trigger=Trigger.MANUAL, created_at=now)
    _add_runs(connection, [_row_of(run, priority=job.priority)])
    return run, cancels, tuple(replaced)


def _request_cancel(connection: Connection, *, run_id: str, reason: str, now: datetime) -> Run:
    row = connection.execute(select(_run).where(_run.c.id == run_id).with_for_update()).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    match RunState(row.state):
        case RunState.QUEUED:
            return _write_end(connection, row, RunEnd(state=RunState.CANCELLED, at=now, reason=reason))
        case RunState.RUNNING:
            connection.execute(update(_run).where(_run.c.id == run_id).values(cancel_reason=reason))
        case _:
            pass
    return _run_of(row)


def _runs(
    connection: Connection, *, job: str | None, states: Collection[RunState], limit: int, before: str | None
) -> tuple[Run, ...]:
    statement = select(_run).order_by(_run.c.id.desc()).limit(limit)
    if job is not None:
        statement = statement.where(_run.c.job == job)
    if states:
        statement = statement.where(_run.c.state.in_([str(state) for state in states]))
    if before is not None:
        statement = statement.where(_run.c.id < before)
    return tuple(_run_of(row) for row in connection.execute(statement).all())


def _run_record(connection: Connection, *, run_id: str) -> RunRecord:
    row = connection.execute(select(_run).where(_run.c.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    kept = connection.execute(select(_output).where(_output.c.run == run_id)).one_or_none()
    if kept is None:
        return RunRecord(run=_run_of(row), output=row.excerpt, log=())
    log = tuple(LogLine(at=datetime.fromisoformat(at), text=text) for at, text in kept.log)
    return RunRecord(run=_run_of(row), output=kept.output, log=log)


def _prune(connection: Connection, *, job: str, keep: int) -> int:
    ended = and_(_run.c.job == job, _run.c.state.in_(_ENDED))
    newest_to_go = select(_run.c.id).where(ended).order_by(_run.c.id.desc()).offset(keep).limit(1)
    run_id = connection.execute(newest_to_go).scalar()
    if run_id is None:
        return 0
    return connection.execute(delete(_run).where(ended, _run.c.id <= run_id)).rowcount
