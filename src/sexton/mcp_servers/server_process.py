"""One process of an MCP server, shared by many holders.

Owns the contained tree, the wire to it, the one handshake, and the news of its
death.  Promises that a holder's calls, cancellation and leaving touch nobody
else's.  Which process a holder gets, and when one is started or retired, is
the pool's business.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, final

import anyio
import anyio.abc
import anyio.lowlevel
from mcp import MCPError
from mcp_types import (
    DiscoverResult,
    InitializeResult,
)
from pydantic import ValidationError

from sexton.containment import Containment, EndReason, ProcessSpec, ProcessTree, TreeEnd, TreeStuck
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.handshake import DISCOVER, INITIALIZE, Protocol, shake_hands
from sexton.mcp_servers.holder_session import HolderSession, running
from sexton.mcp_servers.json_line import BIG_LINE, decode, decode_slowly
from sexton.mcp_servers.multiplexer import Multiplexer
from sexton.mcp_servers.self_description import SelfDescription
from sexton.mcp_servers.server_config import ServerConfig, StdioServer
from sexton.mcp_servers.server_errors import (
    ConnectFailed,
    ConnectionEnd,
    ConnectTimedOut,
    InvalidAnswer,
    LineTooLong,
    ServerDied,
    ServerFailed,
    ServerStoppedReading,
    quoted_last_words,
    words_of,
    words_of_gone,
)
from sexton.mcp_servers.stdio_transport import LineLimitExceeded, StdinClosed, StdinStalled, StdioTransport
from sexton.mcp_servers.virtual_connection import VirtualConnection
from sexton.threads import in_thread

_log = logging.getLogger(__name__)

FLUSH_TIMEOUT: Final = 0.5
"""Seconds for messages already accepted to reach the server before its stdin is closed; the SDK's value."""

_LAST_OUTPUT_TIMEOUT: Final = 0.2
"""Seconds in which answers that a dead server wrote before its end still count."""

_EXIT_AFTER_EOF_TIMEOUT: Final = 0.5
"""Seconds between a server's end of output and its exit status, which makes the better error message."""

_PARALLEL_BIG_LINES: Final = 2
_JUNK_SHOWN: Final = 5
_JUNK_QUOTED: Final = 200

_LINES_AT_ONCE: Final = 32
"""After so many lines everybody else has a turn: one read of a flood is a thousand short messages."""

_NOBODY = Callbacks()


class _DiedOfProbe(Exception):
    """The server ended before it answered anything, after it had read `server/discover`, the first it was asked.

    One that ends without having read that has another reason, which is not
    worth a second start: a missing setting, say.
    """


@final
class ServerProcess(SelfDescription):
    """A running, connected server.  Made by `open`."""

    def __init__(self, config: ServerConfig, tree: ProcessTree, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__(config.name)
        self.config = config
        self.tree = tree
        self.ended = anyio.Event()
        """Set as soon as the connection is over, whoever ended it."""
        self.end: ConnectionEnd | None = None
        self.junk_lines = 0
        """Lines of output that were no messages."""
        self._first_junk = ""
        self._tasks = tasks
        self._started_at = anyio.current_time()
        self._transport = StdioTransport(
            stdin=tree.stdin,
            stdout=tree.stdout,
            max_line_bytes=config.max_line_bytes,
            write_timeout=config.write_timeout,
        )
        self._multiplexer = Multiplexer(config.name, self._transport, on_list_changed=self._on_list_changed)
        self._control: HolderSession | None = None
        self._handshake: InitializeResult | DiscoverResult | None = None
        self._big_lines = anyio.Semaphore(_PARALLEL_BIG_LINES)
        self._end_of_output = anyio.Event()
        self._tree_end: TreeEnd | None = None
        self._read_all = False
        self._tree_ended = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: ServerConfig,
        containment: Containment,
        *,
        owner: str,
        log_dir: Path | None = None,
        callbacks: Callbacks = _NOBODY,
    ) -> AsyncIterator[ServerProcess]:
        """Start the server of `config` and do the handshake; leaving stops it and proves it gone.

        `owner` names who holds the process, `log_dir` is where its stderr goes.
        A server of an older protocol is told once, at the start, what its client
        can do: pass in `callbacks` what the holders will be able to answer.  A
        2026-07-28 server is told with every request of each holder.

        Raises:
            SpawnFailed: the command could not be started.
            ServerDied: the server ended before the handshake was done.
            ConnectTimedOut: the handshake took longer than `connect_timeout`.
            ConnectFailed: the server refused the handshake.
        """
        deadline = anyio.current_time() + config.connect_timeout
        start = partial(cls._serving, config, containment, owner, log_dir, callbacks, deadline)
        async with AsyncExitStack() as stack:
            process: ServerProcess | None = None
            with suppress(_DiedOfProbe):
                process = await stack.enter_async_context(start(config.protocol))
            if process is None:
                _log.info("server %r ended when asked server/discover; starting it in the legacy way", config.name)
                process = await stack.enter_async_context(start("legacy"))
                process.probe_unwelcome = True
            yield process

    @classmethod
    @asynccontextmanager
    async def _serving(
        cls,
        config: ServerConfig,
        containment: Containment,
        owner: str,
        log_dir: Path | None,
        callbacks: Callbacks,
        deadline: float,
        protocol: Protocol,
    ) -> AsyncIterator[ServerProcess]:
        failure: Exception | None = None
        words = ""
        async with containment.start(_spec(config, owner, log_dir)) as tree, anyio.create_task_group() as tasks:
            process = cls(config, tree, tasks)
            try:
                async with process._connected(callbacks, protocol, deadline):
                    yield process
            except Exception as error:  # noqa: BLE001 - raised again below, out of the task group
                failure = error
                had_exited = process._tree_end is not None
                words = words_of_gone(await in_thread(lambda: _members(containment, tree)), had_exited=had_exited)
            finally:
                try:
                    await process._shut_down()
                finally:
                    process._transport.close()
                    tasks.cancel_scope.cancel()
        if failure is not None:
            if isinstance(failure, ServerFailed) and tree.progress.gone is not None:
                failure.processes_gone = words
            raise failure

    @asynccontextmanager
    async def connect(self, holder: str, callbacks: Callbacks = _NOBODY) -> AsyncIterator[HolderSession]:
        """Give `holder` a session of its own on this process.  Nothing is sent to the server for it.

        Leaving cancels the calls it still has in flight, at the server too.

        Raises:
            NotWritten: the process has ended.
        """
        if self.end is not None:
            raise self.end.failure(written=False)
        assert self._handshake is not None
        session = self._session(holder, callbacks, is_holder=True)
        session.adopt(self._handshake)
        async with running(session):
            yield session

    @property
    def pid(self) -> int | None:
        """The process id of the program that was asked for."""
        return self.tree.pid

    @property
    def last_words(self) -> str:
        """The end of what the server wrote to its stderr."""
        return self.tree.stderr_tail

    @property
    def holders(self) -> tuple[str, ...]:
        """Who is connected."""
        return self._multiplexer.holders

    @property
    def calls(self) -> int:
        """How many tool calls were made."""
        return self._multiplexer.tool_calls

    @property
    def calls_in_flight(self) -> int:
        """How many requests wait for an answer now."""
        return self._multiplexer.calls_in_flight

    # --- start and stop ------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self, callbacks: Callbacks, protocol: Protocol, deadline: float) -> AsyncIterator[None]:
        self._tasks.start_soon(self._read)
        self._tasks.start_soon(self._write)
        self._tasks.start_soon(self._watch)
        async with running(self._session("sexton", callbacks, is_holder=False)) as control:
            self._control = control
            await self._shake_hands(control, protocol, deadline)
            self._introduced(control, self._tasks)
            yield

    async def _shake_hands(self, control: HolderSession, protocol: Protocol, deadline: float) -> None:
        with anyio.CancelScope(deadline=deadline) as waiting:
            try:
                await self.tree.wait_started()
                self.probe_unwelcome = await shake_hands(control, protocol)
            except ServerDied as death:
                if protocol == "auto" and not self._multiplexer.answers and self._read_all:
                    raise _DiedOfProbe from death
                raise
            except (MCPError, InvalidAnswer, ValidationError, RuntimeError) as refusal:
                self._refused(refusal)
        if waiting.cancelled_caught:
            raise ConnectTimedOut(
                f"server {self.config.name!r} did not complete the handshake within "
                f"{self.config.connect_timeout:g} s.{self._junk_text()}{quoted_last_words(self.last_words)}",
                hint="run its command by hand to see what it waits for, or raise its connect_timeout",
            )
        self._remember(control)

    def _remember(self, control: HolderSession) -> None:
        self._handshake = result = control.discover_result or control.initialize_result
        assert result is not None
        method = DISCOVER if isinstance(result, DiscoverResult) else INITIALIZE
        raw = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        self._multiplexer.remember_handshake(method, raw)

    def _refused(self, refusal: Exception) -> NoReturn:
        last_words = quoted_last_words(self.last_words)
        raise ConnectFailed(
            f"server {self.config.name!r} refused the handshake: {words_of(refusal)}.{last_words}",
            hint="check that its command is that of an MCP server on stdio",
        ) from refusal

    async def _shut_down(self) -> None:
        self._finish(ConnectionEnd(server=self.config.name, what="was stopped"), release=False)
        try:
            with anyio.move_on_after(FLUSH_TIMEOUT, shield=True):
                await self._transport.wait_flushed()
        finally:
            # From here on the keeper does the work, whatever happens to this task.
            self.tree.release()
        stop = self.config.stop
        with (
            anyio.move_on_after(stop.stdin_grace + stop.term_grace + stop.stuck_after, shield=True),
            suppress(TreeStuck),  # leaving the tree's own context waits once more, and tells
        ):
            await self.tree.wait_gone()  # `_read` goes on draining stdout meanwhile

    def _finish(self, end: ConnectionEnd, *, release: bool = True) -> None:
        if self.end is not None:
            return
        self.end = end
        self._multiplexer.end(end)
        self.ended.set()
        if release:
            self.tree.release()

    # --- tasks ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                for number, line in enumerate(await self._transport.receive_lines(), 1):
                    if len(line) > BIG_LINE:
                        await self._start_big_line(line)
                    else:
                        self._take_line(line)
                    if number % _LINES_AT_ONCE == 0:
                        await anyio.lowlevel.checkpoint()
        except anyio.EndOfStream:
            self._end_of_output.set()
            with anyio.move_on_after(_EXIT_AFTER_EOF_TIMEOUT):
                await self._tree_ended.wait()
            self._finish(self._ending("closed its stdout but kept running, so we stopped it"))
        except LineLimitExceeded:
            self._finish(
                ConnectionEnd(
                    server=self.config.name,
                    what=f"wrote a line of more than {self.config.max_line_bytes} bytes, so we stopped it",
                    error=LineTooLong,
                    last_words=self.last_words,
                    hint="raise max_line_bytes of this server if answers of that size are right",
                )
            )

    async def _write(self) -> None:
        try:
            await self._transport.write_out()
        except StdinStalled:
            self._finish(
                ConnectionEnd(
                    server=self.config.name,
                    what=f"read nothing from its stdin for {self.config.write_timeout:g} s, so we stopped it",
                    error=ServerStoppedReading,
                    last_words=self.last_words,
                    hint="the server hangs; if it is only slow, raise its write_timeout",
                )
            )
        except StdinClosed:
            with anyio.move_on_after(_EXIT_AFTER_EOF_TIMEOUT):
                await self._tree_ended.wait()
                await self._end_of_output.wait()
            self._finish(self._ending("closed its stdin but kept running, so we stopped it"))

    async def _watch(self) -> None:
        self._tree_end = await self.tree.wait_ended()
        self._read_all = self._transport.all_was_read
        self._tree_ended.set()
        with anyio.move_on_after(_LAST_OUTPUT_TIMEOUT):
            await self._end_of_output.wait()
        self._finish(self._ending("ended"))

    # --- inside --------------------------------------------------------------------------------

    def _ending(self, otherwise: str) -> ConnectionEnd:
        """Describe the end by the process's own, if it is known, else in the words of `otherwise`."""
        end = self._tree_end
        if end is None:
            return ConnectionEnd(server=self.config.name, what=otherwise, last_words=self.last_words)
        what = _exit_text(end)
        if self._handshake is None:
            seconds = anyio.current_time() - self._started_at
            what += f" before the handshake was done ({seconds:.1f} s after its start)"
        return ConnectionEnd(
            server=self.config.name,
            what=what,
            returncode=end.returncode,
            signal=end.signal,
            last_words=self.last_words,
            hint=self._advice() if self._handshake is None else None,
        )

    def _advice(self) -> str:
        """What to do about a server that ends before it was ready."""
        name = self.config.name
        if self.last_words:
            return f"correct under [servers.{name}] what its last words complain of (command, args, env)"
        return f"run the command of [servers.{name}] by hand to see why it ends"

    def _session(self, holder: str, callbacks: Callbacks, *, is_holder: bool) -> HolderSession:
        owner = callbacks.peer.owner if callbacks.peer else None
        connection = VirtualConnection(self._multiplexer, holder, owner=owner, is_holder=is_holder)
        return HolderSession(connection, callbacks, call_timeout=self.config.call_timeout, schemas=self._schemas)

    def _take_line(self, line: bytes) -> None:
        try:
            message = decode(line)
        except ValueError as fault:
            self._take_broken(line, fault)
        else:
            self._take_message(message, line)

    async def _start_big_line(self, line: bytes) -> None:
        """Parse `line` beside everything else; answers may come in any order, so later lines may overtake it."""
        await self._big_lines.acquire()
        self._tasks.start_soon(self._take_big_line, line)

    async def _take_big_line(self, line: bytes) -> None:
        try:
            message = await in_thread(lambda: decode_slowly(line))
        except ValueError as fault:
            self._take_broken(line, fault)
        else:
            self._take_message(message, line)
        finally:
            self._big_lines.release()

    def _take_message(self, message: Any, line: bytes) -> None:
        try:
            understood = self._multiplexer.receive(message)
        except Exception:  # noqa: BLE001 - the outermost edge of one message; the others must not suffer
            _log.exception("a message of server %r could not be handled: %.200r", self.config.name, line[:200])
            return
        if not understood:
            self._take_junk(line)

    def _take_broken(self, line: bytes, fault: ValueError) -> None:
        if not self._multiplexer.receive_broken(line, fault):
            self._take_junk(line)

    def _take_junk(self, line: bytes) -> None:
        if not line.strip():
            return
        self.junk_lines += 1
        self._first_junk = self._first_junk or line[:_JUNK_QUOTED].decode(errors="replace").strip()
        level = logging.WARNING if self.junk_lines <= _JUNK_SHOWN else logging.DEBUG
        _log.log(level, "server %r wrote a line that is no MCP message: %.200r", self.config.name, line[:200])

    def _junk_text(self) -> str:
        """That stdout is used for something else than MCP is the likeliest reason of a handshake that never ends."""
        if not self.junk_lines:
            return ""
        lines = "a line" if self.junk_lines == 1 else f"{self.junk_lines} lines"
        return f"\n  It wrote {lines} to stdout that are no MCP messages, first: {self._first_junk}"


def _spec(config: ServerConfig, owner: str, log_dir: Path | None) -> ProcessSpec:
    transport = config.transport
    assert isinstance(transport, StdioServer)
    return ProcessSpec(
        name=config.name,
        argv=(transport.command, *transport.args),
        owner=owner,
        env=transport.env,
        cwd=transport.cwd or Path.cwd(),
        stderr=log_dir / f"{config.name}.log" if log_dir else None,
        stop=config.stop,
        limits=config.limits,
        no_new_privs=config.no_new_privs,
    )


def _members(containment: Containment, tree: ProcessTree) -> int:
    """How many processes a tree has; reads files."""
    return next((len(status.pids) for status in containment.trees() if status.id == tree.id), 0)


_ENDED_BY = {
    EndReason.WARDEN_DIED: "was ended, because sexton's warden was killed or crashed; a new one takes its place",
    EndReason.KEEPER_DIED: "was ended, because its keeper was killed or crashed",
    EndReason.NOT_KEPT: "was ended, because the gateway was stopped, or without the database, for too long",
}
"""Their words come before how the process itself ended, which is by the hand of who was left."""


def _exit_text(end: TreeEnd) -> str:
    if end.reason in _ENDED_BY:
        return _ENDED_BY[end.reason]
    if end.signal is not None:
        return f"was killed by {_signal_name(end.signal)}"
    if end.returncode is not None:
        return f"ended with status {end.returncode}"
    return f"was stopped ({end.reason.value.replace('_', ' ')})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
