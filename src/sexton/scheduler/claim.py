"""Claims: a waiting run becomes the run of one gateway, by one compare-and-set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from sexton import database as tables
from sexton.scheduler import node_rows
from sexton.scheduler.admission import Room, count_resources
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import Job, Limits, Run, Trigger
from sexton.scheduler.needs import Offer, need_of
from sexton.scheduler.rows import RunEnd, job_of, run_of, write_end
from sexton.scheduler.run_states import RunState
from sexton.scheduler.slot_plan import ON_TIME

_job = tables.job
_run = tables.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run that this gateway holds, until it writes its end with the same fence."""

    run: Run
    job: Job
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """The gateway that would work runs now: what it offers, its limits, and the jobs of the runs that it has."""

    gateway: Gateway
    now: datetime
    limits: Limits
    running: tuple[Job, ...]
    offer: Offer


# Made once: to build a statement takes longer than SQLite needs to answer it.
WAITING = select(_run, _job.c.definition, _job.c.paused).join(_job, _job.c.name == _run.c.job)
_TAKE = (
    update(_run)
    .where(_run.c.id == bindparam("run_id"), _run.c.state == str(RunState.QUEUED))
    .values(
        state=str(RunState.RUNNING),
        owner=bindparam("claimer"),
        fence=bindparam("next_fence"),
        started_at=bindparam("now"),
    )
)
_OFFERED = WAITING.where(_run.c.id == bindparam("run_id")).with_for_update(of=_run)
_RUNNING_OF_JOB = select(func.count()).where(_run.c.job == bindparam("job"), _run.c.state == str(RunState.RUNNING))


def take_run(connection: Connection, row: Row[Any], job: Job, claimer: Claimer) -> Claim | None:
    """The compare-and-set: None when another gateway was first."""
    fence = row.fence + 1
    claim = {"run_id": row.id, "claimer": claimer.gateway.id, "next_fence": fence, "now": claimer.now}
    if connection.execute(_TAKE, claim).rowcount != 1:
        return None
    run = replace(run_of(row), state=RunState.RUNNING, started_at=claimer.now, node=claimer.gateway.id)
    return Claim(run=run, job=job, fence=fence)


def end_if_too_late(connection: Connection, row: Row[Any], job: Job, now: datetime) -> Run | None:
    """The end of a run that waited for longer than its job wants to be caught up; None: it may still start."""
    if row.slot is None or row.trigger == str(Trigger.RETRY):
        return None
    late = now - row.slot - timedelta(seconds=job.jitter)
    if late <= max(timedelta(seconds=job.catch_up_window), ON_TIME):
        return None
    reason = "waited for longer than its catch_up_window"
    return write_end(connection, row, RunEnd(state=RunState.MISSED, at=now, reason=reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of an offered run: a claim; or it is over (`late`: only now, it waited for too long); or, when this
    gateway has no room for it, neither."""

    claim: Claim | None = None
    is_over: bool = False
    late: Run | None = None


def take_offered(connection: Connection, *, run_id: str, claimer: Claimer) -> Taken:
    """Claim this run, unless it is over, under way, or more than may run here or of its job."""
    if not node_rows.is_known(connection, claimer.gateway.id):
        return Taken()
    row = connection.execute(_OFFERED, {"run_id": run_id}).one_or_none()
    if row is None:
        return Taken(is_over=True)
    job = job_of(row)
    if row.state == str(RunState.RUNNING) and (row.owner, row.started_at) == (claimer.gateway.id, claimer.now):
        # Our own claim: its commit was answered by a lost connection, and this is the second try.
        return Taken(claim=Claim(run=run_of(row), job=job, fence=row.fence))
    if row.state != str(RunState.QUEUED):
        return Taken(is_over=True)
    if (late := end_if_too_late(connection, row, job, claimer.now)) is not None:
        return Taken(is_over=True, late=late)
    running = connection.execute(_RUNNING_OF_JOB, {"job": job.name}).scalar_one()
    room = Room(
        limits=claimer.limits,
        running=len(claimer.running),
        running_by_job=Counter({job.name: running}),
        running_by_resource=count_resources(claimer.running),
    )
    if not (claimer.offer.covers(need_of(job)) and room.take(job)):
        return Taken()
    claim = take_run(connection, row, job, claimer)
    return Taken(claim=claim, is_over=claim is None)
