"""`sexton up`: the gateway in the foreground."""

from __future__ import annotations

import typer

from sexton.cli.console import EventConsole
from sexton.cli.options import ConfigOption, DataOption, places_of


def add_to(app: typer.Typer) -> None:
    app.command()(up)


def up(context: typer.Context, config: ConfigOption = None, data: DataOption = None) -> None:
    """Run the gateway in the foreground.

    Prints `ready URL` on a line of its own when it serves.  SIGTERM or Ctrl-C: it lets runs end, then stops; a second
    one stops it at once.  SIGHUP, or a change of the configuration: it applies what changed.
    """
    places = places_of(context, config, data)
    settings, folder = places.find_config(), places.data_dir()
    import anyio

    from sexton.daemon import serve

    console = EventConsole()
    anyio.run(lambda: serve(settings, folder, on_event=console.show))
