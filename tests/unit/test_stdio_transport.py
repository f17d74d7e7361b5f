"""Lines over a pair of bare pipes, with the other side in the test's hands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from sexton.mcp_servers.line_buffer import LineLimitExceeded
from sexton.mcp_servers.pipe_reader import pipe_reader
from sexton.mcp_servers.stdio_transport import StdinClosed, StdinStalled, StdioTransport
from waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@dataclass
class Pipes:
    """`stdin` and `stdout` are ours; what the server holds is named for it."""

    server_stdin: int
    stdin: int
    stdout: int
    server_stdout: int

    def transport(self, **settings: Any) -> StdioTransport:
        limits = {"max_line_bytes": 1_000_000, "write_timeout": 5.0, **settings}
        return StdioTransport(stdin=self.stdin, stdout=self.stdout, **limits)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    ends = [*os.pipe(), *os.pipe()]
    for end in ends:
        os.set_blocking(end, False)
    yield Pipes(*ends)
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test closed it


async def test_lines_arrive_and_the_end_is_told(pipes: Pipes) -> None:
    transport = pipes.transport()
    os.write(pipes.server_stdout, b"one\ntwo\nthr")
    with anyio.fail_after(PATIENCE):
        assert await transport.receive_lines() == [b"one", b"two"]
        os.write(pipes.server_stdout, b"ee\n")
        assert await transport.receive_lines() == [b"three"]
        os.close(pipes.server_stdout)
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await transport.receive_lines()
    transport.close()


async def test_a_line_over_the_limit_is_told(pipes: Pipes) -> None:
    transport = pipes.transport(max_line_bytes=10)
    os.write(pipes.server_stdout, b"x" * 20)
    with anyio.fail_after(PATIENCE), pytest.raises(LineLimitExceeded):
        await transport.receive_lines()
    transport.close()


async def test_a_small_line_is_written_at_once_and_a_big_one_beside_everything_else(pipes: Pipes) -> None:
    transport = pipes.transport()
    small = transport.write(b"small\n")
    assert small.started
    assert not small.rest
    big = transport.write(b"x" * 300_000 + b"\n")
    assert big.started
    assert big.rest
    got = b""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.write_out)
            reader = pipe_reader(pipes.server_stdin)
            while len(got) < 300_007:
                got += await reader.read()
            reader.close()
            await transport.wait_flushed()
            tasks.cancel_scope.cancel()
    assert got == b"small\n" + b"x" * 300_000 + b"\n"
    transport.close()


async def test_only_a_line_of_which_nothing_was_written_can_be_taken_back(pipes: Pipes) -> None:
    transport = pipes.transport()
    first = transport.write(b"x" * 300_000 + b"\n")
    second = transport.write(b"never\n")
    assert (first.started, second.started) == (True, False)
    assert not transport.withdraw(first)
    assert transport.withdraw(second)
    assert transport.withdraw(second)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.write_out)
            got = b""
            reader = pipe_reader(pipes.server_stdin)
            while len(got) < 300_001:
                got += await reader.read()
            reader.close()
            tasks.cancel_scope.cancel()
    assert b"never" not in got
    transport.close()


async def test_a_reader_that_takes_nothing_is_given_up(pipes: Pipes) -> None:
    transport = pipes.transport(write_timeout=0.05)
    transport.write(b"x" * 300_000 + b"\n")
    with anyio.fail_after(PATIENCE), pytest.raises(StdinStalled):
        await transport.write_out()
    transport.close()


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_closed_stdin_is_told_to_who_writes_out(pipes: Pipes, size: int) -> None:
    transport = pipes.transport()
    if size > 10:
        transport.write(b"x" * size)  # waiting for room when the other side goes
    os.close(pipes.server_stdin)
    outgoing = transport.write(b"x" * 10)
    assert not outgoing.started
    with anyio.fail_after(PATIENCE):
        with pytest.raises(StdinClosed):
            await transport.write_out()
        await transport.wait_flushed()
    transport.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_pipe_that_nobody_reads_rests_instead_of_spinning(pipes: Pipes) -> None:
    reader: Any = pipe_reader(pipes.stdout)
    os.write(pipes.server_stdout, b"first")
    assert await reader.read() == b"first"
    os.write(pipes.server_stdout, b"second")
    await wait_until(lambda: reader._chunk == b"second")  # one chunk is read ahead
    os.write(pipes.server_stdout, b"third")
    await wait_until(lambda: not reader._watching)
    assert not asyncio.get_running_loop().remove_reader(pipes.stdout)
    assert await reader.read() == b"second"
    assert await reader.read() == b"third"
    reader.close()


async def test_a_read_that_was_cancelled_loses_nothing(pipes: Pipes) -> None:
    reader = pipe_reader(pipes.stdout)
    with anyio.move_on_after(0.01):
        await reader.read()
    os.write(pipes.server_stdout, b"after")
    with anyio.fail_after(PATIENCE):
        assert await reader.read() == b"after"
    reader.close()


async def test_it_is_known_whether_the_reader_took_what_was_written_also_when_it_is_gone(pipes: Pipes) -> None:
    transport = pipes.transport()
    told: list[bool] = []
    transport.write(b"one\n")
    told.append(transport.all_was_read)
    os.read(pipes.server_stdin, 100)
    told.append(transport.all_was_read)
    transport.write(b"two\n")
    os.close(pipes.server_stdin)
    told.append(transport.all_was_read)
    transport.write(b"three\n")
    told.append(transport.all_was_read)
    assert told == [False, True, False, False]
    transport.close()
