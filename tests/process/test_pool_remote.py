"""The pool on a real server over HTTP that goes away and comes back; we neither start nor end it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import anyio
import pytest

from fake_servers import NoTrees
from process.programs import MARK
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.journal import Event, Journal
from sexton.mcp_servers import (
    BreakerPolicy,
    HttpServer,
    Lease,
    ServerConfig,
    ServerDied,
    ServerPool,
    ServerState,
    ServerStatus,
    ServerUnavailable,
)
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

Kind = Literal["streamable-http", "sse"]
PROGRAM = Path(__file__).parent / "stdio_servers" / "sdk_server.py"
both_kinds = pytest.mark.parametrize("kind", ["streamable-http", "sse"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return cast("int", listener.getsockname()[1])


@dataclass
class FarServer:
    """A server at one address, for as long as a test wants it there."""

    kind: Kind
    folder: Path
    port: int = field(default_factory=_free_port)
    program: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [sys.executable, str(PROGRAM), self.kind, str(self.port)]
        env = {**os.environ, MARK: str(self.folder)}
        self.program = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env)
        await wait_until(self._listens, seconds=PATIENCE)

    def kill(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program.wait()
            self.program = None

    def config(self) -> ServerConfig:
        url = f"http://127.0.0.1:{self.port}/{'sse' if self.kind == 'sse' else 'mcp'}"
        return ServerConfig(
            name="far",
            transport=HttpServer(url=url, headers={}, kind=self.kind),
            connect_timeout=PATIENCE,
            call_timeout=PATIENCE,
        )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def far(kind: Kind, tmp_path: Path) -> Iterator[FarServer]:
    server = FarServer(kind, tmp_path)
    yield server
    server.kill()


@dataclass
class Bench:
    pool: ServerPool
    journal: Journal

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind == f"server.{kind}"]

    @property
    def status(self) -> ServerStatus:
        [status] = self.pool.status()
        return status


@asynccontextmanager
async def bench(far: FarServer) -> AsyncIterator[Bench]:
    journal = Journal.open(None)
    pool = ServerPool(
        {"far": far.config()},
        cast("Containment", NoTrees()),
        clock=SystemClock(),
        journal=journal,
        data_dir=far.folder / "data",
        policy=BreakerPolicy(first_wait=30, longest_wait=30),
    )
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            yield Bench(pool, journal)
            tasks.cancel_scope.cancel()


async def add(lease: Lease) -> object:
    return (await lease.call_tool("add", {"a": 1, "b": 2})).structured_content


@both_kinds
async def test_holders_share_one_entry_and_a_refused_connection_counts_as_a_failure(far: FarServer) -> None:
    async with bench(far) as running:
        with pytest.raises(ServerUnavailable, match="cannot be reached: nothing listens") as caught:
            async with running.pool.lease("far", holder="run:1"):
                pytest.fail("nothing is there")
        assert "processes" not in str(caught.value)  # they are not ours
        assert running.status.state is ServerState.BACKING_OFF
        await far.start()
        await running.pool.restart("far")
        async with (
            running.pool.lease("far", holder="run:1") as one,
            running.pool.lease("far", holder="chat:2") as two,
        ):
            assert one.process == two.process == "far#2"
            assert one.session is not two.session
            assert await add(one) == await add(two) == {"total": 3}
        assert (running.status.calls, running.status.breaker_status.failures) == (2, 0)


@both_kinds
async def test_a_server_that_dies_during_a_call_fails_it_and_is_not_taken_for_one_that_answered(far: FarServer) -> None:
    await far.start()
    async with bench(far) as running, running.pool.lease("far", holder="chat:1") as lease:

        async def kill(progress: float, total: float | None, message: str | None) -> None:
            far.kill()

        with pytest.raises(ServerDied, match="server 'far' was lost during a call: it"):
            await lease.call_tool("hang", {}, progress=kill)
        await wait_until(lambda: running.status.breaker_status.failures == 1)
        assert len(running.events("died")) == 1
        await far.start()
        assert await add(lease) == {"total": 3}  # the same lease, connected anew
        assert running.status.breaker_status.failures == 0


@both_kinds
async def test_a_call_that_never_reached_the_server_is_made_once_more_when_it_is_back(far: FarServer) -> None:
    await far.start()
    async with bench(far) as running, running.pool.lease("far", holder="chat:1") as lease:
        assert await add(lease) == {"total": 3}
        far.kill()
        await far.start()
        assert await add(lease) == {"total": 3}
        assert running.status.breaker_status.failures == 0


@both_kinds
async def test_a_server_that_stays_away_is_told_and_opens_the_breaker(far: FarServer) -> None:
    await far.start()
    async with bench(far) as running, running.pool.lease("far", holder="chat:1") as lease:
        assert await add(lease) == {"total": 3}
        far.kill()
        if far.kind == "sse":  # its stream ends, so that it is noticed at once
            await wait_until(lambda: len(running.events("died")) == 1)
        with pytest.raises(ServerUnavailable, match="cannot be reached: nothing listens"):
            await add(lease)
        assert running.status.state is ServerState.BACKING_OFF
        assert running.status.breaker_status.failures == 2  # lost, and not there when asked again
