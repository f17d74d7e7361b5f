"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

import sexton

app = typer.Typer(name="sexton", no_args_is_help=True, add_completion=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sexton {sexton.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Scheduled jobs and chats on MCP servers, in which no process outlives its use."""


def main() -> None:
    """Entry point of `sexton` and `python -m sexton`."""
    app()
