"""Jobs and runs in the database.

Every method is one transaction.  What decides (which slots run, what may
start) is in pure modules; this one reads what they need and writes what they
said.  A claim is one compare-and-set: a run leaves `queued` once, and its
`fence` goes up each time it changes hands, so that only the gateway that holds
it now can write its end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from sexton import database as tables
from sexton.database import Database
from sexton.scheduler import node_rows
from sexton.scheduler.claim import Claim, Claimer, Taken, take_offered
from sexton.scheduler.embedded_engine import EmbeddedEngine
from sexton.scheduler.engine import Engine
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import (
    CALLS_IN_RECORD,
    Job,
    JobStatus,
    LogLine,
    Run,
    RunCount,
    RunRecord,
    ToolCall,
    UnknownRun,
)
from sexton.scheduler.job_rows import (
    JobChanges,
    drop_source,
    put_job,
    realign,
    remove_job,
    replace_config_jobs,
    set_paused,
    statuses,
)
from sexton.scheduler.node_rows import NodeEnd, NodeStatus, Pulse
from sexton.scheduler.rows import (
    AtEnd,
    Draft,
    RunEnd,
    Settled,
    call_of,
    end_run,
    job_named,
    run_of,
    write_draft,
    write_end,
)
from sexton.scheduler.run_id import run_id_floor
from sexton.scheduler.run_states import ENDED, RunState
from sexton.scheduler.tick import Outlook, Tick, add_manual_run, look_out, run_tick

_run = tables.run
_output = tables.run_output
_call = tables.tool_call
NO_JUMP = timedelta()
_ENDED = tuple(str(state) for state in ENDED)


class RunStore:
    """See the module.  Raises `DatabaseError` from every method.

    `at_end` writes what follows from the end of a run, in the same transaction; `engine` brings waiting runs to the
    nodes.
    """

    def __init__(self, database: Database, *, at_end: AtEnd | None = None, engine: Engine | None = None) -> None:
        self._database = database
        self._at_end = at_end
        self.engine = engine or EmbeddedEngine()

    # Gateways

    async def register(self, gateway: Gateway, *, now: datetime) -> None:
        await self._database.write(partial(node_rows.register, gateway=gateway, now=now))

    async def unregister(self, gateway_id: str, *, now: datetime) -> None:
        """It stops, and leaves nothing."""
        await self._database.write(partial(_unregister, gateway_id=gateway_id, now=now))

    async def beat(self, claimer: Claimer) -> Pulse:
        """Say that we live and what we offer, and see who else does."""
        return await self._database.write(partial(_beat, claimer=claimer, engine=self.engine, at_end=self._at_end))

    async def gateways(self) -> tuple[Gateway, ...]:
        return await self._database.read(node_rows.gateways)

    async def nodes(self) -> tuple[NodeStatus, ...]:
        """Every gateway that lives or was not yet settled, and every name of one that is gone, by name."""
        return await self._database.read(node_rows.statuses)

    async def set_drained(self, name: str, *, drained: bool, by: str, now: datetime) -> bool:
        """Let a node take no more work, or take it again; whether that changed anything.  Raises `UnknownNode`."""
        return await self._database.write(partial(node_rows.set_drained, name=name, drained=drained, by=by, now=now))

    async def forget_node(self, name: str, *, now: datetime) -> JobChanges:
        """Take a node that is gone out of the list, and the jobs away that only its file named; its history stays.

        Raises `UnknownNode`, and `NodeNotGone` for one that lives or was not settled.
        """
        return await self._database.write(partial(_forget_node, name=name, now=now))

    async def settle_dead(self, gateway: Gateway, *, now: datetime, by: str = "") -> tuple[Settled, ...] | None:
        """End what a dead gateway was running as interrupted; queue again what its job wants rerun.  `by` settles it.

        None: its beat is not the one that stood still any more, or another one has settled it.
        """
        return await self._database.write(partial(_settle_dead, gateway=gateway, now=now, by=by, at_end=self._at_end))

    async def settle_strays(self, gateway_id: str, run_ids: Collection[str], *, now: datetime) -> tuple[Settled, ...]:
        """End as interrupted what we hold and do not run: we were never told that we had claimed it."""
        return await self._database.write(
            partial(_settle_strays, gateway_id=gateway_id, run_ids=run_ids, now=now, at_end=self._at_end)
        )

    # Jobs

    async def put_job(self, job: Job, *, now: datetime) -> JobChanges:
        """Add or change one job.  Raises `UsageError` when it cannot be meant or belongs to the other origin."""
        return await self._database.write(partial(put_job, job=job, now=now))

    async def replace_config_jobs(self, jobs: Sequence[Job], *, now: datetime, source: str | None = None) -> JobChanges:
        """Make the config's jobs be these; a job that did not change is not touched.  `source`: see `job_rows`."""
        return await self._database.write(partial(replace_config_jobs, jobs=jobs, now=now, source=source))

    async def remove_job(self, name: str, *, now: datetime) -> JobChanges:
        return await self._database.write(partial(remove_job, name=name, now=now))

    async def set_paused(self, name: str, *, paused: bool, now: datetime) -> tuple[Run, ...] | None:
        """Pause or resume.  None: it was so already; else the rows of the slots that were skipped in the pause."""
        return await self._database.write(partial(set_paused, name=name, paused=paused, now=now))

    async def job(self, name: str) -> Job:
        return await self._database.read(partial(job_named, name=name))

    async def statuses(self) -> tuple[JobStatus, ...]:
        return await self._database.read(statuses)

    async def realign(self, *, now: datetime, jump: timedelta = NO_JUMP) -> tuple[str, ...]:
        """Bring back jobs whose next slot was computed before the clock was set back (by `jump`, if that was seen);
        their names."""
        return await self._database.write(partial(realign, now=now, jump=jump))

    # Ticks

    async def outlook(self, gateway: Gateway) -> Outlook:
        return await self._database.read(partial(look_out, gateway=gateway))

    async def tick(self, claimer: Claimer) -> Tick:
        """Turn due slots into rows, and let the engine see to what may start."""
        return await self._database.write(partial(run_tick, claimer=claimer, engine=self.engine))

    async def take(self, run_id: str, claimer: Claimer) -> Taken:
        """Claim a run that the engine offers.  The lock of its row decides, so other writes need not wait for it."""
        return await self._database.write(partial(take_offered, run_id=run_id, claimer=claimer), in_turn=False)

    # Runs

    async def finish(self, claim: Claim, end: RunEnd) -> Settled | None:
        """Write the end of a run that we hold.  None: we do not hold it any more."""
        return await self._database.write(partial(_finish, claim=claim, end=end, at_end=self._at_end), in_turn=False)

    async def keep_drafts(self, drafts: Sequence[Draft]) -> None:
        """Write what running runs have said so far, all in one transaction.

        Not in turn with other writes: the row of the run is locked first, and only if it runs under the draft's fence.
        """
        await self._database.write(partial(_keep_drafts, drafts=drafts), in_turn=False)

    async def add_manual_run(self, name: str, *, now: datetime) -> tuple[Run, Mapping[str, str], tuple[Run, ...]]:
        """A waiting run by hand, with what it replaces: running runs to cancel, waiting ones that were cancelled."""
        return await self._database.write(partial(add_manual_run, name=name, now=now, engine=self.engine))

    async def request_cancel(self, run_id: str, *, reason: str, now: datetime) -> Run:
        """Cancel a waiting run; of a running one, leave the wish for the gateway that holds it."""
        return await self._database.write(
            partial(_request_cancel, run_id=run_id, reason=reason, now=now, engine=self.engine)
        )

    async def runs(
        self,
        *,
        job: str | None,
        states: Collection[RunState],
        limit: int,
        before: str | None,
        since: datetime | None = None,
    ) -> tuple[Run, ...]:
        return await self._database.read(
            partial(_runs, job=job, states=states, limit=limit, before=before, since=since)
        )

    async def run_counts(self, *, since: datetime) -> tuple[RunCount, ...]:
        """How many runs of each job, made since then, are in each state."""
        return await self._database.read(partial(_run_counts, since=since))

    async def run_record(self, run_id: str) -> RunRecord:
        return await self._database.read(partial(_run_record, run_id=run_id))

    async def tool_calls(self, run_id: str, *, after: int, limit: int) -> tuple[ToolCall, ...]:
        return await self._database.read(partial(_known_calls, run_id=run_id, after=after, limit=limit))

    async def prune(self, job: str, *, keep: int) -> int:
        """Delete the oldest rows of a job but for `keep` that ran and `keep` that never started; how many that were.

        Counted apart, so that slots skipped behind a long run do not push the runs out of the history.
        """
        return await self._database.write(partial(_prune, job=job, keep=keep))


def _beat(connection: Connection, *, claimer: Claimer, engine: Engine, at_end: AtEnd | None) -> Pulse:
    gateway = claimer.gateway
    was_known = node_rows.beat(connection, gateway=gateway, now=claimer.now)
    if not was_known:  # Another gateway took us for dead and settled our runs.
        node_rows.register(connection, gateway=gateway, now=claimer.now)
    settled = _settle_ownerless(connection, claimer.now, at_end)
    mended = engine.mend(connection, claimer)
    return Pulse(
        held=node_rows.held_by(connection, gateway_id=gateway.id),
        others=tuple(other for other in node_rows.gateways(connection) if other.id != gateway.id),
        late=mended.late,
        settled=settled,
    )


_OWNERLESS = select(_run).where(
    _run.c.state == str(RunState.RUNNING), _run.c.owner.not_in(select(tables.node.c.id).scalar_subquery())
)


def _settle_ownerless(connection: Connection, now: datetime, at_end: AtEnd | None) -> tuple[Settled, ...]:
    end = RunEnd(state=RunState.INTERRUPTED, at=now, reason="the gateway ended while it ran")
    rows = connection.execute(_OWNERLESS.with_for_update()).all()
    return tuple(end_run(connection, row, end, at_end) for row in rows)


def _unregister(connection: Connection, *, gateway_id: str, now: datetime) -> None:
    row = node_rows.row_of(connection, gateway_id)
    node_rows.unregister(connection, gateway_id=gateway_id)
    node_rows.note_end(connection, row, NodeEnd(how=node_rows.STOPPED, at=now))


def _forget_node(connection: Connection, *, name: str, now: datetime) -> JobChanges:
    node_rows.forget(connection, name=name)
    return drop_source(connection, source=name, now=now)


def _settle_dead(
    connection: Connection, *, gateway: Gateway, now: datetime, by: str, at_end: AtEnd | None
) -> tuple[Settled, ...] | None:
    row = node_rows.row_of(connection, gateway.id)
    if not node_rows.unregister(connection, gateway_id=gateway.id, beat=gateway.beat):
        return None
    settled = _settle_held(connection, gateway, now, at_end)
    rerun = sum(each.again is not None for each in settled)
    end = NodeEnd(how=node_rows.DIED, at=now, by=by, settled=len(settled), rerun=rerun)
    node_rows.note_end(connection, row, end)
    return settled


def _settle_held(connection: Connection, gateway: Gateway, now: datetime, at_end: AtEnd | None) -> tuple[Settled, ...]:
    held = select(_run).where(_run.c.state == str(RunState.RUNNING), _run.c.owner == gateway.id).order_by(_run.c.id)
    end = RunEnd(state=RunState.INTERRUPTED, at=now, reason="the gateway ended while it ran")
    return tuple(end_run(connection, row, end, at_end) for row in connection.execute(held.with_for_update()).all())


def _settle_strays(
    connection: Connection, *, gateway_id: str, run_ids: Collection[str], now: datetime, at_end: AtEnd | None
) -> tuple[Settled, ...]:
    stray = and_(_run.c.id.in_(run_ids), _run.c.state == str(RunState.RUNNING), _run.c.owner == gateway_id)
    end = RunEnd(state=RunState.INTERRUPTED, at=now, reason="the database did not tell that it was claimed")
    rows = connection.execute(select(_run).where(stray).with_for_update()).all()
    return tuple(end_run(connection, row, end, at_end) for row in rows)


def _finish(connection: Connection, *, claim: Claim, end: RunEnd, at_end: AtEnd | None) -> Settled | None:
    held = select(_run).where(
        _run.c.id == claim.run.id, _run.c.state == str(RunState.RUNNING), _run.c.fence == claim.fence
    )
    row = connection.execute(held.with_for_update()).one_or_none()
    if row is not None:
        return end_run(connection, row, end, at_end)
    # Written before, perhaps, by a commit whose answer was lost with the connection.
    ours = and_(_run.c.id == claim.run.id, _run.c.state == str(end.state), _run.c.fence == claim.fence + 1)
    row = connection.execute(select(_run).where(ours, _run.c.ended_at == end.at)).one_or_none()
    return None if row is None else Settled(run=run_of(row))


def _keep_drafts(connection: Connection, *, drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        write_draft(connection, draft)


def _request_cancel(connection: Connection, *, run_id: str, reason: str, now: datetime, engine: Engine) -> Run:
    row = connection.execute(select(_run).where(_run.c.id == run_id).with_for_update()).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    match RunState(row.state):
        case RunState.QUEUED:
            return write_end(connection, row, RunEnd(state=RunState.CANCELLED, at=now, reason=reason))
        case RunState.RUNNING:
            connection.execute(update(_run).where(_run.c.id == run_id).values(cancel_reason=reason))
            engine.abort(connection, [run_id])
        case _:
            pass
    return run_of(row)


def _runs(
    connection: Connection,
    *,
    job: str | None,
    states: Collection[RunState],
    limit: int,
    before: str | None,
    since: datetime | None,
) -> tuple[Run, ...]:
    statement = select(_run).order_by(_run.c.id.desc()).limit(limit)
    if job is not None:
        statement = statement.where(_run.c.job == job)
    if states:
        statement = statement.where(_run.c.state.in_([str(state) for state in states]))
    if before is not None:
        statement = statement.where(_run.c.id < before)
    if since is not None:
        statement = statement.where(_run.c.id >= run_id_floor(since))
    return tuple(run_of(row) for row in connection.execute(statement).all())


def _run_counts(connection: Connection, *, since: datetime) -> tuple[RunCount, ...]:
    statement = (
        select(_run.c.job, _run.c.state, func.count(), func.sum(_run.c.slot_count))
        .where(_run.c.id >= run_id_floor(since))
        .group_by(_run.c.job, _run.c.state)
        .order_by(_run.c.job, _run.c.state)
    )
    return tuple(
        RunCount(job=job, state=RunState(state), runs=runs, slots=int(slots))
        for job, state, runs, slots in connection.execute(statement).all()
    )


def _run_record(connection: Connection, *, run_id: str) -> RunRecord:
    row = connection.execute(select(_run).where(_run.c.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    kept = connection.execute(select(_output).where(_output.c.run == run_id)).one_or_none()
    calls = _calls(connection, run_id=run_id, after=0, limit=CALLS_IN_RECORD)
    if kept is None:
        return RunRecord(run=run_of(row), output=row.excerpt, log=(), calls=calls)
    log = tuple(LogLine(at=datetime.fromisoformat(at), text=text) for at, text in kept.log)
    return RunRecord(run=run_of(row), output=kept.output, log=log, calls=calls)


def _known_calls(connection: Connection, *, run_id: str, after: int, limit: int) -> tuple[ToolCall, ...]:
    if connection.execute(select(_run.c.id).where(_run.c.id == run_id)).one_or_none() is None:
        raise UnknownRun(run_id)
    return _calls(connection, run_id=run_id, after=after, limit=limit)


def _calls(connection: Connection, *, run_id: str, after: int, limit: int) -> tuple[ToolCall, ...]:
    statement = select(_call).where(_call.c.run == run_id, _call.c.number > after).order_by(_call.c.number).limit(limit)
    return tuple(call_of(row) for row in connection.execute(statement).all())


def _prune(connection: Connection, *, job: str, keep: int) -> int:
    ended = and_(_run.c.job == job, _run.c.state.in_(_ENDED))
    ran, never_started = _run.c.started_at.is_not(None), _run.c.started_at.is_(None)
    return sum(_prune_rows(connection, and_(ended, kind), keep) for kind in (ran, never_started))


def _prune_rows(connection: Connection, rows: ColumnElement[bool], keep: int) -> int:
    newest_to_go = select(_run.c.id).where(rows).order_by(_run.c.id.desc()).offset(keep).limit(1)
    run_id = connection.execute(newest_to_go).scalar()
    if run_id is None:
        return 0
    return connection.execute(delete(_run).where(rows, _run.c.id <= run_id)).rowcount
