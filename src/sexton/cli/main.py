"""The command tree, and the edge at which every error becomes words and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

import sexton
from sexton.cli import (
    approvals,
    browser,
    calls,
    channels,
    chat,
    database,
    deliveries,
    jobs,
    journal,
    mcp_stdio,
    models,
    nodes,
    processes,
    runs,
    servers,
    setup,
    tokens,
    up,
)
from sexton.cli.options import ConfigOption, DataOption, JsonOption, data_dir_of, remember
from sexton.cli.output import tell_error
from sexton.errors import SextonError, UsageError

CRASH_LOG = "cli-errors.log"

app = typer.Typer(
    name="sexton",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors: they read the same everywhere, and load faster
)
setup.add_to(app)
browser.add_to(app)
up.add_to(app)
app.add_typer(servers.app, name="servers")
calls.add_to(app)
mcp_stdio.add_to(app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(runs.app, name="runs")
app.add_typer(chat.app, name="chat")
app.add_typer(approvals.app, name="approvals")
app.add_typer(models.app, name="model")
app.add_typer(channels.app, name="channels")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(nodes.app, name="nodes")
app.add_typer(database.app, name="database")
journal.add_to(app)
processes.add_to(app)
app.add_typer(tokens.app, name="token")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sexton {sexton.__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Scheduled jobs and chats on MCP servers, in which no process outlives its use."""
    remember(context, config=config, data=data, as_json=as_json)


def main() -> None:
    """Entry point of `sexton` and `python -m sexton`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments ask; returns the exit status: 0 done, 1 it failed, 2 it was asked wrongly, 130 Ctrl-C."""
    try:
        return _invoke(arguments)
    except KeyboardInterrupt:
        return 130
    except SextonError as error:
        tell_error(error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        return _leave_broken_pipe()
    except Exception as error:  # noqa: BLE001 the outermost edge: a defect of ours
        _print_defect(error, arguments)
        return 1


def _invoke(arguments: Sequence[str]) -> int:
    try:
        typer.main.get_command(app).main(list(arguments), prog_name="sexton")
    except SystemExit as end:
        sys.stdout.flush()  # so that a broken pipe is met here and not in the interpreter's last moments
        return end.code if isinstance(end.code, int) else 1
    return 0


def _print_defect(error: Exception, arguments: Sequence[str]) -> None:
    log = _write_crash(error, arguments)
    where = f"the traceback is in {log}" if log else "the traceback could not be written to the data folder"
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    tell_error(SextonError(f"sexton met an error of its own: {said}", hint=f"please report it; {where}"))


def _write_crash(error: Exception, arguments: Sequence[str]) -> Path | None:
    """Append the traceback to the log in the data folder.  The arguments may hold secrets: only the command is kept."""
    text = "".join(traceback.format_exception(error))
    try:
        folder = data_dir_of(arguments)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / CRASH_LOG
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(
                f"{datetime.now(UTC).isoformat()} sexton {sexton.__version__} {' '.join(arguments[:1])}\n{text}\n"
            )
    except OSError:
        return None
    return path


def _leave_broken_pipe() -> int:
    """Whoever read our output has had enough.  Python flushes once more at its end, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
