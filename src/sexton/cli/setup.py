"""`sexton init` and `sexton service`: what is done once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sexton.cli.options import ConfigOption, DataOption, places_of
from sexton.cli.output import say


def add_to(app: typer.Typer) -> None:
    app.command()(init)
    app.add_typer(service, name="service")


def init(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(metavar="[PATH]", help="The file, or the folder for it.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a commented sexton.toml.

    It works at once.  One that is there is never overwritten.
    """
    from sexton.daemon import write_starter

    written = write_starter(path or places_of(context, config).config_to_write())
    say(f"{written} is written.")
    say("Next: sexton up")


service = typer.Typer(help="Run the gateway as a systemd service.", no_args_is_help=True)


@service.callback()
def service_group() -> None:
    """Run the gateway as a systemd service."""


@service.command()
def install(
    context: typer.Context,
    system: Annotated[
        bool, typer.Option("--system/--user", help="A unit of the system, or (the default) one of your own.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the unit, write nothing.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Write the systemd unit.

    Its cgroup ends every server, whatever happens to the gateway.  The commands that enable it are named, not run.
    """
    from sexton.daemon import install_service, service_unit

    places = places_of(context, config, data)
    named_data = places.data_dir() if places.names_data() else None
    unit = service_unit(user=not system, settings=places.find_config().resolve(), data=named_data)
    if dry_run:
        typer.echo(unit.text, nl=False)
        return
    changed = install_service(unit)
    say(f"{unit.path} is {'written' if changed else 'as it should be already'}.  Next:")
    for command in unit.next_commands:
        say(f"  {command}")
