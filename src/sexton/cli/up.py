"""`sexton up`: the gateway in the foreground."""

from __future__ import annotations

import gc
import logging
import sys

import typer

from sexton.cli.console import EventConsole
from sexton.cli.options import ConfigOption, DataOption, places_of


def add_to(app: typer.Typer) -> None:
    app.command()(up)


def up(context: typer.Context, config: ConfigOption = None, data: DataOption = None) -> None:
    """Run the gateway in the foreground.

    Prints `ready URL` on a line of its own when it serves, and on a terminal a link that logs a browser in.  SIGTERM or
    Ctrl-C: it lets runs end, then stops; a second one stops it at once.  SIGHUP, or a change of the configuration: it
    applies what changed.
    """
    places = places_of(context, config, data)
    settings, folder = places.find_config(), places.data_dir()
    import anyio

    from sexton.daemon import serve

    _log_to_stderr()
    console = EventConsole()
    # Not into a file or the system's journal: whoever reads that may not be who may log in.
    show_link = _show_login_link if sys.stdout.isatty() else None
    try:
        anyio.run(lambda: serve(settings, folder, on_event=console.show, on_login_link=show_link))
    finally:
        # All is done and on disk. Python's last garbage collection would look once more at everything that was loaded,
        # for a second or two after "stopped"; what is frozen it leaves alone.
        gc.freeze()


def _show_login_link(link: str) -> None:
    typer.echo(f"open  {link}  (logs one browser in; for another: sexton open)")


class _LikeAnEvent(logging.Formatter):
    """What is no event (defects, a server's junk, warnings of libraries), laid out like one, with its traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s  ! %(origin)-10s  %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.origin = record.name.partition(".")[0]
        return super().format(record)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LikeAnEvent())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
