"""The options that many commands share, before or after the command's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from sexton.cli.places import Places

ConfigOption: TypeAlias = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The configuration.  [env: SEXTON_CONFIG]")
]
DataOption: TypeAlias = Annotated[
    Path | None, typer.Option("--data", "-d", metavar="FOLDER", help="The gateway's state.  [env: SEXTON_DATA]")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, with the keys of the HTTP API.")]


@dataclass(slots=True)
class _Given:
    """What stood before the name of a subcommand; what stands after it wins."""

    config: Path | None = None
    data: Path | None = None
    as_json: bool = False


def remember(
    context: typer.Context, *, config: Path | None = None, data: Path | None = None, as_json: bool = False
) -> None:
    """Keep the options of a group for the command below it."""
    given = _given(context)
    given.config = config or given.config
    given.data = data or given.data
    given.as_json = as_json or given.as_json


def places_of(context: typer.Context, config: Path | None = None, data: Path | None = None) -> Places:
    """Where things are, by the options of this command and of the groups above it."""
    remember(context, config=config, data=data)
    given = _given(context)
    return Places(config_option=given.config, data_option=given.data, environ=os.environ, cwd=Path.cwd())


def wants_json(context: typer.Context, as_json: bool) -> bool:
    return as_json or _given(context).as_json


def data_dir_of(arguments: Sequence[str]) -> Path:
    """The data folder for a command line that could not be followed to its end."""
    named = None
    for option, value in pairwise(arguments):
        if option in ("--data", "-d"):
            named = Path(value)
    return Places(config_option=None, data_option=named, environ=os.environ, cwd=Path.cwd()).data_dir()


def _given(context: typer.Context) -> _Given:
    given: _Given = context.ensure_object(_Given)
    return given
