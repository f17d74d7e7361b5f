"""`sexton up`: the gateway in the foreground."""

from __future__ import annotations

import typer

from sexton.cli.console import EventConsole
from sexton.cli.options import ConfigOption, DataOption, places_of


def add_to(app: typer.Typer) -> None:
    app.command()(up)


def up(context: typer.Context, config: ConfigOption = None, data: DataOption = None) -> None:
    """Run the gateway here, until SIGTERM or Ctrl-C; it then lets runs end and stops.  Twice: it stops at once.

    Prints `ready URL` when it serves.
    """
    places = places_of(context, config, data)
    settings, folder = places.find_config(), places.data_dir()
    import anyio

    from sexton.daemon import serve

    console = EventConsole()
    anyio.run(lambda: serve(settings, folder, on_event=console.show))
