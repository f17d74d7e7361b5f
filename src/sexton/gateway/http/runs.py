"""Runs: what became of each slot and of each request to run by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sexton.gateway.documents import LogLineDocument, RunCountDocument, RunDocument, RunRecordDocument, ToolCallDocument
from sexton.gateway.http.body import read_count, read_time
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import bad_request, not_found
from sexton.scheduler import Run, RunCount, RunRecord, RunState, ToolCall, UnknownRun

MAX_LISTED = 1000
MAX_CALLS = 1000


async def list_runs(gateway: Gateway, request: Request) -> Sequence[RunDocument]:
    """The latest runs first; query: `job`, `state`, `limit` (default 50), `before` (the id to go on from), `since`."""
    query = request.query_params
    if (job := query.get("job")) is not None:
        await _check_job(gateway, job)
    runs = await gateway.scheduler.runs(
        job,
        _read_states(query.get("state")),
        limit=read_count(request, "limit", default=50, most=MAX_LISTED),
        before=query.get("before"),
        since=read_time(request, "since"),
    )
    return [run_document(run) for run in runs]


async def count_runs(gateway: Gateway, request: Request) -> Sequence[RunCountDocument]:
    """How many runs are in which state, by job; query: `since` (ISO 8601, default a day ago)."""
    since = read_time(request, "since") or gateway.clock.now() - timedelta(days=1)
    return [count_document(count) for count in await gateway.scheduler.run_counts(since=since)]


async def show_run(gateway: Gateway, request: Request) -> RunRecordDocument:
    """One run with its whole output and its log."""
    return record_document(await _known_run(gateway, request))


async def show_output(gateway: Gateway, request: Request) -> Response:
    """The whole output of a run, as plain text."""
    record = await _known_run(gateway, request)
    return PlainTextResponse(record.output or "", headers={"x-content-type-options": "nosniff"})


async def show_log(gateway: Gateway, request: Request) -> Sequence[LogLineDocument]:
    """What a run logged, and what was told of its progress."""
    return record_document(await _known_run(gateway, request))["log"]


async def list_calls(gateway: Gateway, request: Request) -> Sequence[ToolCallDocument]:
    """The tool calls of a run that have ended, in order; query: `after` (a number), `limit` (default 100)."""
    run = (await _known_run(gateway, request)).run
    after = read_count(request, "after", default=0, most=10**9, least=0)
    limit = read_count(request, "limit", default=100, most=MAX_CALLS)
    return [call_document(call) for call in await gateway.scheduler.tool_calls(run.id, after=after, limit=limit)]


async def cancel_run(gateway: Gateway, request: Request) -> RunDocument:
    """End a run that waits or is under way, with everything that it started; answers when it has ended."""
    run = (await _known_run(gateway, request)).run
    await gateway.scheduler.cancel(run.id)
    return run_document((await gateway.scheduler.run_record(run.id)).run)


async def _known_run(gateway: Gateway, request: Request) -> RunRecord:
    """The run of that id, or of the one id that begins so."""
    run_id = request.path_params["run"]
    try:
        return await gateway.scheduler.run_record(run_id)
    except UnknownRun:
        return await gateway.scheduler.run_record(await _complete(gateway, run_id))


async def _complete(gateway: Gateway, fragment: str) -> str:
    """The one run among the latest whose id ends or begins with the fragment: ids of one day begin alike."""
    runs = await gateway.scheduler.runs(limit=MAX_LISTED)
    found = [run.id for run in runs if run.id.endswith(fragment) or run.id.startswith(fragment)]
    if not found:
        raise not_found("run", fragment, [run.id for run in runs], listing="sexton runs")
    if len(found) > 1:
        raise bad_request(
            f"{len(found)} runs have an id that ends or begins with {fragment!r}.", hint="give more of the id"
        )
    return found[0]


async def _check_job(gateway: Gateway, name: str) -> None:
    known = [status.job.name for status in await gateway.scheduler.jobs()]
    if name in known or await gateway.scheduler.runs(name, limit=1):  # a job that was removed has left its runs
        return
    raise not_found("job", name, known, listing="sexton jobs")


def _read_states(said: str | None) -> tuple[RunState, ...]:
    try:
        return (RunState(said),) if said is not None else ()
    except ValueError:
        states = ", ".join(RunState)
        raise bad_request(f"There is no state {said!r} of a run.", hint=f"use one of: {states}") from None


def run_document(run: Run) -> RunDocument:
    return RunDocument(
        id=run.id,
        job=run.job,
        slot=_time(run.slot),
        slot_end=_time(run.slot_end),
        count=run.count,
        attempt=run.attempt,
        state=str(run.state),
        reason=run.reason,
        trigger=str(run.trigger),
        created_at=run.created_at.isoformat(),
        started_at=_time(run.started_at),
        ended_at=_time(run.ended_at),
        seconds=_seconds(run),
        output=run.output,
        error=run.error,
        details=dict(run.details),
        node=run.node,
    )


def count_document(count: RunCount) -> RunCountDocument:
    return RunCountDocument(job=count.job, state=str(count.state), runs=count.runs, slots=count.slots)


def record_document(record: RunRecord) -> RunRecordDocument:
    log = [LogLineDocument(at=line.at.isoformat(), text=line.text) for line in record.log]
    return RunRecordDocument(
        run=run_document(record.run), output=record.output, log=log, calls=list(map(call_document, record.calls))
    )


def call_document(call: ToolCall) -> ToolCallDocument:
    return ToolCallDocument(
        number=call.number,
        server=call.server,
        tool=call.tool,
        arguments=dict(call.arguments),
        state=str(call.state),
        text=call.text,
        started_at=call.started_at.isoformat(),
        seconds=round(call.seconds, 4),
    )


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _seconds(run: Run) -> float | None:
    if run.started_at is None or run.ended_at is None:
        return None
    return round((run.ended_at - run.started_at).total_seconds(), 3)
