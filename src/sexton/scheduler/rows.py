"""Jobs and runs as rows of the database, and the two changes that several transactions share: how a run ends, and
what takes the place of what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, select, update

from sexton import database as tables
from sexton.journal import JSON
from sexton.scheduler import timetable
from sexton.scheduler.admission import retry_delay
from sexton.scheduler.job import (
    EPOCH,
    EXCERPT,
    NOTHING,
    CallState,
    Job,
    LogLine,
    OnInterrupted,
    Run,
    ToolCall,
    Trigger,
    UnknownJob,
)
from sexton.scheduler.job_document import read_document
from sexton.scheduler.run_id import new_run_id
from sexton.scheduler.run_states import ACTIVE, RunState, check_change

MOST_RERUNS = 3
# What waits for nothing but its turn.  Not the time it was made: after the clock is set back, that is yet to come.
AT_ONCE = EPOCH
_job = tables.job
_run = tables.run
_output = tables.run_output
_call = tables.tool_call
_ACTIVE = tuple(str(state) for state in ACTIVE)


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
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a run under `fence` has said so far, for the case that nobody is left to write its end.

    `size` tells one draft of a run from the next.
    """

    run: str
    fence: int
    size: int
    output: str | None
    log: tuple[LogLine, ...]
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A run that has ended, and the one that tries again, if any."""

    run: Run
    again: Run | None = None


AtEnd: TypeAlias = Callable[[Connection, Job, Run, str | None], None]
"""Called with a run that will not be tried again and its whole output, in the transaction that writes its end."""


def run_of(row: Row[Any]) -> Run:
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


def row_of(run: Run, *, priority: int, not_before: datetime | None = None) -> dict[str, Any]:
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
        "not_before": not_before or AT_ONCE,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "details": dict(run.details),
        "fence": 0,
    }


def job_of(row: Row[Any]) -> Job:
    return replace(read_document(row.definition), paused=row.paused)


def timed_job_of(row: Row[Any]) -> Job:
    """The job with the schedule that its slots come from now, in this lap of the clock."""
    job = job_of(row)
    return replace(job, schedule=timetable.lapped(job.schedule, row.lap))


def add_runs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(_run), rows)


def end_run(connection: Connection, row: Row[Any], end: RunEnd, at_end: AtEnd | None = None) -> Settled:
    run = write_end(connection, row, end)
    stored = connection.execute(select(_job).where(_job.c.name == run.job)).one_or_none()
    if stored is None:
        return Settled(run=run)
    job = job_of(stored)
    again = _again(job, run, end.at)
    if again is None:
        if at_end is not None:
            at_end(connection, job, run, end.output or _kept_output(connection, run))
        return Settled(run=run)
    follow_up, not_before, priority = again
    add_runs(connection, [row_of(follow_up, priority=priority, not_before=not_before)])
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


def write_end(connection: Connection, row: Row[Any], end: RunEnd) -> Run:
    check_change(RunState(row.state), end.state)
    excerpt = row.excerpt if end.output is None else end.output[:EXCERPT]
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
    if end.log or end.output is not None:  # Else its draft, if there is one, is all that is known of it.
        _write_output(connection, row.id, end.output, end.log)
    _add_calls(connection, row.id, end.calls)
    return replace(
        run_of(row),
        state=end.state,
        ended_at=end.at,
        reason=values["reason"],
        output=excerpt,
        error=end.error,
        details=values["details"],
    )


def write_draft(connection: Connection, draft: Draft) -> None:
    """Keep what a run has said so far, unless it has ended or was taken over since."""
    held = and_(_run.c.id == draft.run, _run.c.state == str(RunState.RUNNING), _run.c.fence == draft.fence)
    excerpt = draft.output[:EXCERPT] if draft.output else None
    if connection.execute(update(_run).where(held).values(excerpt=excerpt)).rowcount == 1:
        _write_output(connection, draft.run, draft.output, draft.log)
        _add_calls(connection, draft.run, draft.calls)


def _write_output(connection: Connection, run_id: str, output: str | None, log: Sequence[LogLine]) -> None:
    """In place of an earlier draft.  A short output without a log stands whole in the excerpt."""
    connection.execute(delete(_output).where(_output.c.run == run_id))
    if log or len(output or "") > EXCERPT:
        lines = [[line.at.isoformat(), line.text] for line in log]
        connection.execute(insert(_output).values(run=run_id, output=output, log=lines))


def _add_calls(connection: Connection, run_id: str, calls: Sequence[ToolCall]) -> None:
    """Those that are not there yet: a call that is written has ended and does not change."""
    if not calls:
        return
    written = connection.execute(select(func.max(_call.c.number)).where(_call.c.run == run_id)).scalar() or 0
    if fresh := [call_row(run_id, call) for call in calls if call.number > written]:
        connection.execute(insert(_call), fresh)


def call_row(run_id: str, call: ToolCall) -> dict[str, Any]:
    return {
        "run": run_id,
        "number": call.number,
        "server": call.server[:255],
        "tool": call.tool[:255],
        "arguments": dict(call.arguments),
        "state": str(call.state),
        "text": call.text,
        "started_at": call.started_at,
        "seconds": call.seconds,
    }


def call_of(row: Row[Any]) -> ToolCall:
    return ToolCall(
        number=row.number,
        server=row.server,
        tool=row.tool,
        arguments=row.arguments,
        state=CallState(row.state),
        text=row.text or "",
        started_at=row.started_at,
        seconds=row.seconds,
    )


def _kept_output(connection: Connection, run: Run) -> str | None:
    """What the last draft of a run kept of its output."""
    kept = connection.execute(select(_output.c.output).where(_output.c.run == run.id)).scalar()
    return kept or run.output


def stretch_run(job: Job, stretch: timetable.Stretch, state: RunState, reason: str, now: datetime) -> Run:
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


_ACTIVE_RUNS = (
    select(_run).where(_run.c.job.in_(bindparam("jobs", expanding=True)), _run.c.state.in_(_ACTIVE)).order_by(_run.c.id)
)


def active_by_job(connection: Connection, jobs: Sequence[str]) -> defaultdict[str, list[Row[Any]]]:
    active: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    if jobs:
        for row in connection.execute(_ACTIVE_RUNS, {"jobs": jobs}).all():
            active[row.job].append(row)
    return active


def replace_active(
    connection: Connection, active: Iterable[Row[Any]], cancels: dict[str, str], now: datetime
) -> list[Run]:
    """Cancel what waits, and leave the wish to cancel with what runs."""
    reason = "replaced by the next run"
    ended = []
    for row in active:
        if row.state == str(RunState.QUEUED):
            end = RunEnd(state=RunState.CANCELLED, at=now, reason=reason)
            ended.append(write_end(connection, row, end))
        else:
            connection.execute(update(_run).where(_run.c.id == row.id).values(cancel_reason=reason))
            cancels[row.id] = reason
    return ended


def job_named(connection: Connection, *, name: str) -> Job:
    row = connection.execute(select(_job).where(_job.c.name == name)).one_or_none()
    if row is None:
        raise unknown_job(connection, name)
    return job_of(row)


def unknown_job(connection: Connection, name: str) -> UnknownJob:
    known = tuple(connection.execute(select(_job.c.name).order_by(_job.c.name).limit(20)).scalars())
    return UnknownJob(name, known=known)
