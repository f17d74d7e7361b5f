"""The transaction of a tick: due slots become rows, and an engine sees to the runs that wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, tuple_, update

from sexton import database as tables
from sexton.errors import UsageError
from sexton.scheduler.admission import Verdict, admit
from sexton.scheduler.claim import Claim, Claimer
from sexton.scheduler.engine import Engine
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import Job, Run, Trigger
from sexton.scheduler.node_rows import is_drained
from sexton.scheduler.rows import (
    AT_ONCE,
    active_by_job,
    add_runs,
    job_named,
    replace_active,
    row_of,
    stretch_run,
    timed_job_of,
)
from sexton.scheduler.run_id import new_run_id
from sexton.scheduler.run_states import RunState
from sexton.scheduler.slot_plan import MICROSECOND, plan_slots

DUE_AT_ONCE = 500
_job = tables.job
_run = tables.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What there is to do: a tick is due at `next_at` (None: nothing in sight); `cancels` are wishes for our runs;
    `drained` is whether this node is to take no more runs."""

    next_at: datetime | None
    drained: bool = False
    cancels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick did: runs claimed, rows that ended without running, runs to be cancelled in favour of others."""

    claims: tuple[Claim, ...] = ()
    ended: tuple[Run, ...] = ()
    cancels: Mapping[str, str] = field(default_factory=dict)
    next_at: datetime | None = None


_NEXT_START = select(func.min(_job.c.next_start)).scalar_subquery()
_NEXT_WAITING = select(func.min(_run.c.not_before)).where(
    _run.c.state == str(RunState.QUEUED), _run.c.not_before > bindparam("after"), _run.c.handed_at.is_(None)
)
_OUTLOOK = select(_NEXT_START.label("start"), _NEXT_WAITING.scalar_subquery().label("waiting"))
_WISHES = select(_run.c.id, _run.c.cancel_reason).where(
    _run.c.state == str(RunState.RUNNING), _run.c.owner == bindparam("owner"), _run.c.cancel_reason.is_not(None)
)

# Made once: to build a statement takes longer than SQLite needs to answer it.
_DUE = (
    select(_job)
    .where(_job.c.next_start <= bindparam("now"))
    .order_by(_job.c.next_start)
    .limit(DUE_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_ADVANCE = (
    update(_job)
    .where(_job.c.name == bindparam("due_job"))
    .values(next_slot=bindparam("slot"), next_start=bindparam("start"))
)


def look_out(connection: Connection, *, gateway: Gateway) -> Outlook:
    wishes = connection.execute(_WISHES, {"owner": gateway.id}).all()
    cancels = {row.id: row.cancel_reason for row in wishes}
    next_at = _next_at(connection, after=AT_ONCE - MICROSECOND)
    return Outlook(next_at=next_at, cancels=cancels, drained=is_drained(connection, gateway.name))


def _next_at(connection: Connection, *, after: datetime) -> datetime | None:
    """When the next job starts or, after that time, the next waiting run may."""
    times = connection.execute(_OUTLOOK, {"after": after}).one()
    return min((time for time in times if time is not None), default=None)


def run_tick(connection: Connection, *, claimer: Claimer, engine: Engine) -> Tick:
    ended, cancels = _plan_due(connection, claimer.now)
    given = engine.distribute(connection, claimer)
    if cancels:
        engine.abort(connection, tuple(cancels))
    next_at = _next_at(connection, after=claimer.now)
    return Tick(claims=given.claims, ended=(*ended, *given.late), cancels=cancels, next_at=next_at)


def _plan_due(connection: Connection, now: datetime) -> tuple[list[Run], dict[str, str]]:
    rows = connection.execute(_DUE, {"now": now}).all()
    active = active_by_job(connection, [row.name for row in rows])
    planner = _Planner(connection, now)
    for row in rows:
        planner.plan(row, active[row.name])
    planner.write()
    return planner.ended, planner.cancels


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
        job = timed_job_of(row)
        plan = plan_slots(job, first=row.next_slot, now=self._now)
        if plan.missed:
            reason = f"could not run at its time (catch_up = {job.catch_up})"
            self._end(job, stretch_run(job, plan.missed, RunState.MISSED, reason, self._now))
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
                    self.ended += replace_active(self._connection, active, self.cancels, self._now)
                    waiting = 0
                case Verdict.ADMIT:
                    pass
            waiting += 1
            self._rows.append(row_of(run, priority=job.priority))
        self._advances.append({"due_job": job.name, "slot": plan.next_slot, "start": plan.next_start})

    def write(self) -> None:
        """Rows first, so that a slot which has one already (the clock went back) keeps it and gets no second."""
        rows = self._without_taken(self._rows)
        add_runs(self._connection, rows)
        written = {row["id"] for row in rows}
        self.ended = [run for run in self.ended if run.id in written or run.state is RunState.CANCELLED]
        if self._advances:
            self._connection.execute(_ADVANCE, self._advances)

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
        self._rows.append(row_of(run, priority=job.priority))


def add_manual_run(
    connection: Connection, *, name: str, now: datetime, engine: Engine
) -> tuple[Run, Mapping[str, str], tuple[Run, ...]]:
    job = job_named(connection, name=name)
    active = active_by_job(connection, [name])[name]
    waiting = sum(row.state == str(RunState.QUEUED) for row in active)
    cancels: dict[str, str] = {}
    replaced: list[Run] = []
    match admit(job, Trigger.MANUAL, waiting=waiting, running=len(active) - waiting):
        case Verdict.FULL:
            raise UsageError(f"{waiting} runs of job '{name}' are waiting already.", hint="wait, or cancel some")
        case Verdict.REPLACE:
            replaced = replace_active(connection, active, cancels, now)
            engine.abort(connection, tuple(cancels))
        case Verdict.ADMIT | Verdict.SKIP:
            pass
    run = Run(id=new_run_id(now), job=name, state=RunState.QUEUED, trigger=Trigger.MANUAL, created_at=now)
    add_runs(connection, [row_of(run, priority=job.priority)])
    return run, cancels, tuple(replaced)
