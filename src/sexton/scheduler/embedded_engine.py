"""The engine of one gateway on SQLite: what may start is claimed in the very transaction that recorded its slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, final

import anyio
import anyio.abc
from sqlalchemy import Connection, Row, and_, bindparam, func, or_, select

from sexton import database as tables
from sexton.scheduler.admission import Room, count_resources
from sexton.scheduler.claim import WAITING, Claim, Claimer, end_if_too_late, take_run
from sexton.scheduler.engine import Distributed, Take
from sexton.scheduler.job import Job, Run
from sexton.scheduler.needs import need_of
from sexton.scheduler.rows import job_of
from sexton.scheduler.run_states import RunState

WAITING_AT_ONCE = 500
_run = tables.run

# Made once: to build a statement takes longer than SQLite needs to answer it.
_RUNNING_BY_JOB = (
    select(_run.c.job, func.count().label("running")).where(_run.c.state == str(RunState.RUNNING)).group_by(_run.c.job)
)
_WAITING = (
    WAITING.where(_run.c.state == str(RunState.QUEUED), _run.c.not_before <= bindparam("now"))
    .order_by(_run.c.priority.desc(), _run.c.id)
    .limit(WAITING_AT_ONCE)
    .with_for_update(skip_locked=True, of=_run)
)


@final
class EmbeddedEngine:
    """Needs no worker: each tick claims what this gateway has room for.  Several gateways on one database may do so."""

    def distribute(self, connection: Connection, claimer: Claimer) -> Distributed:
        """Claim waiting runs, by priority and then by age, as far as every limit allows."""
        running = Counter({row.job: row.running for row in connection.execute(_RUNNING_BY_JOB)})
        room = Room(
            limits=claimer.limits,
            running=len(claimer.running),
            running_by_job=running,
            running_by_resource=count_resources(claimer.running),
        )
        late: list[Run] = []
        claims: list[Claim] = []
        after: tuple[int, str] | None = None
        while not room.is_full:
            rows = _waiting(connection, claimer, after)
            for row in rows:
                job = job_of(row)
                if (missed := end_if_too_late(connection, row, job, claimer.now)) is not None:
                    late.append(missed)
                elif _may_run(job, claimer, room) and (claim := take_run(connection, row, job, claimer)):
                    claims.append(claim)
            if len(rows) < WAITING_AT_ONCE:
                break
            after = (rows[-1].priority, rows[-1].id)
        return Distributed(claims=tuple(claims), late=tuple(late))

    def abort(self, connection: Connection, run_ids: Sequence[str]) -> None:
        """The gateway that has them finds the wish in their rows."""

    def mend(self, connection: Connection, claimer: Claimer) -> Distributed:  # noqa: ARG002
        return Distributed()

    async def work(
        self,
        take: Take,  # noqa: ARG002
        *,
        wake: Callable[[], None],  # noqa: ARG002
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()

    def pause(self) -> None:
        """A gateway that takes no more runs does not tick."""

    def resume(self) -> None:
        """See `pause`."""


def _may_run(job: Job, claimer: Claimer, room: Room) -> bool:
    return claimer.offer.covers(need_of(job)) and room.take(job)


def _waiting(connection: Connection, claimer: Claimer, after: tuple[int, str] | None) -> Sequence[Row[Any]]:
    statement = _WAITING
    if after is not None:
        priority, run_id = after
        lower = _run.c.priority < priority
        statement = statement.where(or_(lower, and_(_run.c.priority == priority, _run.c.id > run_id)))
    return connection.execute(statement, {"now": claimer.now}).all()
