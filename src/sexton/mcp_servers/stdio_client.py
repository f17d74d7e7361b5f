"""`sexton.stdio_client`: the SDK's stdio client, with servers that cannot outlive their use.

Signature, streams, errors and environment are those of `mcp.client.stdio`;
what differs is that the whole process tree of the server ends with the block,
however the block ends, and with this process, however this process ends.
"""

from __future__ import annotations

import codecs
import errno
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TextIO, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import StdioServerParameters, get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from sexton.containment import ProcessSpec, ProcessTree, SpawnFailed, TreeStuck
from sexton.mcp_servers.default_containment import DEFAULT_CONTAINMENT
from sexton.mcp_servers.json_line import BIG_LINE, decode_slowly
from sexton.mcp_servers.server_config import DEFAULT_MAX_LINE_BYTES
from sexton.mcp_servers.stdio_transport import LineLimitExceeded, StdinClosed, StdioTransport
from sexton.threads import in_thread

__all__ = ["StdioServerParameters", "stdio_client"]

_log = logging.getLogger(__name__)

Incoming: TypeAlias = SessionMessage | Exception
Streams: TypeAlias = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

FLUSH_TIMEOUT: Final = 0.5
"""Seconds for messages already accepted to reach the server before its stdin is closed, as in the SDK."""

_GONE_TIMEOUT: Final = 20.0
"""Seconds to wait for the proof that the tree is empty; longer than the stop ladder and its `stuck_after`."""


@asynccontextmanager
async def stdio_client(server: StdioServerParameters, errlog: TextIO = sys.stderr) -> AsyncGenerator[Streams, None]:
    """Start a server in a contained process tree and connect to its stdin and stdout.

    Use it as `mcp.stdio_client`, with `ClientSession(read, write)` or
    `Client(stdio_client(...))`, on asyncio and on trio.  Leaving the block
    closes the server's stdin, sends SIGTERM after 2 s and SIGKILL after 2 s more
    to everything it has started, and returns when all of it is gone.  The server
    runs with `no_new_privs`: programs such as sudo do not work inside it.  A line
    of more than 64 MiB ends the connection.

    Raises:
        OSError: the server could not be started (FileNotFoundError, PermissionError, …).
        ValueError: a NUL character in the command, an argument or the environment.
        ContainmentError: the containment itself could not be started.
    """
    spec = _spec(server, errlog)
    containment = await DEFAULT_CONTAINMENT.get()
    async with containment.start(spec) as tree:
        await _wait_started(tree, server)
        connection = _Connection(tree, server)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.read)
            tasks.start_soon(connection.write)
            tasks.start_soon(connection.write_out)
            try:
                yield connection.read_stream, connection.write_stream
            finally:
                try:
                    await connection.shut_down()
                finally:
                    connection.close()
                    tasks.cancel_scope.cancel()


class _Connection:
    """The SDK's two memory streams over the pipes of one tree."""

    def __init__(self, tree: ProcessTree, server: StdioServerParameters) -> None:
        self._tree = tree
        self._encoding, self._errors = server.encoding, server.encoding_error_handler
        self._pipes = StdioTransport(
            stdin=tree.stdin,
            stdout=tree.stdout,
            max_line_bytes=DEFAULT_MAX_LINE_BYTES,
            write_timeout=None,
            transcode=_transcoder(server.encoding, server.encoding_error_handler),
        )
        self._to_session, self.read_stream = anyio.create_memory_object_stream[Incoming](0)
        self.write_stream, self._from_session = anyio.create_memory_object_stream[SessionMessage](0)

    async def read(self) -> None:
        """Pass on what the server says; once nobody listens, drain it, so that it can write its last and exit."""
        listening = True
        async with self._to_session:
            try:
                while True:
                    for line in await self._pipes.receive_lines():
                        listening = listening and await self._pass_on(line)
            except anyio.EndOfStream:
                return
            except (LineLimitExceeded, UnicodeDecodeError) as error:
                await self._give_up(error)

    async def _pass_on(self, line: bytes) -> bool:
        if not line.strip():
            return True
        try:
            await self._to_session.send(await _message(line))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    async def _give_up(self, error: Exception) -> None:
        if isinstance(error, LineLimitExceeded):
            error = ValueError(f"the server wrote a line of more than {DEFAULT_MAX_LINE_BYTES} bytes")
        _log.error("the connection to %r ends: %s", self._tree.spec.name, error)
        self._tree.release()
        try:
            await self._to_session.send(error)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def write(self) -> None:
        """Pass on what the session says, one message at a time, so that a full pipe holds the session back."""
        async with self._from_session:
            async for message in self._from_session:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
                self._pipes.write(text.encode(self._encoding, self._errors))
                await self._pipes.wait_flushed()

    async def write_out(self) -> None:
        """Write what the pipe had no room for."""
        try:
            await self._pipes.write_out()
        except StdinClosed:
            # The server may still run: a request must not wait for an answer that cannot come.
            self._from_session.close()
            self._to_session.close()

    async def shut_down(self) -> None:
        """Stop traffic, let accepted messages out, and end the tree."""
        self.read_stream.close()  # frees `read` to drain: who is stuck writing stdout does not read stdin
        self.write_stream.close()
        try:
            with anyio.move_on_after(FLUSH_TIMEOUT, shield=True):
                await self._pipes.wait_flushed()
        finally:
            # From here on the keeper does the work, also when this task is cancelled once more.
            self._tree.release()
        # What is stuck is told when the tree's own context is left, which waits once more.
        with anyio.move_on_after(_GONE_TIMEOUT, shield=True), suppress(TreeStuck):
            await self._tree.wait_gone()

    def close(self) -> None:
        """Let go of everything but the tree."""
        self._pipes.close()
        self._to_session.close()
        self._from_session.close()


async def _message(line: bytes) -> Incoming:
    try:
        if len(line) <= BIG_LINE:
            return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
        parsed = await in_thread(lambda: decode_slowly(line))
        return SessionMessage(jsonrpc_message_adapter.validate_python(parsed, by_name=False))
    except ValueError as error:
        _log.warning("a line of the server is no JSON-RPC message: %.200r", line[:200])
        return error


def _transcoder(encoding: str, errors: str) -> Callable[[bytes], bytes] | None:
    if codecs.lookup(encoding).name == "utf-8" and errors == "strict":
        return None  # bytes that are not UTF-8 are an error of their one line
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    return lambda chunk: decoder.decode(chunk).encode()


def _spec(server: StdioServerParameters, errlog: TextIO | None) -> ProcessSpec:
    env = get_default_environment() | (server.env or {})
    words = [server.command, *server.args, str(server.cwd or ""), *env, *env.values()]
    if any("\0" in word for word in words):
        raise ValueError("embedded null byte")
    return ProcessSpec(
        name=Path(server.command).name,
        argv=(server.command, *server.args),
        owner=f"pid:{os.getpid()}",
        env=env,
        inherit_env=(),
        cwd=Path(server.cwd) if server.cwd is not None else Path.cwd(),
        stderr=2 if errlog is None else errlog.fileno(),
    )


async def _wait_started(tree: ProcessTree, server: StdioServerParameters) -> None:
    try:
        await tree.wait_started()
    except SpawnFailed as failure:
        raise _os_error(failure, server) from failure


def _os_error(failure: SpawnFailed, server: StdioServerParameters) -> OSError:
    number = failure.errno or errno.EIO
    wrong_cwd = server.cwd is not None and not Path(server.cwd).is_dir()
    return OSError(number, os.strerror(number), str(server.cwd) if wrong_cwd else server.command)
