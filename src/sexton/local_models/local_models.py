"""Which servers of models run: started on first use, shared, retired when nobody has used them for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.containment import Containment, TreeEnd
from sexton.errors import SextonError
from sexton.journal import JSON, Journal
from sexton.local_models.local_model import LocalModel
from sexton.local_models.model_files import pulled_path
from sexton.local_models.model_server import (
    LocalModelFailed,
    ModelServer,
    ending,
    order_for,
    server_spec,
    wait_serving,
)


@final
class LocalModels:
    """The servers of models on this machine.

    Always true:
        1. A server in the book serves, or is on its way to; nobody gets one that is being ended.
        2. A model's next server starts only when its last one is proven gone: two of them may not fit into memory.
        3. A server that somebody holds is not retired.
    """

    def __init__(self, containment: Containment, *, data_dir: Path, clock: Clock, journal: Journal) -> None:
        self._containment = containment
        self._data_dir = data_dir
        self._clock = clock
        self._journal = journal
        self._servers: dict[LocalModel, ModelServer] = {}
        self._turns: dict[str, anyio.Lock] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hold the servers until this is cancelled; then end them and prove it."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    @asynccontextmanager
    async def lease(self, model: LocalModel, *, holder: str) -> AsyncIterator[ModelServer]:
        """A server of `model` that serves, started if there is none.

        Raises:
            LocalModelFailed: its file is not here, or it does not start.
            ContainmentError: no process can be started.
        """
        server = self._servers.get(model) or self._begin(model)
        server.hold(holder)
        try:
            await server.settled.wait()
            if server.failure is not None:
                raise server.failure
            yield server
        finally:
            server.let_go(holder, now=self._clock.monotonic())

    def holders(self) -> Mapping[int, tuple[str, ...]]:
        """Who uses which server now, by the pid of its leader."""
        return {server.pid: tuple(server.holders) for server in self._servers.values() if server.pid is not None}

    # Inside

    def _begin(self, model: LocalModel) -> ModelServer:
        if self._tasks is None or self._tasks.cancel_scope.cancel_called:
            raise LocalModelFailed(f"Model {model.name!r} cannot be started: the gateway stops.")
        server = self._servers[model] = ModelServer(model)
        self._tasks.start_soon(self._serve, server)
        return server

    async def _serve(self, server: ModelServer) -> None:
        model = server.model
        try:
            async with self._turns.setdefault(model.name, anyio.Lock()):
                await self._serve_now(server)
        except SextonError as failure:
            self._leave_book(server)
            server.fails(failure)
            self._tell("model.failed", server, error=failure.what, hint=failure.hint)
        finally:
            self._leave_book(server)
            server.ends(f"The server of model {model.name!r} was stopped: the gateway stops.")

    async def _serve_now(self, server: ModelServer) -> None:
        model = server.model
        file = self._file_of(model)
        began = self._clock.monotonic()
        async with self._containment.start(server_spec(model, self._data_dir / "logs")) as tree:
            await tree.wait_started()
            server.pid = tree.pid
            url = await wait_serving(tree, model, order_for(model, file, server.key))
            server.serves_at(url)
            self._tell("model.started", server, seconds=round(self._clock.monotonic() - began, 3), pid=tree.pid)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._retire_when_idle, server, tasks.cancel_scope)
                end = await tree.wait_ended()
                self._note_death(server, end)
                tasks.cancel_scope.cancel()

    def _file_of(self, model: LocalModel) -> Path:
        if isinstance(model.file, Path):
            if not model.file.is_file():
                raise LocalModelFailed(
                    f"The file of model {model.name!r} is not there: {model.file}.",
                    hint=f"correct model under [models.{model.name}]",
                )
            return model.file
        path = pulled_path(self._data_dir, model.file)
        if not path.is_file():
            raise LocalModelFailed(
                f"Model {model.name!r} needs {model.file}, which was not pulled yet.",
                hint=f"fetch it: sexton model pull {model.file}",
            )
        return path

    async def _retire_when_idle(self, server: ModelServer, scope: anyio.CancelScope) -> None:
        while True:
            await server.wait_idle()
            left = server.idle_since + server.model.idle_timeout - self._clock.monotonic()
            if server.holders:
                continue
            if left <= 0:
                break
            await self._clock.sleep(left)
        self._leave_book(server)  # before anything is awaited: nobody can take it from here on
        server.ends(f"The server of model {server.model.name!r} was idle, and is being stopped.")
        self._tell("model.retired", server)
        scope.cancel()

    def _note_death(self, server: ModelServer, end: TreeEnd) -> None:
        self._leave_book(server)
        server.ends(ending(server.model, end))
        self._tell("model.died", server, what=server.why_over, holders=list[JSON](server.holders))

    def _leave_book(self, server: ModelServer) -> None:
        if self._servers.get(server.model) is server:
            del self._servers[server.model]

    def _tell(self, kind: str, server: ModelServer, **data: JSON) -> None:
        told = {name: value for name, value in data.items() if value is not None}
        self._journal.append(kind, subject=server.model.name, **told)
