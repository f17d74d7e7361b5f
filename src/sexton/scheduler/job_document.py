"""A job as a JSON document and back (pure): for the database, and for whoever shows or takes jobs as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sexton.errors import UsageError
from sexton.scheduler import timetable
from sexton.scheduler.job import At, CatchUp, Cron, DeliverOn, Every, Job, OnInterrupted, Origin, Overlap, Schedule

_FIELDS = {field.name for field in dataclasses.fields(Job)}
_ENUMS = {
    "overlap": Overlap,
    "catch_up": CatchUp,
    "on_interrupted": OnInterrupted,
    "origin": Origin,
    "deliver_on": DeliverOn,
}


def to_document(job: Job) -> dict[str, Any]:
    """Every field by its name; the schedule as {"cron": …}, {"every": seconds} or {"at": ISO 8601}."""
    document: dict[str, Any] = {field.name: getattr(job, field.name) for field in dataclasses.fields(Job)}
    document["schedule"] = None if job.schedule is None else _schedule_document(job.schedule)
    document["action"] = dict(job.action)
    for name in ("resources", "deliver", "labels"):
        document[name] = list(document[name])
    for name in _ENUMS:
        document[name] = str(document[name])
    return document


def from_document(document: Mapping[str, Any]) -> Job:
    """The reverse.  Raises `UsageError` for an unknown key, a missing name or a value that cannot be meant."""
    if unknown := sorted(set(document) - _FIELDS):
        raise UsageError(f"A job has no key '{unknown[0]}'.", hint=f"its keys are {', '.join(sorted(_FIELDS))}")
    if not document.get("name"):
        raise UsageError("A job needs a name.")
    job = read_document(document)
    check_job(job)
    return job


def read_document(document: Mapping[str, Any]) -> Job:
    """The reverse of `to_document` for a document that it made: nothing is checked.

    What a node of a later version has put in is left out.
    """
    fields = {name: value for name, value in document.items() if name in _FIELDS}
    for name, enum in _ENUMS.items():
        if name in fields:
            fields[name] = _member(enum, name, fields[name])
    for name in ("resources", "deliver", "labels"):
        if name in fields:
            fields[name] = tuple(fields[name])
    fields["schedule"] = None if fields.get("schedule") is None else _schedule(fields["schedule"])
    return Job(**fields)


def check_job(job: Job) -> None:
    """Raise `UsageError` for the first value that cannot be meant."""
    if not job.name or len(job.name) > 255 or not job.name.isprintable():
        raise UsageError(f"'{job.name}' cannot be the name of a job.", hint="use 1 to 255 printable characters")
    timetable.zone_of(job.timezone)
    if job.schedule is not None:
        timetable.check(job.schedule, job.timezone)
    if isinstance(job.schedule, Every) and job.jitter > job.schedule.seconds:
        raise UsageError(f"Job '{job.name}': jitter is longer than the interval.", hint="use a shorter jitter")
    for name, least in _LEAST.items():
        value = getattr(job, name)
        if value is not None and not least <= value < float("inf"):
            raise UsageError(f"Job '{job.name}': {name} is {value:g}, and must be {least:g} or more.")
    for name in ("timeout", "idle_timeout"):
        value = getattr(job, name)
        if value is not None and value <= 0:
            raise UsageError(f"Job '{job.name}': {name} is {value:g}, and must be more than 0.")


_LEAST: dict[str, float] = {"jitter": 0, "catch_up_window": 0, "retries": 0, "retry_backoff": 0, "concurrency": 1}


def _schedule_document(schedule: Schedule) -> dict[str, Any]:
    match schedule:
        case Cron():
            return {"cron": schedule.expression}
        case Every(anchor=None):
            return {"every": schedule.seconds}
        case Every(anchor=anchor):
            assert anchor is not None
            return {"every": schedule.seconds, "anchor": anchor.isoformat()}
        case At():
            return {"at": schedule.time.isoformat()}


def _schedule(document: object) -> Schedule:
    match document:
        case {"cron": str(expression), **rest} if not rest:
            return Cron(expression=expression)
        case {"every": int() | float() as seconds, "anchor": str(anchor), **rest} if not rest:
            return Every(seconds=seconds, anchor=_time(anchor))
        case {"every": int() | float() as seconds, **rest} if not rest:
            return Every(seconds=seconds)
        case {"at": str(time), **rest} if not rest:
            return At(time=_time(time))
        case _:
            raise UsageError(
                f"{document!r} is not a schedule.",
                hint='write {"cron": "0 7 * * *"}, {"every": 30} or {"at": "2026-12-01T07:00:00+01:00"}',
            )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a time.", hint="write it like 2026-12-01T07:00:00+01:00") from None


def _member(enum: Any, name: str, value: object) -> Any:
    try:
        return enum(value)
    except ValueError:
        raise UsageError(f"{name} cannot be '{value}'.", hint=f"use one of {', '.join(enum)}") from None
