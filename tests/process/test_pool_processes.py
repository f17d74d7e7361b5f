"""The pool on real processes: shared, retired, killed, exclusive; and none is ever left."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp_types import CallToolResult, TextContent

from process.programs import MARK
from sexton.clock import SystemClock
from sexton.containment import Containment, StopTimes
from sexton.errors import SextonError
from sexton.journal import Event, Journal
from sexton.mcp_servers import (
    BreakerPolicy,
    ServerConfig,
    ServerDied,
    ServerPool,
    ServerUnavailable,
    Sharing,
    StdioServer,
)
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

RAW_SERVER = Path(__file__).parent / "stdio_servers" / "raw_server.py"


@dataclass
class Bench:
    pool: ServerPool
    containment: Containment
    journal: Journal

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind == f"server.{kind}"]

    def pids(self, name: str) -> list[int]:
        [status] = [status for status in self.pool.status() if status.name == name]
        return [process.pid for process in status.processes if process.pid is not None]

    def holders(self, name: str) -> tuple[str, ...]:
        [status] = [status for status in self.pool.status() if status.name == name]
        return status.holders

    async def call(self, name: str, tool: str, *, holder: str = "run:1", **arguments: Any) -> str:
        async with self.pool.lease(name, holder=holder) as lease:
            return text_of(await lease.call_tool(tool, arguments))


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@asynccontextmanager
async def bench(folder: Path, *configs: ServerConfig) -> AsyncIterator[Bench]:
    """A pool on real processes; when it has stopped, its trees are proven gone."""
    journal = Journal.open(None)
    with anyio.fail_after(300):
        async with Containment.open(folder / "state") as containment:
            pool = ServerPool(
                {config.name: config for config in configs},
                containment,
                clock=SystemClock(),
                journal=journal,
                data_dir=folder / "data",
                policy=BreakerPolicy(first_wait=0.2, longest_wait=0.2, open_wait=0.5),
            )
            async with anyio.create_task_group() as tasks:
                await tasks.start(pool.run)
                yield Bench(pool, containment, journal)
                tasks.cancel_scope.cancel()
            assert containment.trees() == ()


@pytest.fixture
def raw(tmp_path: Path) -> Any:
    """Makes the definition of a server in plain Python that bears this test's mark."""

    def make(name: str, *options: str, **settings: Any) -> ServerConfig:
        transport = StdioServer(
            command=sys.executable, args=("-I", "-S", str(RAW_SERVER), *options), env={MARK: str(tmp_path)}
        )
        usual = {
            "connect_timeout": PATIENCE,
            "call_timeout": PATIENCE,
            "stop": StopTimes(stdin_grace=0.3, term_grace=0.3),
        }
        return ServerConfig(name=name, transport=transport, **{**usual, **settings})

    return make


async def test_many_holders_at_once_share_one_process(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("files")) as running:
        answers: dict[int, str] = {}

        async def ask(number: int) -> None:
            answers[number] = await running.call("files", "echo", holder=f"run:{number}", text=f"mine is {number}")

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(ask, number)
        assert answers == {number: f"mine is {number}" for number in range(40)}
        assert len(running.events("started")) == 1
        assert len(running.containment.trees()) == 1
        [status] = running.pool.status()
        assert (status.holders, status.calls, len(status.pids)) == ((), 40, 1)
        assert (status.memory or 0) > 1_000_000


async def test_a_slow_call_of_one_holder_delays_no_other(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("files")) as running:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.call, "files", "hang")
            await wait_until(lambda: running.pool.status()[0].calls == 1)
            assert await running.call("files", "echo", holder="chat:2", text="quick") == "quick"
            tasks.cancel_scope.cancel()
        assert running.holders("files") == ()
        assert await running.call("files", "echo", text="still there") == "still there"
        assert len(running.events("started")) == 1


async def test_an_idle_server_is_retired_and_its_end_proven(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("files", idle_timeout=0.1)) as running:
        async with running.pool.lease("files", holder="chat:1"):
            [pid] = running.pids("files")
        await wait_until(lambda: len(running.events("gone")) == 1)
        assert not psutil.pid_exists(pid)
        assert running.containment.trees() == ()
        assert running.events("retired")[0].data["reason"] == "idle"
        assert await running.call("files", "echo", text="again") == "again"
        assert [event.data["process"] for event in running.events("started")] == ["files#1", "files#2"]


async def test_the_death_of_a_server_fails_its_calls_at_once_and_the_next_holder_gets_a_fresh_one(
    tmp_path: Path, raw: Any
) -> None:
    async with bench(tmp_path, raw("files")) as running:
        async with running.pool.lease("files", holder="chat:1") as lease:
            await lease.call_tool("say", {"words": "about to be killed\n"})
            [pid] = running.pids("files")
            errors: list[ServerDied] = []

            async def hang() -> None:
                try:
                    await lease.call_tool("hang")
                except ServerDied as error:
                    errors.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await wait_until(lambda: running.pool.status()[0].calls == 2)
                os.kill(pid, signal.SIGKILL)
            assert errors[0].signal == signal.SIGKILL
            assert "about to be killed" in errors[0].what
            # The same lease goes on, on a fresh process: this call was provably not sent to the dead one.
            assert text_of(await lease.call_tool("echo", {"text": "back"})) == "back"
        [died] = running.events("died")
        assert (died.data["signal"], died.data["holders"]) == (signal.SIGKILL, ["chat:1"])
        assert [event.data["process"] for event in running.events("started")] == ["files#1", "files#2"]


async def test_an_exclusive_server_gives_each_holder_a_process_of_its_own(tmp_path: Path, raw: Any) -> None:
    browser = raw("browser", sharing=Sharing.EXCLUSIVE, max_processes=2)
    async with bench(tmp_path, browser) as running:
        got: list[str] = []

        async def third() -> None:
            async with running.pool.lease("browser", holder="chat:3", returns=False) as lease:
                got.append(lease.process)

        async with (
            anyio.create_task_group() as tasks,
            running.pool.lease("browser", holder="chat:1") as one,
            running.pool.lease("browser", holder="chat:2") as two,
        ):
            assert one.process != two.process
            assert len(set(running.pids("browser"))) == 2
            tasks.start_soon(third)
            await wait_until(lambda: running.pool.status()[0].waiting == ("chat:3",))
            assert got == []
        assert got == ["browser#3"]
        await wait_until(lambda: len(running.pids("browser")) == 1)  # the third will not return


async def test_a_start_that_nobody_waits_for_any_more_leaves_no_process(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("mute", "never-answers")) as running:
        with anyio.move_on_after(PATIENCE) as waiting:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(running.call, "mute", "echo")
                await wait_until(lambda: any(tree.pids for tree in running.containment.trees()))
                tasks.cancel_scope.cancel()
        assert not waiting.cancelled_caught
        await wait_until(lambda: len(running.events("gone")) == 1)
        assert running.containment.trees() == ()


async def test_a_server_that_dies_at_its_start_is_told_with_its_last_words(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("github", "dies-at-start")) as running:
        with pytest.raises(ServerUnavailable) as caught:
            await running.call("github", "echo")
    first, words, intention, next_step = str(caught.value).splitlines()
    assert re.fullmatch(r"server 'github' ended with status 7 before .* \([\d.]+ s after its start\)\.", first)
    assert words == "  Its last words: Error: TOKEN is not set"
    assert re.fullmatch(r"  Its processes are gone; we try again in 0\.\d+ s \(attempt 2 of 5\)\.", intention)
    assert next_step == (
        "Next: correct under [servers.github] what its last words complain of (command, args, env);"
        " then run: sexton servers check github"
    )


async def test_a_server_that_dies_of_the_probe_is_started_twice_only_the_first_time(tmp_path: Path, raw: Any) -> None:
    for _ in range(2):
        async with bench(tmp_path, raw("old", "dies-on-discover")) as running:
            await running.call("old", "echo", text="x")
            await running.pool.restart("old")
            await running.call("old", "echo", text="x")
            await wait_until(lambda: any((tmp_path / "data" / "catalogue").glob("*.json")))
    assert (tmp_path / "data" / "logs" / "old.log").read_text().count("unknown method server/discover") == 1


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = ServerConfig(name="typo", transport=StdioServer(command="no-such-command-zzz"))
    async with bench(tmp_path, missing) as running:
        with pytest.raises(ServerUnavailable, match="no-such-command-zzz"):
            await running.call("typo", "echo")
        report = await running.pool.check("typo")
        assert not report.ok


async def test_stopping_the_pool_in_the_middle_of_calls_leaves_nothing(tmp_path: Path, raw: Any) -> None:
    configs = [raw("files"), raw("browser", sharing=Sharing.EXCLUSIVE), raw("mute", "never-answers")]
    failures: list[SextonError] = []

    async def hang(running: Bench, name: str, number: int) -> None:
        try:
            await running.call(name, "hang", holder=f"run:{number}")
        except SextonError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks, bench(tmp_path, *configs) as running:
        for number in range(9):
            tasks.start_soon(hang, running, configs[number % 3].name, number)
        await wait_until(lambda: sum(status.calls for status in running.pool.status()) == 6)
    assert len(failures) == 9  # everybody was told, nobody hangs


async def test_the_death_of_the_warden_costs_a_call_and_the_next_one_works_again(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("files")) as running:
        await running.call("files", "echo", text="before")
        [tree] = running.containment.trees()
        assert tree.keeper_pid is not None
        warden = psutil.Process(tree.keeper_pid).ppid()
        assert psutil.Process(warden).ppid() == os.getpid()
        os.kill(warden, signal.SIGKILL)
        await wait_until(lambda: len(running.events("gone")) == 1)
        assert await running.call("files", "echo", text="after") == "after"
        assert [event.data["process"] for event in running.events("started")] == ["files#1", "files#2"]


async def test_a_restart_leaves_other_servers_alone(tmp_path: Path, raw: Any) -> None:
    async with bench(tmp_path, raw("files"), raw("other")) as running:
        await running.call("files", "echo", text="x")
        async with running.pool.lease("other", holder="chat:1") as lease:
            [before] = running.pids("files")
            await running.pool.restart("files")
            assert not psutil.pid_exists(before)
            await lease.call_tool("echo", {"text": "undisturbed"})
        await running.call("files", "echo", text="x")
        assert running.pids("files") != [before]


async def test_a_hundred_holders_that_come_go_and_are_cancelled_while_servers_die(tmp_path: Path, raw: Any) -> None:
    """No lease is lost or kept, nobody hangs, and nothing is left (the seed is fixed; the interleaving is not)."""
    chance = random.Random(7)
    configs = [raw("files", idle_timeout=0.02), raw("browser", sharing=Sharing.EXCLUSIVE, max_processes=3)]

    async def visit(running: Bench, number: int) -> None:
        await anyio.sleep(chance.uniform(0, 1.5))
        name = chance.choice(["files", "files", "browser"])
        with anyio.move_on_after(chance.choice([0.01, 0.1, PATIENCE, PATIENCE])):
            try:
                if number % 12 == 0:
                    await running.call(name, "die", holder=f"run:{number % 30}")
                answer = await running.call(name, "echo", holder=f"run:{number % 30}", text=str(number))
            except (ServerDied, ServerUnavailable):
                return
            assert answer == str(number)

    async def answers(running: Bench, name: str) -> bool:
        try:
            return await running.call(name, "echo", text="again") == "again"
        except ServerUnavailable:
            return False

    async with bench(tmp_path, *configs) as running:
        async with anyio.create_task_group() as visitors:
            for number in range(100):
                visitors.start_soon(visit, running, number)
        for config in configs:
            await wait_until(partial(answers, running, config.name))  # its breaker may be open for a while
        for status in running.pool.status():
            assert (status.holders, status.waiting) == ((), ())
            assert len(status.processes) <= 3
