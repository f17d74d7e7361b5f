"""`sexton database`: what the gateway knows, from a file to a server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, remember, wants_json
from sexton.cli.output import print_json, print_table, say
from sexton.errors import UsageError
from sexton.gateway.documents import DatabaseCopyDocument

if TYPE_CHECKING:
    from sexton.cli.places import Places
    from sexton.database import PostgresUrl, Progress

app = typer.Typer(help="Move the gateway's database.", no_args_is_help=True)


@app.callback()
def database(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Where the gateway keeps what it knows."""
    remember(context, config=config, data=data, as_json=as_json)


@app.command()
def copy(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="The SQLite file, if not the data folder's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken along.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take everything from the data folder's SQLite file to the empty PostgreSQL database of the configuration.

    All of it or nothing.  No gateway may run on the data folder meanwhile.  The file stays as it is.
    """
    places = places_of(context, config, data)
    folder = places.data_dir()
    file = (places.cwd / source.expanduser()) if source else folder / "sexton.db"
    if not file.is_file():
        raise UsageError(f"There is no SQLite database {file}.", hint="name its file with --from, or its data folder")
    target = _target_of(places)
    import anyio

    from sexton.daemon import claimed_data_folder

    as_json = wants_json(context, as_json)
    with claimed_data_folder(folder):
        rows = anyio.run(_look, file, target) if dry_run else anyio.run(_copy, file, target, as_json)
    found = DatabaseCopyDocument(source=str(file), target=str(target), dry_run=dry_run, rows=rows)
    if as_json:
        print_json(found)
    else:
        _print_copied(found)


def _target_of(places: Places) -> PostgresUrl:
    from sexton.daemon import load_settings
    from sexton.database import PostgresUrl

    path = places.find_config()
    location = load_settings(path).database
    if not isinstance(location, PostgresUrl):
        raise UsageError(
            f"{path} names no database on PostgreSQL, to which everything could go.",
            hint='write there: database = "postgresql://USER:${env:PGPASSWORD}@HOST/NAME"',
        )
    return location


async def _look(file: Path, target: PostgresUrl) -> Mapping[str, int]:
    from sexton.database import Database, count_rows, refuse_unless_empty

    async with Database.open(file, migrates=False) as here, Database.open(target, migrates=False) as there:
        await refuse_unless_empty(there)
        return await count_rows(here)


async def _copy(file: Path, target: PostgresUrl, quiet: bool) -> Mapping[str, int]:
    from sexton.database import Database, copy_everything

    async with Database.open(file) as here, Database.open(target) as there:
        return await copy_everything(here, there, tell=_say_nothing if quiet else _show)


def _say_nothing(progress: Progress) -> None:
    """The result is all that a program reads."""


def _show(progress: Progress) -> None:
    """One line, which a terminal shows as it grows."""
    if sys.stderr.isatty():
        end = "\n" if progress.rows == progress.of else ""
        typer.echo(f"\r{progress.table}: {progress.rows} of {progress.of} rows{end}", nl=False, err=True)


def _print_copied(found: DatabaseCopyDocument) -> None:
    rows = [(table, str(rows)) for table, rows in found["rows"].items() if rows]
    print_table(("TABLE", "ROWS"), rows, right=("ROWS",))
    total = sum(found["rows"].values())
    if found["dry_run"]:
        say(f"{total} rows would go from {found['source']} to {found['target']}; nothing was changed.")
    else:
        say(f"{total} rows went from {found['source']} to {found['target']}, and all arrived.  Next: sexton up")
