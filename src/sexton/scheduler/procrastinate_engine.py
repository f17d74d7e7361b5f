"""The engine of several gateways on one PostgreSQL: Procrastinate.

A run that may start becomes a job of Procrastinate in the transaction of the
tick, in the queue of what it needs (see `needs`).  Each node has one worker on
the queues that it can serve; PostgreSQL's NOTIFY wakes it.  The worker's task
only asks the scheduler to take the run and waits for its end, so that a worker
that breaks with its connection breaks no run.

Losing what Procrastinate knows loses nothing: `mend` offers again each run
that waits and that no worker has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import anyio
import anyio.abc
import procrastinate
from procrastinate.schema import SchemaManager
from procrastinate.worker import Worker
from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, or_, select, text, update

from sexton import database as tables
from sexton.clock import Clock
from sexton.scheduler.claim import WAITING, Claimer, end_if_too_late
from sexton.scheduler.engine import Distributed, Take
from sexton.scheduler.job import Job, Run
from sexton.scheduler.needs import Need, Offer, need_of
from sexton.scheduler.rows import job_of
from sexton.scheduler.run_states import RunState

LOG = logging.getLogger(__name__)
TASK = "sexton.run"
WAITING_AT_ONCE = 500
MEND_EVERY = 20.0
# Procrastinate's own measure of a worker that is gone (its heart beats every 10 s).
WORKER_SILENT = 30.0
OFFER_AGAIN_IN = 1
CONNECT_AGAIN_EVERY = 2.0
LISTENS_ANEW_AFTER = 5.0
# While PostgreSQL does not answer.  What was sent and is not acknowledged for so long ends the connection (tcp(7)).
PATIENCE = {"connect_timeout": "5", "tcp_user_timeout": "10000", "keepalives_idle": "5", "keepalives_interval": "2"}
# Nothing in Procrastinate's tables is the truth about a run, so its commits need not wait for the disk.
OPTIONS = "-c synchronous_commit=off"
_run = tables.run
_need = tables.need
_QUEUED: ColumnElement[str] = bindparam("is_queued", str(RunState.QUEUED), literal_execute=True)
_RUNNING: ColumnElement[str] = bindparam("is_running", str(RunState.RUNNING), literal_execute=True)

_TO_HAND_OVER = (
    WAITING.where(_run.c.state == _QUEUED, _run.c.handed_at.is_(None), _run.c.not_before <= bindparam("now"))
    .order_by(_run.c.priority.desc(), _run.c.id)
    .limit(WAITING_AT_ONCE)
    .with_for_update(skip_locked=True, of=_run)
)
_UNDER_WAY = (
    select(_run.c.job, func.count().label("runs"))
    .where(
        _run.c.job.in_(bindparam("jobs", expanding=True)),
        or_(_run.c.state == _RUNNING, and_(_run.c.state == _QUEUED, _run.c.handed_at.is_not(None))),
    )
    .group_by(_run.c.job)
)
_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(array_agg(ROW(
        each.queue, :task, each.priority, each.run, each.run, jsonb_build_object('run', each.run), NULL
    )::procrastinate_job_to_defer_v1))
    FROM unnest(CAST(:queues AS text[]), CAST(:priorities AS int[]), CAST(:runs AS text[]))
        AS each(queue, priority, run)
    WHERE NOT EXISTS (
        SELECT FROM procrastinate_jobs known WHERE known.queueing_lock = each.run AND known.status = 'todo'
    )
    HAVING count(*) > 0
    """
)
_ABORT = text(
    "SELECT procrastinate_cancel_job_v1(id, true, false) FROM procrastinate_jobs"
    " WHERE lock = ANY(CAST(:runs AS text[])) AND status = 'doing'"
)
# What a worker has that is gone: of a run that is under way elsewhere or over, of one that still waits.
_FORGET_STALLED = text(
    """
    DELETE FROM procrastinate_jobs job
    WHERE job.task_name = :task AND job.status <> 'todo'
    AND NOT (job.status = 'doing' AND EXISTS (
        SELECT FROM procrastinate_workers worker
        WHERE worker.id = job.worker_id AND worker.last_heartbeat > now() - make_interval(secs => :silent)
    ))
    """
)
_FORGET_OVER = text(
    """
    DELETE FROM procrastinate_jobs job WHERE job.task_name = :task AND job.status = 'todo'
    AND NOT EXISTS (SELECT FROM run WHERE run.id = job.lock COLLATE "C" AND run.state = 'queued')
    """
)
_OFFER_AGAIN = text(
    """
    UPDATE run SET handed_at = NULL
    WHERE state = 'queued' AND handed_at < :before
    AND NOT EXISTS (
        SELECT FROM procrastinate_jobs job
        WHERE job.queueing_lock = run.id COLLATE "default" AND job.status = 'todo'
    )
    AND NOT EXISTS (
        SELECT FROM procrastinate_jobs job WHERE job.lock = run.id COLLATE "default" AND job.status = 'doing'
    )
    """
)
_OLDEST_HANDED = (
    WAITING.where(_run.c.state == _QUEUED, _run.c.handed_at.is_not(None))
    .order_by(_run.c.id)
    .limit(WAITING_AT_ONCE)
    .with_for_update(skip_locked=True, of=_run)
)


class _NotNow(Exception):
    """This node has no room for the run that it was offered; not an error."""


class _OfferAgain(procrastinate.BaseRetryStrategy):
    def get_retry_decision(
        self,
        *,
        exception: BaseException,
        job: procrastinate.jobs.Job,  # noqa: ARG002
    ) -> procrastinate.RetryDecision | None:
        return procrastinate.RetryDecision(retry_in={"seconds": OFFER_AGAIN_IN}) if _is_not_now(exception) else None


def _is_not_now(error: BaseException) -> bool:
    return isinstance(error, _NotNow)


@final
class ProcrastinateEngine:
    """See the module.  `conninfo` is libpq's; `capacity` is how many runs this node works at a time."""

    def __init__(self, conninfo: str, *, capacity: int, offer: Offer, clock: Clock) -> None:
        self._conninfo = conninfo
        self._capacity = capacity
        self._offer = offer
        self._clock = clock
        self._queues = [Need().queue]
        self._mend_at = time.monotonic() + MEND_EVERY
        self._open = anyio.Event()
        self._open.set()
        self._worker: Worker | None = None
        self._asked = 0

    # Within the planner's transactions

    def prepare(self, connection: Connection) -> None:
        """To be called once, before `work`: see to Procrastinate's tables, and find what waits for us."""
        prepare(connection)
        self._note_queues(connection)

    def distribute(self, connection: Connection, claimer: Claimer) -> Distributed:
        """Hand over what may start, by priority and then by age; of each job as many as may run at once."""
        late: list[Run] = []
        after: tuple[int, str] | None = None
        while True:
            rows = _page(connection, claimer, after)
            late += self._hand_over(connection, rows, claimer)
            if len(rows) < WAITING_AT_ONCE:
                return Distributed(late=tuple(late))
            after = (rows[-1].priority, rows[-1].id)

    def abort(self, connection: Connection, run_ids: Sequence[str]) -> None:
        connection.execute(_ABORT, {"runs": list(run_ids)})

    def mend(self, connection: Connection, claimer: Claimer) -> Distributed:
        self._note_queues(connection)
        if time.monotonic() < self._mend_at:
            return Distributed()
        self._mend_at = time.monotonic() + MEND_EVERY
        before = (claimer.now - timedelta(seconds=WORKER_SILENT) - tables.EPOCH) // timedelta(microseconds=1)
        connection.execute(_FORGET_STALLED, {"task": TASK, "silent": WORKER_SILENT})
        connection.execute(_FORGET_OVER, {"task": TASK})
        connection.execute(_OFFER_AGAIN, {"before": before})
        oldest = connection.execute(_OLDEST_HANDED).all()
        late = (end_if_too_late(connection, row, job_of(row), claimer.now) for row in oldest)
        return Distributed(late=tuple(run for run in late if run is not None))

    def _hand_over(self, connection: Connection, rows: Sequence[Row[Any]], claimer: Claimer) -> list[Run]:
        if not rows:
            return []
        counted = connection.execute(_UNDER_WAY, {"jobs": sorted({row.job for row in rows})}).all()
        under_way = Counter({row.job: row.runs for row in counted})
        late: list[Run] = []
        handed: list[tuple[Row[Any], Job]] = []
        for row in rows:
            job = job_of(row)
            if (missed := end_if_too_late(connection, row, job, claimer.now)) is not None:
                late.append(missed)
            elif under_way[job.name] < job.most_at_once:
                under_way[job.name] += 1
                handed.append((row, job))
        if handed:
            self._defer(connection, handed, claimer)
        return late

    def _defer(self, connection: Connection, handed: Sequence[tuple[Row[Any], Job]], claimer: Claimer) -> None:
        needs = [need_of(job) for _, job in handed]
        runs = [row.id for row, _ in handed]
        if fresh := {need for need in needs if need != Need() and need.queue not in self._queues}:
            _know_needs(connection, fresh)
            self._queues += sorted(need.queue for need in fresh if self._offer.covers(need))
        connection.execute(update(_run).where(_run.c.id.in_(runs)).values(handed_at=claimer.now))
        queues, priorities = [need.queue for need in needs], [row.priority for row, _ in handed]
        connection.execute(_DEFER, {"task": TASK, "queues": queues, "priorities": priorities, "runs": runs})

    def _note_queues(self, connection: Connection) -> None:
        """Which queues are there for us; a worker that listens to others is replaced once it has nothing to do."""
        needs = (Need.of_document(row.document) for row in connection.execute(select(_need.c.document)).all())
        fresh = sorted({Need().queue, *(need.queue for need in needs if self._offer.covers(need))})
        if fresh != self._queues:
            self._queues[:] = fresh

    # The worker

    def pause(self) -> None:
        if self._open.is_set():
            self._open = anyio.Event()
        if self._worker is not None:
            self._worker.stop()  # type: ignore[no-untyped-call]

    def resume(self) -> None:
        self._open.set()

    async def work(
        self,
        take: Take,
        *,
        wake: Callable[[], None],
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        # They tell each attempt to connect, the one with a traceback; what fails is told, once, by the scheduler's own
        # transactions.
        for library in ("procrastinate", "psycopg.pool"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        task_status.started()
        while True:
            await self._open.wait()
            try:
                await self._work_on_connection(take, wake)
            # The outermost edge of a worker, which raises what its driver and its pool do; another takes its place.
            except Exception as error:  # noqa: BLE001
                said = " ".join(f"{type(error).__name__}: {error}".split())
                LOG.warning("the worker on PostgreSQL ended, and is started again: %s", said)
            await self._clock.sleep(CONNECT_AGAIN_EVERY)

    async def _work_on_connection(self, take: Take, wake: Callable[[], None]) -> None:
        connector = procrastinate.PsycopgConnector(
            conninfo=self._conninfo,
            kwargs={**PATIENCE, "options": OPTIONS},
            min_size=1,
            max_size=3,
            timeout=5,
            num_workers=1,
        )
        app = procrastinate.App(connector=connector)

        @app.task(name=TASK, pass_context=True, retry=_OfferAgain())
        async def offer(context: procrastinate.JobContext, run: str) -> None:
            self._asked += 1
            try:
                is_over = await take(run)
            except asyncio.CancelledError:
                if context.should_abort():
                    wake()
                raise
            finally:
                self._asked -= 1
            if not is_over:
                raise _NotNow

        async with app.open_async():
            # No time for tasks to end when it stops: ended is the wait for the run, never the run.
            self._worker = Worker(
                app,
                queues=self._queues,
                concurrency=self._capacity,
                delete_jobs="always",
                install_signal_handlers=False,
                shutdown_graceful_timeout=0,
                stalled_worker_timeout=WORKER_SILENT,
            )
            await self._see_through(self._worker, tuple(self._queues))

    async def _see_through(self, worker: Worker, queues: tuple[str, ...]) -> None:
        """Run a worker until it breaks, is stopped, or has nothing to do and does not listen to all our queues.

        In a task of its own: it has its own way to be stopped, and a cancel scope would come between.
        """
        running = asyncio.ensure_future(worker.run())  # type: ignore[no-untyped-call]
        running.add_done_callback(_retrieve)
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=LISTENS_ANEW_AFTER)
                if queues != tuple(self._queues) and not self._asked:
                    break
        finally:
            worker.stop()  # type: ignore[no-untyped-call]
            with anyio.move_on_after(5, shield=True):
                await asyncio.wait({running})
            running.cancel()
        if running.done() and not running.cancelled():
            running.result()


def _retrieve(worker: asyncio.Future[Any]) -> None:
    """What a worker raised that ended after we had stopped to wait for it has been told, or is of no use."""
    if not worker.cancelled():
        worker.exception()


def _page(connection: Connection, claimer: Claimer, after: tuple[int, str] | None) -> Sequence[Row[Any]]:
    statement = _TO_HAND_OVER
    if after is not None:
        priority, run_id = after
        statement = statement.where(
            or_(_run.c.priority < priority, and_(_run.c.priority == priority, _run.c.id > run_id))
        )
    return connection.execute(statement, {"now": claimer.now}).all()


def _know_needs(connection: Connection, needs: set[Need]) -> None:
    statement = text("INSERT INTO need (queue, document) VALUES (:queue, :document) ON CONFLICT DO NOTHING")
    connection.execute(statement, [{"queue": need.queue, "document": need.document} for need in needs])


# Procrastinate's tables

_MARK = "procrastinate "


def prepare(connection: Connection) -> None:
    """Bring Procrastinate's own tables to what the installed version needs, within the caller's transaction.

    Procrastinate does not keep which of its migrations were run, so the version stands as a comment on its table.
    """
    installed = version("procrastinate")
    comment = "SELECT obj_description(to_regclass('procrastinate_jobs')), to_regclass('procrastinate_jobs') IS NOT NULL"
    noted, is_there = connection.execute(text(comment)).one()
    if noted == _MARK + installed:
        return
    if not is_there:
        _run_script(connection, SchemaManager.get_schema())
    else:
        before = _numbers((noted or "").removeprefix(_MARK) or "3.4.0")
        for script in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql")):
            if before < _numbers(script.name.partition("_")[0]) <= _numbers(installed):
                _run_script(connection, script.read_text(encoding="utf-8"))
    _run_script(connection, f"COMMENT ON TABLE procrastinate_jobs IS '{_MARK}{installed}'")


def _numbers(written: str) -> tuple[int, ...]:
    return tuple(int(part) for part in written.split(".")[:3])


def _run_script(connection: Connection, script: str) -> None:
    """Several statements at once, which only the driver itself takes, and only without parameters."""
    driver: Any = connection.connection.driver_connection
    driver.execute(script)
