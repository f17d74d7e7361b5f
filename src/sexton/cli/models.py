"""`sexton model`: the files of models that can run on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, remember, wants_json
from sexton.cli.output import GOOD, QUIET, WARN, print_json, print_table, say
from sexton.errors import UsageError
from sexton.gateway.figures import size

if TYPE_CHECKING:
    from sexton.local_models import PulledFile

app = typer.Typer(help="Models that run on this machine: which there are, and fetching one.")

_TOLD_EVERY = 100
"""Steps in which a terminal sees a pull advance; elsewhere ten."""


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Models that run on this machine: which there are, and fetching one."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_models(context)


@app.command("list")
def list_models(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the models that can be pulled, and which are here (the default).

    Any other GGUF file can be used by its path.
    """
    from sexton.local_models import is_installed, list_files

    found = list(list_files(places_of(context, config, data).data_dir()))
    if wants_json(context, as_json):
        print_json([_document(one) for one in found])
        return
    rows = [(one.file.name, _state(one), size(one.file.size), one.file.licence, one.file.about) for one in found]
    print_table(("MODEL", "STATE", "SIZE", "LICENCE", "WHAT IT IS GOOD FOR"), rows, right=("SIZE",))
    if not is_installed():
        say("To run one, install what it needs: pip install 'sexton[local]'")


def _document(one: PulledFile) -> dict[str, object]:
    file = one.file
    return {
        "name": file.name,
        "here": one.is_whole,
        "have": one.have,
        "size": file.size,
        "sha256": file.sha256,
        "url": file.url,
        "licence": file.licence,
        "path": str(one.path),
    }


def _state(one: PulledFile) -> Text:
    if one.is_whole:
        return Text("here", style=GOOD)
    return Text(f"{100 * one.have // one.file.size} % here", style=WARN) if one.have else Text("not here", style=QUIET)


@app.command()
def pull(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="One of: sexton model list")],
    url: Annotated[
        str | None, typer.Option("--url", metavar="ADDRESS", help="Another place that has the same file.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model's file and prove its SHA-256.

    One that was cut off goes on where it was.  The gateway need not run.
    """
    from sexton.local_models import MODEL_FILES, pull_model

    if model not in MODEL_FILES:
        raise UsageError(
            f"There is no model {model!r} to pull; there are: {', '.join(MODEL_FILES)}.",
            hint='any GGUF file of yours can be used by its path: model = "path/of/it.gguf"',
        )
    folder = places_of(context, config, data).data_dir()
    path = pull_model(MODEL_FILES[model], folder, url=url, tell=_progress())
    if wants_json(context, as_json):
        print_json({"name": model, "path": str(path)})
        return
    say(f"{model} is here: {path}")
    say(f'Next: in sexton.toml, under [models.NAME]:  provider = "local"  and  model = "{model}"')


def _progress() -> Callable[[int, int], None]:
    """Tells on stderr, so that what a program reads stays clean."""
    is_terminal, told = sys.stderr.isatty(), -1
    steps = _TOLD_EVERY if is_terminal else 10

    def tell(have: int, whole: int) -> None:
        nonlocal told
        step = steps * have // whole
        if step != told:
            told = step
            line = f"{size(have)} of {size(whole)} ({100 * have // whole} %)"
            sys.stderr.write(f"\r{line} " if is_terminal and have < whole else f"{line}\n")
            sys.stderr.flush()

    return tell
