"""`sexton.stdio_client` in the place of the SDK's."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, ClientSession
from mcp.client.stdio import DEFAULT_INHERITED_ENV_VARS
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse, TextContent

import sexton
from sexton.containment import ProcessSpec, StopTimes
from sexton.mcp_servers import stdio_client
from sexton.mcp_servers.default_containment import DEFAULT_CONTAINMENT
from waiting import PATIENCE, wait_until
from zoo.oracles import wait_until as wait_until_now

pytestmark = pytest.mark.anyio

SERVERS = Path(__file__).parent / "stdio_servers"
DEAF = """
import json, os, time
print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"pid": os.getpid()}}), flush=True)
while True:
    time.sleep(100)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + DEAF


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own; in the end no tree and no record of one may be left."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    containment = DEFAULT_CONTAINMENT._containment
    trees = containment.trees() if containment is not None else ()
    DEFAULT_CONTAINMENT.close()
    assert trees == ()
    wait_until_now(lambda: not _records(tmp_path), within=PATIENCE)


def _records(state: Path) -> list[str]:
    """The records of all clients; those of a client that was killed go while we look."""
    return [file for _, _, files in os.walk(state / "sexton" / "clients") for file in files if file.endswith(".rec")]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the stop ladder follows soon, for what does not test how long it waits."""
    spec = partial(ProcessSpec, stop=StopTimes(stdin_grace=0.2, term_grace=0.2))
    monkeypatch.setattr(stdio_client, "ProcessSpec", spec)


def raw_server(**settings: Any) -> sexton.StdioServerParameters:
    return sexton.StdioServerParameters(
        command=sys.executable, args=["-I", "-S", str(SERVERS / "raw_server.py")], **settings
    )


async def text_of_call(session: ClientSession | Client, tool: str, **arguments: Any) -> str:
    (content,) = (await session.call_tool(tool, arguments)).content
    assert isinstance(content, TextContent)
    return content.text


async def test_the_sdks_example_with_a_session_works_with_the_import_changed() -> None:
    with anyio.fail_after(PATIENCE):
        async with sexton.stdio_client(raw_server()) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            assert "echo" in [tool.name for tool in (await session.list_tools()).tools]
            assert await text_of_call(session, "echo", text="hello") == "hello"


async def test_the_sdks_example_with_a_client_works_with_the_import_changed() -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(sexton.stdio_client(raw_server())) as client:
            assert await text_of_call(client, "echo", text="hello") == "hello"


async def test_several_clients_at_once_have_a_process_each() -> None:
    pids: set[str] = set()

    async def one() -> None:
        async with Client(sexton.stdio_client(raw_server())) as client:
            pids.add(await text_of_call(client, "pid"))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
    assert len(pids) == 3


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"command": "no-such-command-of-sexton"}, FileNotFoundError),
        ({"command": "/no/such/command"}, FileNotFoundError),
        ({"command": "/etc/passwd"}, PermissionError),
        ({"command": sys.executable, "cwd": "/no/such/folder"}, FileNotFoundError),
        ({"command": sys.executable, "cwd": "/etc/passwd"}, NotADirectoryError),
        ({"command": "nul\0"}, ValueError),
        ({"command": sys.executable, "args": ["nul\0"]}, ValueError),
        ({"command": sys.executable, "env": {"A": "nul\0"}}, ValueError),
    ],
)
async def test_what_cannot_be_started_raises_what_the_sdk_raises(settings: Any, kind: type[Exception]) -> None:
    with anyio.fail_after(PATIENCE), pytest.raises(kind) as refusal:
        async with sexton.stdio_client(sexton.StdioServerParameters(**settings)):
            pytest.fail("it cannot have started")
    if isinstance(refusal.value, OSError):
        assert refusal.value.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR)
        assert refusal.value.filename == settings.get("cwd", settings["command"])


async def test_stderr_goes_where_errlog_says(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE), (tmp_path / "log").open("w+") as log:
        async with Client(sexton.stdio_client(raw_server(), errlog=log)) as client:
            await text_of_call(client, "say", words="some words")
        log.seek(0)
        assert log.read() == "some words"


async def test_the_environment_is_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    with anyio.fail_after(PATIENCE):
        async with Client(sexton.stdio_client(raw_server(env={"OF_THE_SERVER": "y"}))) as client:
            environ = json.loads(await text_of_call(client, "environ"))
    inherited = {name: os.environ[name] for name in DEFAULT_INHERITED_ENV_VARS if name in os.environ}
    ours = {name for name in environ if name.startswith("SEXTON_")}
    assert environ.keys() - ours - {"LC_CTYPE"} == inherited.keys() | {"OF_THE_SERVER"}
    assert inherited.items() <= environ.items()


async def test_the_folder_is_the_one_asked_for(tmp_path: Path) -> None:
    code = 'import os; print(\'{"jsonrpc":"2.0","method":"x","params":{"cwd":"\' + os.getcwd() + \'"}}\')'
    parameters = sexton.StdioServerParameters(command=sys.executable, args=["-c", code], cwd=tmp_path)
    with anyio.fail_after(PATIENCE):
        async with sexton.stdio_client(parameters) as (read, _write):
            message = await read.receive()
    assert isinstance(message, SessionMessage)
    assert message.message.model_dump()["params"] == {"cwd": str(tmp_path)}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "shift_jis"])
async def test_other_encodings_are_spoken_both_ways(encoding: str) -> None:
    text = "né" if encoding == "latin-1" else "日本"
    if encoding == "utf-8":
        text += "🧹é"
    parameters = sexton.StdioServerParameters(
        command=sys.executable, args=[str(SERVERS / "encoded_server.py"), encoding], encoding=encoding
    )
    with anyio.fail_after(PATIENCE):
        async with sexton.stdio_client(parameters) as (read, write):
            request = JSONRPCRequest(jsonrpc="2.0", id=1, method="x", params={"text": text})
            await write.send(SessionMessage(request))
            answer = await read.receive()
    assert isinstance(answer, SessionMessage)
    assert isinstance(answer.message, JSONRPCResponse)
    assert answer.message.result == {"echo": text}


async def test_a_line_that_is_no_message_is_an_exception_on_the_stream_and_no_end_of_it() -> None:
    code = 'print(\'words\'); print(\'{"jsonrpc":"2.0","id":1,"result":{}}\')'
    with anyio.fail_after(PATIENCE):
        async with sexton.stdio_client(
            sexton.StdioServerParameters(command=sys.executable, args=["-c", code])
        ) as streams:
            assert isinstance(await streams[0].receive(), ValueError)
            assert isinstance(await streams[0].receive(), SessionMessage)
            with pytest.raises(anyio.EndOfStream):
                await streams[0].receive()


async def test_a_big_line_arrives_whole_and_in_its_place() -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(sexton.stdio_client(raw_server())) as client:
            assert len(await text_of_call(client, "huge", bytes=3_000_000)) == 3_000_000
            assert await text_of_call(client, "echo", text="x" * 1_000_000) == "x" * 1_000_000


async def test_a_server_that_writes_its_last_at_end_of_file_can_write_it_all(tmp_path: Path) -> None:
    code = f"import sys; sys.stdin.read(); sys.stdout.write('x' * 8_000_000); open({str(tmp_path / 'done')!r}, 'w')"
    with anyio.fail_after(PATIENCE):
        async with sexton.stdio_client(sexton.StdioServerParameters(command=sys.executable, args=["-c", code])):
            pass
    assert (tmp_path / "done").exists()


@pytest.mark.usefixtures("impatient")
async def test_a_stubborn_server_is_gone_when_the_block_is_left() -> None:
    pid = 0
    parameters = sexton.StdioServerParameters(command=sys.executable, args=["-c", STUBBORN])
    with anyio.fail_after(PATIENCE):
        with anyio.CancelScope() as scope:
            async with sexton.stdio_client(parameters) as (read, _write):
                pid = await _pid_from(read)
                scope.cancel()
                await anyio.sleep_forever()
    assert not psutil.pid_exists(pid)


async def _pid_from(read: Any) -> int:
    message = await read.receive()
    pid: int = message.message.params["pid"]
    return pid


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_at_any_time_even_twice_leaves_nothing() -> None:
    chance = random.Random(7)
    containment = await DEFAULT_CONTAINMENT.get()
    parameters = sexton.StdioServerParameters(command=sys.executable, args=["-S", "-c", DEAF])

    async def use() -> None:
        async with sexton.stdio_client(parameters) as (read, _write):
            await read.receive()
            await asyncio.sleep(1000)

    async def cancelled_use(number: int) -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(chance.random() * 0.06)  # the moment itself is what is tested
        task.cancel()
        if number % 2:
            await asyncio.sleep(chance.random() * 0.02)
            task.cancel()
        with pytest.raises((asyncio.CancelledError, BaseExceptionGroup)):
            await asyncio.wait_for(task, PATIENCE)

    await asyncio.gather(*(cancelled_use(number) for number in range(12)))
    # After a second cancel the keeper finishes the ladder by itself.
    await wait_until(lambda: not containment.trees(), seconds=PATIENCE)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("end", ["killed", "leaves"])
async def test_the_server_ends_with_the_program_however_the_program_ends(end: str) -> None:
    host = subprocess.Popen(
        [sys.executable, str(SERVERS / "killed_host.py"), DEAF, *(["leave"] if end == "leaves" else [])],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    pid = int(await anyio.to_thread.run_sync(host.stdout.readline))
    if end == "killed":
        host.send_signal(signal.SIGKILL)
    await anyio.to_thread.run_sync(host.wait, PATIENCE)
    host.stdout.close()
    await wait_until(lambda: not psutil.pid_exists(pid), seconds=PATIENCE)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_program_left_that_was_killed_with_its_helpers_is_finished_by_the_next(own_state: Path) -> None:
    arguments = [sys.executable, str(SERVERS / "killed_host.py"), DEAF]
    host = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert host.stdout is not None
    pid = int(await anyio.to_thread.run_sync(host.stdout.readline))
    helpers = psutil.Process(host.pid).children(recursive=True)
    for process in [psutil.Process(host.pid), *(helper for helper in helpers if helper.pid != pid)]:
        process.kill()
    host.wait()
    host.stdout.close()
    await DEFAULT_CONTAINMENT.get()
    await wait_until(lambda: not psutil.pid_exists(pid))
