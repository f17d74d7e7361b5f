"""Many holders on one real process that misbehaves in many ways."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest
from mcp import ClientSession, MCPError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, LoggingMessageNotificationParams, TextContent

from fake_clock import held_loop_time, moved_loop_time
from sexton.containment import Containment, SpawnFailed, StopTimes
from sexton.mcp_servers import handshake
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.server_config import ServerConfig, StdioServer
from sexton.mcp_servers.server_errors import (
    CallTimedOut,
    ConnectFailed,
    ConnectTimedOut,
    InvalidAnswer,
    LineTooLong,
    NotWritten,
    ServerDied,
    ServerStoppedReading,
    words_of_gone,
)
from sexton.mcp_servers.server_process import ServerProcess
from waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio

RAW_SERVER = Path(__file__).parent / "stdio_servers" / "raw_server.py"


@pytest.fixture
async def containment(tmp_path: Path) -> AsyncIterator[Containment]:
    with anyio.fail_after(300):
        async with Containment.open(tmp_path / "state") as containment:
            yield containment
            assert containment.trees() == ()


def raw(*options: str, **settings: Any) -> ServerConfig:
    transport = StdioServer(command=sys.executable, args=("-I", "-S", str(RAW_SERVER), *options))
    usual = {"connect_timeout": PATIENCE, "call_timeout": PATIENCE, "stop": StopTimes(stdin_grace=0.3, term_grace=0.3)}
    return ServerConfig(name="raw", transport=transport, **{**usual, **settings})


@asynccontextmanager
async def raw_process(containment: Containment, *options: str, **settings: Any) -> AsyncIterator[ServerProcess]:
    async with ServerProcess.open(raw(*options, **settings), containment, owner="test") as process:
        pid = process.pid
        assert pid is not None
        yield process
    assert not psutil.pid_exists(pid)


async def call(session: ClientSession, tool: str, **arguments: Any) -> str:
    return text_of(await session.call_tool(tool, arguments))


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def test_a_holder_gets_a_session_of_its_own_and_one_handshake_serves_all(containment: Containment) -> None:
    async with raw_process(containment) as process:
        async with process.connect("a") as a, process.connect("b") as b:
            assert list(process.holders) == ["a", "b"]
            assert await call(a, "echo", text="from a") == "from a"
            assert await call(b, "echo", text="from b") == "from b"
            assert (await b.initialize()).server_info.name == "raw"  # from the record
            seen = json.loads(await call(b, "seen"))
        assert list(process.holders) == []
        assert seen.count("initialize") == seen.count("notifications/initialized") == 1
        assert process.introduction.protocol_version == "2025-06-18"
        assert process.introduction.server_info is not None
        assert process.calls == 3
        assert not process.introduction.is_modern


async def test_the_tools_are_listed_once_until_they_change(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        tools = await process.list_tools()
        assert "echo" in [tool.name for tool in tools]
        assert await process.list_tools() is tools
        assert json.loads(await call(a, "seen")).count("tools/list") == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.wait_tools_changed)
            await anyio.wait_all_tasks_blocked()
            await call(a, "tell", method="notifications/tools/list_changed")
        assert await process.list_tools() is not tools
        assert json.loads(await call(a, "seen")).count("tools/list") == 2


async def test_a_slow_call_delays_nobody(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("slow") as slow, process.connect("quick") as quick:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, slow, "sleep")
            await wait_until(lambda: process.calls_in_flight == 1)
            for number in range(20):
                assert await call(quick, "echo", text=str(number)) == str(number)
            tasks.cancel_scope.cancel()
        await wait_until(lambda: _cancelled_at_server(quick, 1))


async def _cancelled_at_server(session: ClientSession, count: int) -> bool:
    return len(json.loads(await call(session, "cancelled"))) == count


async def test_a_holder_that_leaves_takes_only_its_own_calls_along(containment: Containment, tmp_path: Path) -> None:
    async with raw_process(containment) as process, process.connect("stays") as stays:
        answers: list[str] = []

        async def wait_for_answer() -> None:
            answers.append(await call(stays, "sleep", until=str(tmp_path / "left"), text="mine"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_answer)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(_hold_and_call, process, "leaves")
                await wait_until(lambda: process.calls_in_flight == 4)
                leaving.cancel_scope.cancel()
            assert process.holders == ("stays",)
            await wait_until(lambda: _cancelled_at_server(stays, 3))
            (tmp_path / "left").touch()
        assert answers == ["mine"]
        await wait_until(lambda: process._multiplexer.late_answers == 3)


async def _hold_and_call(process: ServerProcess, holder: str) -> None:
    async with process.connect(holder) as session, anyio.create_task_group() as calls:
        for _ in range(3):
            calls.start_soon(call, session, "sleep")


async def test_eight_holders_with_random_cancels_never_get_anothers_answer(containment: Containment) -> None:
    chance = random.Random(20261122)
    done = cancelled = 0

    async def one_call(session: ClientSession, holder: str, number: int) -> None:
        nonlocal done, cancelled
        text = f"{holder}/{number}"
        with anyio.move_on_after(chance.choice([0.0, 0.002, 0.01, PATIENCE, PATIENCE])) as limit:
            answer = await call(session, "sleep", seconds=chance.random() * 0.02, text=text)
            assert answer == text
            done += 1
        cancelled += limit.cancelled_caught

    async def one_holder(process: ServerProcess, holder: str) -> None:
        for visit in range(3):
            async with process.connect(holder) as session, anyio.create_task_group() as calls:
                for number in range(12):
                    calls.start_soon(one_call, session, holder, visit * 100 + number)

    async with raw_process(containment) as process:
        async with anyio.create_task_group() as holders:
            for number in range(8):
                holders.start_soon(one_holder, process, f"holder-{number}")
        assert process.calls_in_flight == 0
        assert done + cancelled == 8 * 3 * 12
        assert done > 100
        assert cancelled > 20


async def test_progress_reaches_the_callback_and_keeps_the_call_alive(
    containment: Containment, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async with raw_process(containment) as process, process.connect("a") as a:
        result = await a.call_tool("progress", {"steps": 6}, 5, on_progress)
        assert text_of(result) == "6 steps"
        assert told == [1, 2, 3, 4, 5, 6]
        # Also when the caller does not listen: 90 s of work on a limit of 20 s.
        take_line = ServerProcess._take_line

        def taking_its_time(process: ServerProcess, line: bytes) -> None:
            take_line(process, line)
            if b"notifications/progress" in line:
                move(15)

        monkeypatch.setattr(ServerProcess, "_take_line", taking_its_time)
        with held_loop_time() as move:
            assert text_of(await a.call_tool("progress", {"steps": 6}, 20)) == "6 steps"


async def test_a_call_without_answer_ends_at_its_deadline_and_the_server_is_told(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        with pytest.raises(CallTimedOut, match=r"server 'raw' did not answer tools/call within 0\.2 s"):
            await a.call_tool("hang", {}, 0.2)
        await wait_until(lambda: _cancelled_at_server(a, 1))


async def test_a_question_of_the_server_reaches_the_holder_whose_call_caused_it(containment: Containment) -> None:
    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": params.message})

    answers = Callbacks(elicitation=elicit)
    question = {"method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object"}}}
    question["params"]["requestedSchema"]["properties"] = {}  # type: ignore[index]
    async with raw_process(containment) as process, process.connect("b", answers) as b, process.connect("a") as a:
        assert json.loads(await call(b, "ask", **question)) == {"action": "accept", "content": {"name": "who?"}}
        assert json.loads(await call(a, "ask", **question)) == {"action": "decline"}
        assert json.loads(await call(a, "ask", method="ping")) == {}


async def test_a_question_that_two_calls_may_have_caused_is_declined(containment: Containment) -> None:
    async with (
        raw_process(containment) as process,
        process.connect("a") as a,
        process.connect("b") as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(call, b, "sleep")
        await wait_until(lambda: process.calls_in_flight == 1)
        error = json.loads(await call(a, "ask", method="roots/list"))
        assert "2 callers have calls in flight" in error["message"]
        tasks.cancel_scope.cancel()


async def test_log_messages_reach_only_who_has_a_call_in_flight(containment: Containment) -> None:
    heard: dict[str, list[Any]] = {"a": [], "b": []}

    def listener(holder: str) -> Callbacks:
        async def hear(params: LoggingMessageNotificationParams) -> None:
            heard[holder].append(params.data)

        return Callbacks(logging=hear)

    async with (
        raw_process(containment) as process,
        process.connect("a", listener("a")) as a,
        process.connect("b", listener("b")) as b,
    ):
        await call(a, "log", data="for a")
        await call(b, "log", data="for b")
        await wait_until(lambda: sum(map(len, heard.values())) == 2)
    assert heard == {"a": ["for a"], "b": ["for b"]}


async def test_junk_carriage_returns_and_split_characters_do_no_harm(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        assert await call(a, "junk") == "héllo"
        assert process.junk_lines == 4  # the empty line is none
        assert await call(a, "echo", text="still here") == "still here"


async def test_half_a_surrogate_pair_is_read_as_javascript_wrote_it(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        assert await call(a, "half_surrogate") == "\ud800"


async def test_a_line_over_the_limit_ends_the_connection_with_server_and_limit_named(containment: Containment) -> None:
    async with raw_process(containment, max_line_bytes=100_000) as process, process.connect("a") as a:
        assert len(await call(a, "huge", bytes=99_000)) == 99_000
        with pytest.raises(LineTooLong, match="server 'raw' wrote a line of more than 100000 bytes"):
            await call(a, "huge", bytes=200_000)
        assert process.ended.is_set()


@pytest.mark.parametrize(
    ("tool", "size"), [("huge", 40_000_000), ("many_blocks", 6_000_000), ("many_objects", 10_000_000)]
)
async def test_an_answer_of_many_megabytes_does_not_stop_the_others(
    containment: Containment, tool: str, size: int
) -> None:
    async with raw_process(containment) as process, process.connect("a") as a, process.connect("b") as b:
        await process.list_tools()
        got: list[CallToolResult] = []
        longest = 0.0

        async def big() -> None:
            got.append(await a.call_tool(tool, {"bytes": size}))

        async def watch_the_loop() -> None:
            nonlocal longest
            while not got:
                before = time.process_time()
                await anyio.sleep(0.001)
                longest = max(longest, time.process_time() - before)

        began = time.process_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(big)
            tasks.start_soon(watch_the_loop)
            while not got:
                assert await call(b, "echo", text="quick") == "quick"
        [result] = got
        assert size_of(result) > 0.9 * size
        # Of the processor, so that other processes do not count: less than 0.1 s; in one piece most of what it takes.
        assert longest < max(0.3, (time.process_time() - began) / 3)


def size_of(result: CallToolResult) -> int:
    rows = (result.structured_content or {}).get("rows", ())
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    return 48 * len(texts) + 57 * len(rows) if len(texts) != 1 else len(texts[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"jsonrpc":"2.0","id":#,"result":{"content":[}}', "is not what the protocol says: a line of broken JSON"),
        (
            '{"jsonrpc":"2.0","id":#,"result":{"content":"\xff"}}',
            "is not what the protocol says: a line of broken JSON",
        ),
        ('{"result":{"content":[,]},"jsonrpc":"2.0","id":#}', "is not what the protocol says: a line of broken JSON"),
        (
            '{"jsonrpc":"2.0","id":#,"result":{"content":[{"type":"no such"}]}}',
            "is not what the protocol says: Field required at content",
        ),
        ('{"jsonrpc":"2.0","id":#,"result":{}}', "to tools/call that is not what the protocol says: Field required"),
    ],
)
async def test_an_answer_that_is_none_fails_its_call_at_once(containment: Containment, line: str, words: str) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        with anyio.fail_after(PATIENCE), pytest.raises(InvalidAnswer, match=words):
            await a.call_tool("answer_raw", {"line": line})
        assert await call(a, "echo", text="still here") == "still here"


async def test_a_server_that_stops_reading_blocks_nobody_for_longer_than_the_write_timeout(
    containment: Containment,
) -> None:
    failures: list[Exception] = []

    async def fill(session: ClientSession) -> None:
        try:
            await call(session, "echo", text="x" * 200_000)
        except ServerDied as failure:
            failures.append(failure)

    async with (
        raw_process(containment, write_timeout=0.5) as process,
        process.connect("a") as a,
        process.connect("b") as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_expect_death, a, "stop_reading")
        await wait_until(lambda: process.calls_in_flight == 1)
        tasks.start_soon(fill, a)
        tasks.start_soon(fill, b)
        await wait_until(lambda: len(failures) == 2)
    assert sorted(type(failure).__name__ for failure in failures) == ["NotWritten", "ServerStoppedReading"]
    assert "read nothing from its stdin for 0.5 s" in str(failures[0])


async def _expect_death(session: ClientSession, tool: str) -> None:
    with pytest.raises(ServerStoppedReading):
        await call(session, tool)


async def test_death_during_a_call_is_told_at_once_with_the_last_words(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a, process.connect("b") as b:
        outcome: list[ServerDied] = []

        async def bystander() -> None:
            with pytest.raises(ServerDied) as death:
                await call(b, "sleep")
            outcome.append(death.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bystander)
            await wait_until(lambda: process.calls_in_flight == 1)
            with pytest.raises(ServerDied) as death:
                await call(a, "die", status=3, words="Error: disk full\n")
        for failure in (death.value, outcome[0]):
            assert not isinstance(failure, NotWritten)
            assert failure.returncode == 3
            assert "server 'raw' ended with status 3" in str(failure)
            assert "Error: disk full" in str(failure)
        await process.ended.wait()
        with pytest.raises(NotWritten):
            await call(b, "echo", text="too late")
        with pytest.raises(NotWritten):
            async with process.connect("c"):
                pytest.fail("nobody can join the dead")


async def test_an_answer_written_just_before_the_end_still_counts(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        assert await call(a, "answer_and_die") == "last answer"
        await process.ended.wait()
        assert process.end is not None
        assert process.end.returncode == 0


async def test_a_server_that_closes_its_stdout_is_stopped_and_said_so(containment: Containment) -> None:
    async with raw_process(containment) as process, process.connect("a") as a:
        with pytest.raises(ServerDied, match="closed its stdout but kept running"):
            await call(a, "close_stdout")


async def test_an_old_server_that_dies_of_the_probe_is_started_again_in_the_old_way(containment: Containment) -> None:
    async with raw_process(containment, "dies-on-discover") as process, process.connect("a") as a:
        assert await call(a, "echo", text="alive") == "alive"
        assert "server/discover" not in json.loads(await call(a, "seen"))


async def test_an_old_server_that_ignores_the_probe_is_connected_in_the_old_way(
    containment: Containment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PROBE_PATIENCE", 0.1)
    async with raw_process(containment, "ignores-discover") as process, process.connect("a") as a:
        assert await call(a, "echo", text="alive") == "alive"
        assert not process.introduction.is_modern


async def test_a_server_asked_for_in_the_old_way_is_not_probed(containment: Containment) -> None:
    async with raw_process(containment, protocol="legacy") as process, process.connect("a") as a:
        assert "server/discover" not in json.loads(await call(a, "seen"))


async def test_a_server_that_dies_at_its_start_is_an_error_with_its_last_words(containment: Containment) -> None:
    with pytest.raises(ServerDied) as death:
        async with raw_process(containment, "dies-at-start"):
            pytest.fail("it cannot have started")
    assert "ended with status 7 before the handshake was done" in str(death.value)
    assert "TOKEN is not set" in str(death.value)
    assert death.value.hint is not None
    assert "under [servers.raw]" in death.value.hint


async def test_a_server_that_dies_unasked_is_not_started_twice(containment: Containment, tmp_path: Path) -> None:
    config = raw("dies-at-start")
    with pytest.raises(ServerDied):
        async with ServerProcess.open(config, containment, owner="test", log_dir=tmp_path):
            pytest.fail("it cannot have started")
    assert (tmp_path / "raw.log").read_text().count("TOKEN is not set") == 1


async def test_a_server_that_never_answers_is_given_up_in_time(containment: Containment) -> None:
    with pytest.raises(ConnectTimedOut, match=r"did not complete the handshake within 0\.3 s"):
        async with raw_process(containment, "never-answers", connect_timeout=0.3):
            pytest.fail("it cannot have answered")


async def test_a_program_that_prints_something_else_is_quoted(
    containment: Containment, caplog: pytest.LogCaptureFixture
) -> None:
    script = "echo Listening on port 8080; exec sleep 1000"
    config = ServerConfig(name="web", transport=StdioServer(command="sh", args=("-c", script)), connect_timeout=100)

    async def give_up(move: Callable[[float], None]) -> None:
        await wait_until(lambda: "wrote a line that is no MCP message" in caplog.text)
        move(100)

    with moved_loop_time() as move:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up, move)
            with pytest.raises(ConnectTimedOut, match="no MCP messages, first: Listening on port 8080"):
                async with ServerProcess.open(config, containment, owner="test"):
                    pytest.fail("it cannot have answered")


REFUSES = """
import json, subprocess, sys
subprocess.Popen(["sleep", "1000"])
for line in sys.stdin:
    error = {"code": -32603, "message": "never"}
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line).get("id"), "error": error}), flush=True)
"""


async def test_what_becomes_of_the_processes_of_a_failed_start_is_said(containment: Containment) -> None:
    server = StdioServer(command=sys.executable, args=("-c", REFUSES))
    with pytest.raises(ConnectFailed) as refusal:
        async with ServerProcess.open(ServerConfig(name="two", transport=server), containment, owner="test"):
            pytest.fail("it refuses")
    assert refusal.value.processes_gone == "Its 2 processes are gone"
    assert containment.trees() == ()


@pytest.mark.parametrize(
    ("members", "had_exited", "words"),
    [
        (0, True, "Its processes are gone"),
        (1, False, "Its process is gone"),
        (1, True, "The process that it left is gone"),
        (3, True, "The 3 processes that it left are gone"),
    ],
)
def test_the_words_for_processes_that_are_gone(members: int, had_exited: bool, words: str) -> None:
    assert words_of_gone(members, had_exited=had_exited) == words


async def test_a_server_that_ends_with_the_warden_says_so_and_not_by_whose_hand(containment: Containment) -> None:
    async with raw_process(containment) as process:
        warden = containment.warden_pid
        assert warden is not None
        os.kill(warden, signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            await process.ended.wait()
        assert process.end is not None
        assert "because sexton's warden was killed" in process.end.text()


async def test_a_missing_command_is_said_to_be_missing(containment: Containment) -> None:
    config = ServerConfig(name="gone", transport=StdioServer(command="no-such-command-of-sexton"))
    with pytest.raises(SpawnFailed, match="no-such-command-of-sexton"):
        async with ServerProcess.open(config, containment, owner="test"):
            pytest.fail("it cannot have started")


async def test_errors_of_a_holders_block_come_out_as_they_are(containment: Containment) -> None:
    async with raw_process(containment) as process:
        with pytest.raises(MCPError, match="unknown method"):
            async with process.connect("a") as a:
                await a.list_prompts()
        with pytest.raises(KeyError):
            async with process.connect("a"):
                raise KeyError("mine")


async def test_a_flood_of_notifications_does_not_stop_the_loop(containment: Containment) -> None:
    async with (
        raw_process(containment) as process,
        process.connect("a") as a,
        process.connect("b") as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(call, a, "flood", lines=5_000))
        for number in range(50):
            assert await call(b, "echo", text=str(number)) == str(number)


async def test_a_flood_that_never_ends_lets_others_have_their_turns(
    containment: Containment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its end, since it has none: a call on another server is answered while it goes on.

    Turns of the loop are counted in messages of the flood, not in seconds.  Mutant seen to fail here: a reader that
    takes all lines of one read in one turn.
    """
    taken, most_in_a_turn, is_over = 0, 0, False
    take_line = ServerProcess._take_line

    def counting(process: ServerProcess, line: bytes) -> None:
        nonlocal taken
        taken += 1
        take_line(process, line)

    async def count_turns() -> None:
        nonlocal most_in_a_turn
        while not is_over:
            before = taken
            await anyio.lowlevel.checkpoint()
            most_in_a_turn = max(most_in_a_turn, taken - before)

    monkeypatch.setattr(ServerProcess, "_take_line", counting)
    async with (
        raw_process(containment) as flooding,
        raw_process(containment) as process,
        flooding.connect("a") as a,
        process.connect("b") as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(call, a, "flood", lines=1 << 40))
        tasks.start_soon(count_turns)
        for number in range(5):
            before = taken
            assert await call(b, "echo", text=str(number)) == str(number)
            await wait_until(lambda before=before: taken > before + 100)  # type: ignore[misc]
        is_over = True
        tasks.cancel_scope.cancel()
    assert most_in_a_turn <= 64  # half of it another server's


async def test_native_cancellation_of_opening_connecting_and_calling_leaves_nothing(containment: Containment) -> None:
    chance = random.Random(11)

    async def use() -> None:
        async with raw_process(containment) as process, process.connect("a") as a:
            await call(a, "sleep")

    async def cancelled_use(number: int) -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(chance.random() * 0.15)  # the moment itself is what is tested
        task.cancel()
        if number % 2:
            await asyncio.sleep(chance.random() * 0.05)
            task.cancel()
        with pytest.raises((asyncio.CancelledError, BaseExceptionGroup)):
            await asyncio.wait_for(task, PATIENCE)

    await asyncio.gather(*(cancelled_use(number) for number in range(16)))
    await wait_until(lambda: not containment.trees())


async def test_it_runs_on_trio_too(tmp_path: Path) -> None:
    async def use() -> None:
        async with (
            Containment.open(tmp_path / "trio") as containment,
            raw_process(containment) as process,
            process.connect("a") as a,
            process.connect("b") as b,
        ):
            assert await call(a, "echo", text="from a") == "from a"
            assert len(await call(b, "huge", bytes=2_000_000)) == 2_000_000
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, a, "sleep")
                await wait_until(lambda: process.calls_in_flight == 1)
                assert await call(b, "echo", text="read after it") == "read after it"
                tasks.cancel_scope.cancel()
            await wait_until(lambda: _cancelled_at_server(b, 1))

    await anyio.to_thread.run_sync(partial(anyio.run, use, backend="trio"))
