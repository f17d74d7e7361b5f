"""What a command does with the servers where no gateway runs: each is started for it, and proven gone after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.daemon.data_folder import cannot_write
from sexton.daemon.settings import load_settings
from sexton.errors import SextonError
from sexton.gateway.documents import CallDocument, CheckDocument, ServerDocument, ToolDocument
from sexton.gateway.http import call_document, check_document, require_tool, server_document, tool_document
from sexton.journal import Journal
from sexton.mcp_servers import ServerPool, ServerUnavailable

_HOLDER = "call"


async def call_once(
    settings_path: Path, data_dir: Path, *, server: str, tool: str, arguments: Mapping[str, Any], timeout: float | None
) -> CallDocument:
    """Call a tool and return its answer, also when the tool says that it failed.

    `timeout` in seconds; None takes the server's own.  Raises `SextonError` (`UsageError` for a name that does not
    exist) when there is no answer.
    """
    clock = SystemClock()
    with _one_cause():
        async with (
            short_lived_pool(settings_path, data_dir) as pool,
            pool.lease(server, holder=_HOLDER, returns=False) as lease,
        ):
            await require_tool(lease, server, tool)
            began = clock.monotonic()
            result = await lease.call_tool(tool, arguments, timeout=timeout)
            return call_document(server, tool, result, seconds=clock.monotonic() - began)


async def list_servers_once(settings_path: Path, data_dir: Path) -> list[ServerDocument]:
    """Every configured server, by name; none is started."""
    async with short_lived_pool(settings_path, data_dir) as pool:
        return [server_document(status) for status in pool.status()]


async def list_tools_once(settings_path: Path, data_dir: Path, *, server: str) -> list[ToolDocument]:
    """The tools of a server, which is started only if they are not known yet.  Raises `SextonError`."""
    with _one_cause():
        async with short_lived_pool(settings_path, data_dir) as pool:
            return [tool_document(tool) for tool in await pool.tools(server)]


async def check_once(settings_path: Path, data_dir: Path, *, server: str) -> CheckDocument:
    """What came of starting a server and asking for its tools.  Raises `UsageError` for a name that does not exist."""
    with _one_cause():
        async with short_lived_pool(settings_path, data_dir) as pool:
            report = await pool.check(server)
            if report.cause is not None:
                report = replace(report, error=report.cause.what)  # here nobody tries again
            return check_document(report)


@asynccontextmanager
async def short_lived_pool(settings_path: Path, data_dir: Path) -> AsyncIterator[ServerPool]:
    """The configured servers for a moment, beside a gateway or without one; all are proven gone when this is left.

    Nothing is recovered: that is for a gateway, or for `sexton reap`.
    """
    settings = load_settings(settings_path)
    _make_private(data_dir)
    async with Containment.open(data_dir, recover=False) as containment:
        journal = Journal.open()
        # A moment warms nothing.
        servers = {name: replace(server, keep_warm=False) for name, server in settings.servers.items()}
        pool = ServerPool(servers, containment, clock=SystemClock(), journal=journal, data_dir=data_dir)
        async with anyio.create_task_group() as tasks:
            await tasks.start(_run, pool)
            try:
                yield pool
            finally:
                tasks.cancel_scope.cancel()


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise cannot_write(folder, problem) from problem


async def _run(pool: ServerPool, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await pool.run(task_status=task_status)


@contextmanager
def _one_cause() -> Iterator[None]:
    """Task groups raise groups; a person gets the one error that was the cause."""
    try:
        yield
    except BaseExceptionGroup as group:
        told, others = group.split(SextonError)
        if others is not None or told is None:
            raise
        error = _first(told)
        if isinstance(error, ServerUnavailable) and isinstance(error.__cause__, SextonError):
            error = error.__cause__  # without the pool's word on when it tries again: here nobody does
        raise error from group


def _first(group: BaseExceptionGroup[SextonError]) -> SextonError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
