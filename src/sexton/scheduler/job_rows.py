"""Transactions on the table of jobs: added, changed, removed, paused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from sexton import database as tables
from sexton.errors import UsageError
from sexton.scheduler import timetable
from sexton.scheduler.admission import LONGEST_BACKOFF
from sexton.scheduler.job import EPOCH, Every, Job, JobStatus, Origin, Run
from sexton.scheduler.job_document import check_job, read_document, to_document
from sexton.scheduler.rows import (
    RunEnd,
    add_runs,
    job_of,
    row_of,
    run_of,
    stretch_run,
    timed_job_of,
    unknown_job,
    write_end,
)
from sexton.scheduler.run_id import run_id_floor
from sexton.scheduler.run_states import ACTIVE, ENDED, RunState
from sexton.scheduler.slot_plan import start_of

# Debian cron's rule (cron(8)): a clock that is set back by more than this was corrected; by less, slots are not redone.
CORRECTION = timedelta(hours=3)
_job = tables.job
_source = tables.job_source
_run = tables.run
_ACTIVE = tuple(str(state) for state in ACTIVE)
_ENDED = tuple(str(state) for state in ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanges:
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    cancelled: tuple[Run, ...] = ()


def put_job(connection: Connection, *, job: Job, now: datetime) -> JobChanges:
    check_job(job)
    row = connection.execute(select(_job).where(_job.c.name == job.name).with_for_update()).one_or_none()
    if row is None:
        connection.execute(insert(_job), _job_row(job, now))
        return JobChanges(added=(job.name,))
    if Origin(row.origin) is not job.origin:
        raise _wrong_origin(job.name, Origin(row.origin))
    return JobChanges(changed=(job.name,)) if _change_job(connection, row, job, now) else JobChanges()


def remove_job(connection: Connection, *, name: str, now: datetime) -> JobChanges:
    origin = connection.execute(select(_job.c.origin).where(_job.c.name == name)).scalar()
    if origin == str(Origin.CONFIG):
        raise UsageError(f"Job '{name}' stands in the config file.", hint="remove it there, or pause it")
    return remove_jobs(connection, names=[name], now=now)


def _wrong_origin(name: str, origin: Origin) -> UsageError:
    if origin is Origin.CONFIG:
        return UsageError(f"Job '{name}' stands in the config file.", hint="change it there, or choose another name")
    return UsageError(
        f"Job '{name}' was added at run time and cannot stand in the config file too.",
        hint=f"rename one of them, or run: sexton jobs remove {name}",
    )


def _job_row(job: Job, now: datetime) -> dict[str, Any]:
    slot = _first_slot(job, now)
    return {
        "name": job.name,
        "definition": to_document(job),
        "origin": str(job.origin),
        "paused": job.paused,
        "paused_at": now if job.paused else None,
        "next_slot": slot,
        "next_start": None if job.paused else start_of(job, slot),
        "created_at": now,
        "changed_at": now,
    }


def _first_slot(job: Job, now: datetime, *, lap: int = 0) -> datetime | None:
    """A one-shot time that has passed already is a slot too: it ends as a row that says what became of it."""
    schedule = timetable.lapped(job.schedule, lap)
    if schedule is None:
        return None
    return timetable.next_slot(schedule, job.timezone, after=now) or timetable.only_slot(schedule)


def _change_job(connection: Connection, row: Row[Any], job: Job, now: datetime) -> bool:
    before = read_document(row.definition)
    if before == job:
        return False
    paused = job.paused if job.paused != before.paused else row.paused
    same_times = all(getattr(before, name) == getattr(job, name) for name in ("schedule", "timezone"))
    slot = row.next_slot if same_times else _first_slot(job, now, lap=row.lap)
    connection.execute(
        update(_job)
        .where(_job.c.name == job.name)
        .values(
            definition=to_document(job),
            paused=paused,
            paused_at=(row.paused_at or now) if paused else None,
            next_slot=slot,
            next_start=None if paused else start_of(job, slot),
            changed_at=now,
        )
    )
    return True


def replace_config_jobs(
    connection: Connection, *, jobs: Sequence[Job], now: datetime, source: str | None = None
) -> JobChanges:
    """Make these the jobs that the config file of `source` names; with None there is but one file.

    A job stays as long as the file of some node names it.  Where two define it differently, the last one to be read
    counts.
    """
    rows = {row.name: row for row in connection.execute(select(_job).with_for_update()).all()}
    added: list[dict[str, Any]] = []
    changed: list[str] = []
    for job in jobs:
        check_job(job)
        row = rows.get(job.name)
        if row is None:
            added.append(_job_row(job, now))
        elif Origin(row.origin) is not Origin.CONFIG:
            raise _wrong_origin(job.name, Origin(row.origin))
        elif _change_job(connection, row, job, now):
            changed.append(job.name)
    if added:
        connection.execute(insert(_job), added)
    wanted = {job.name for job in jobs}
    kept = wanted if source is None else wanted | _note_source(connection, source, wanted)
    gone = [name for name, row in rows.items() if row.origin == str(Origin.CONFIG) and name not in kept]
    removal = remove_jobs(connection, names=gone, now=now)
    return replace(removal, added=tuple(row["name"] for row in added), changed=tuple(changed))


def _note_source(connection: Connection, source: str, wanted: set[str]) -> set[str]:
    """Keep which jobs the file of that node names; the jobs that the files of others name."""
    connection.execute(delete(_source).where(_source.c.node == source))
    if wanted:
        connection.execute(insert(_source), [{"node": source, "job": name} for name in sorted(wanted)])
    return set(connection.execute(select(_source.c.job).where(_source.c.node != source)).scalars())


def drop_source(connection: Connection, *, source: str, now: datetime) -> JobChanges:
    """Its node is gone for good: the jobs that only its file named are removed."""
    own = set(connection.execute(select(_source.c.job).where(_source.c.node == source)).scalars())
    connection.execute(delete(_source).where(_source.c.node == source))
    left = own - set(connection.execute(select(_source.c.job)).scalars())
    is_config = and_(_job.c.name.in_(left), _job.c.origin == str(Origin.CONFIG))
    names = connection.execute(select(_job.c.name).where(is_config).order_by(_job.c.name)).scalars().all()
    return remove_jobs(connection, names=names, now=now)


def remove_jobs(connection: Connection, *, names: Sequence[str], now: datetime) -> JobChanges:
    """What waits is cancelled; what runs is left to end; the history stays."""
    rows = connection.execute(select(_job).where(_job.c.name.in_(names)).with_for_update()).all()
    if missing := set(names) - {row.name for row in rows}:
        raise unknown_job(connection, missing.pop())
    ended: list[Run] = []
    for row in rows:
        ended += _end_pause(connection, row, now)
        ended += _cancel_waiting(connection, row.name, "the job was removed", now)
    connection.execute(delete(_job).where(_job.c.name.in_(names)))
    return JobChanges(removed=tuple(names), cancelled=tuple(ended))


def _cancel_waiting(connection: Connection, job: str, reason: str, now: datetime) -> list[Run]:
    waiting = select(_run).where(_run.c.job == job, _run.c.state == str(RunState.QUEUED)).with_for_update()
    end = RunEnd(state=RunState.CANCELLED, at=now, reason=reason)
    return [write_end(connection, row, end) for row in connection.execute(waiting).all()]


def set_paused(connection: Connection, *, name: str, paused: bool, now: datetime) -> tuple[Run, ...] | None:
    row = connection.execute(select(_job).where(_job.c.name == name).with_for_update()).one_or_none()
    if row is None:
        raise unknown_job(connection, name)
    if row.paused == paused:
        return None
    job = timed_job_of(row)
    skipped = [] if paused else _end_pause(connection, row, now)
    slot = row.next_slot
    if skipped and job.schedule is not None:
        slot = timetable.next_slot(job.schedule, job.timezone, after=now)
    start = None if paused else start_of(job, slot)
    values = {
        "paused": paused,
        "paused_at": now if paused else None,
        "next_slot": slot,
        "next_start": start,
        "changed_at": now,
    }
    connection.execute(update(_job).where(_job.c.name == name).values(**values))
    return tuple(skipped)


def _end_pause(connection: Connection, row: Row[Any], now: datetime) -> list[Run]:
    """One row for all slots that came while the job was paused."""
    job = timed_job_of(row)
    if not row.paused or row.next_slot is None or job.schedule is None:
        return []
    missed = timetable.stretch(job.schedule, job.timezone, first=row.next_slot, until=now)
    if missed is None:
        return []
    run = stretch_run(job, missed, RunState.SKIPPED, "paused", now)
    add_runs(connection, [row_of(run, priority=job.priority)])
    return [run]


def statuses(connection: Connection) -> tuple[JobStatus, ...]:
    rows = connection.execute(select(_job).order_by(_job.c.name)).all()
    active: dict[str, list[Run]] = defaultdict(list)
    for row in connection.execute(select(_run).where(_run.c.state.in_(_ACTIVE)).order_by(_run.c.id)).all():
        active[row.job].append(run_of(row))
    ended = _run.alias("ended")
    newest = (
        select(ended.c.id)
        .where(ended.c.job == _job.c.name, ended.c.state.in_(_ENDED))
        .order_by(ended.c.id.desc())
        .limit(1)
        .correlate(_job)
        .scalar_subquery()
    )
    last = {row.job: run_of(row) for row in connection.execute(select(_run).join(_job, _run.c.id == newest)).all()}
    return tuple(
        JobStatus(
            job=job_of(row),
            next_at=row.next_start,
            paused_at=row.paused_at,
            active=tuple(active[row.name]),
            last=last.get(row.name),
        )
        for row in rows
    )


def realign(connection: Connection, *, now: datetime, jump: timedelta) -> tuple[str, ...]:
    """Bring jobs back whose next slot was computed before the clock was set back; their names.

    `jump` is by how much it was seen to move; zero at a start, when it is known by what was left: a run or a job from
    the future.
    """
    moved: list[str] = []
    if jump < timedelta() or _has_seen(connection, now):
        _bring_retries_back(connection, now)
        moved += _move(connection, now, partial(_next_lap, now=now, jump=min(jump, timedelta())))
    if _has_seen(connection, now + CORRECTION):
        moved += _move(connection, now + CORRECTION, partial(_corrected, now=now))
    return tuple(moved)


def _has_seen(connection: Connection, time: datetime) -> bool:
    newest_run = connection.execute(select(func.max(_run.c.id))).scalar()
    newest_job = connection.execute(select(func.max(_job.c.changed_at))).scalar()
    return (newest_run or "") >= run_id_floor(time) or (newest_job or EPOCH) >= time


def _bring_retries_back(connection: Connection, now: datetime) -> None:
    latest = now + timedelta(seconds=LONGEST_BACKOFF)
    waiting = and_(_run.c.state == str(RunState.QUEUED), _run.c.not_before > latest)
    connection.execute(update(_run).where(waiting).values(not_before=latest))


def _move(
    connection: Connection, later_than: datetime, find: Callable[[Row[Any]], tuple[datetime, int] | None]
) -> list[str]:
    """Give each job whose next slot is later than that the slot and the lap that `find` finds for it, if any."""
    moved = []
    for row in connection.execute(select(_job).where(_job.c.next_slot > later_than).with_for_update()).all():
        if (found := find(row)) is None:
            continue
        slot, lap = found
        start = None if row.paused else start_of(job_of(row), slot)
        values = {"next_slot": slot, "next_start": start, "lap": lap}
        connection.execute(update(_job).where(_job.c.name == row.name).values(**values))
        moved.append(row.name)
    return moved


def _next_lap(row: Row[Any], *, now: datetime, jump: timedelta) -> tuple[datetime, int] | None:
    schedule, lap = job_of(row).schedule, row.lap + 1
    if not isinstance(schedule, Every):
        return None
    slot = timetable.after_set_back(schedule, lap=lap, planned=row.next_slot, now=now, jump=jump)
    return None if slot is None else (slot, lap)


def _corrected(row: Row[Any], *, now: datetime) -> tuple[datetime, int] | None:
    """Debian's rule for times on the wall: after a correction of hours they are computed anew."""
    job = job_of(row)
    if job.schedule is None or isinstance(job.schedule, Every):
        return None
    slot = timetable.next_slot(job.schedule, job.timezone, after=now)
    return None if slot is None or row.next_slot - slot <= CORRECTION else (slot, row.lap)
