"""`sexton mcp`: the MCP endpoint over stdio, for clients that only start programs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sexton.cli.gateway_client import need_gateway, segment
from sexton.cli.options import ConfigOption, DataOption, places_of
from sexton.errors import UsageError

if TYPE_CHECKING:
    from anyio import CancelScope

    from sexton.cli.stdio_lines import LineWriter


def add_to(app: typer.Typer) -> None:
    app.command(name="mcp")(mcp)


def mcp(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(metavar="NAME", help="Only this server, under its own names.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Only this profile of the configuration.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Offer the gateway's servers to one MCP client.

    It is an MCP server on standard input and output, for clients that start their servers as programs.  Ten of them
    share one set of servers.  Ends when its input ends, or with SIGTERM; status 1 if no gateway runs.
    """
    if server is not None and profile is not None:
        raise UsageError("--server and --profile cannot both be given.", hint="leave one of them out")
    folder = places_of(context, config, data).data_dir()
    need_gateway(folder).close()
    import anyio

    anyio.run(_serve, folder, _path(server, profile))


def _path(server: str | None, profile: str | None) -> str:
    if profile is not None:
        return f"/mcp/profile/{segment(profile)}"
    return "/mcp" if server is None else f"/mcp/{segment(server)}"


async def _serve(folder: Path, path: str) -> None:
    import anyio

    from sexton.cli.stdio_bridge import StdioBridge
    from sexton.cli.stdio_lines import LineWriter, lines_of

    output = LineWriter(sys.stdout.buffer)
    bridge = StdioBridge(folder, path, output.write)
    try:
        await bridge.check()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_by_signal, tasks.cancel_scope)
            tasks.start_soon(_cancel_when_unheard, output, tasks.cancel_scope)
            async with lines_of(sys.stdin.buffer) as lines:
                await bridge.run(lines)
            tasks.cancel_scope.cancel()
    finally:
        await bridge.close()
        output.close()


async def _cancel_by_signal(scope: CancelScope) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _cancel_when_unheard(output: LineWriter, scope: CancelScope) -> None:
    await output.broken.wait()
    scope.cancel()
