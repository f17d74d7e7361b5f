"""DBOS behind the protocol of `sexton.scheduler.engine`, to be measured beside Procrastinate.

The planner's part is that of the engine on Procrastinate, line by line: which runs may be handed over, and when.  A run
becomes a workflow of DBOS with one step, which asks the scheduler to take the run and waits for its end.  The step is
preemptible, DBOS's way to end what runs elsewhere.  Where the protocol cannot be held, it is said.
"""

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.abc
from sqlalchemy import Connection, Row, update

from benchmarks.peers import ensure_dbos
from sexton import database as tables
from sexton.clock import Clock
from sexton.scheduler import Offer
from sexton.scheduler.claim import Claimer
from sexton.scheduler.engine import Distributed, Take
from sexton.scheduler.job import Job
from sexton.scheduler.procrastinate_engine import ProcrastinateEngine

QUEUE = "sexton"
WORKFLOW = "offer"
APPLICATION = "sexton"
VERSION = "1"


def load() -> Any:
    """The package, from its own environment, behind all that ours has."""
    folder = str(next((ensure_dbos().parent.parent / "lib").glob("python3*/site-packages")))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("dbos")


class DbosEngine(ProcrastinateEngine):  # type: ignore[misc] # it is final for all but this comparison
    """`poll` is how often a node looks into the queue, in seconds; `version` is that of the application."""

    def __init__(
        self,
        conninfo: str,
        *,
        node: str,
        capacity: int,
        offer: Offer,
        clock: Clock,
        poll: float,
        version: str = VERSION,
    ) -> None:
        super().__init__(conninfo, capacity=capacity, offer=offer, clock=clock)
        self._dbos = load()
        self._settings = {
            "name": APPLICATION,
            "system_database_url": conninfo,
            "application_version": version,
            "executor_id": node,
            "log_level": "CRITICAL",
        }
        self._poll = poll
        self._client: Any = None

    def prepare(self, connection: Connection) -> None:  # noqa: ARG002
        """DBOS makes its tables itself, when it is launched, in transactions of its own."""
        self._client = self._client or self._dbos.DBOSClient(
            system_database_url=self._conninfo, application_name=APPLICATION, lazy=True
        )

    def abort(self, connection: Connection, run_ids: Sequence[str]) -> None:  # noqa: ARG002
        """Not part of the transaction: DBOS has a way into ours for what is enqueued, and for nothing else."""
        for run in run_ids:
            self._client.cancel_workflow(run)

    def mend(self, connection: Connection, claimer: Claimer) -> Distributed:  # noqa: ARG002
        """Nothing: which of its executors is dead, only its Conductor knows."""
        return Distributed()

    def _defer(self, connection: Connection, handed: Sequence[tuple[Row[Any], Job]], claimer: Claimer) -> None:
        runs = [row.id for row, _ in handed]
        connection.execute(update(tables.run).where(tables.run.c.id.in_(runs)).values(handed_at=claimer.now))
        for run in runs:  # there is no call that enqueues many
            options = {"workflow_name": WORKFLOW, "queue_name": QUEUE, "workflow_id": run}
            self._client.enqueue_in_transaction(connection, options, run)

    async def work(
        self,
        take: Take,
        *,
        wake: Callable[[], None],
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._launch, take, wake, loop)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(self._dbos.DBOS.destroy)

    def _launch(self, take: Take, wake: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """DBOS runs workflows on a loop and threads of its own; the scheduler's are asked across."""
        dbos = self._dbos.DBOS

        async def ask(run: str) -> bool:
            try:
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_take(take, run), loop))
            except asyncio.CancelledError:
                loop.call_soon_threadsafe(wake)
                raise

        step = dbos.step(name="take", preemptible=True)(ask)

        async def offer(run: str) -> None:
            if not await step(run):
                options = {"workflow_name": WORKFLOW, "queue_name": QUEUE, "delay_seconds": 1}
                await asyncio.to_thread(self._client.enqueue, options, run)

        dbos(config=self._settings)
        dbos.workflow(name=WORKFLOW)(offer)
        dbos.launch()
        dbos.register_queue(QUEUE, worker_concurrency=self._capacity, polling_interval_sec=self._poll)


async def _take(take: Take, run: str) -> bool:
    return await take(run)
