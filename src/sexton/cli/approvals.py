"""`sexton approvals`: tool calls and questions that wait for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_json, print_table, say, styled_state
from sexton.cli.tool_arguments import parse_object
from sexton.gateway.documents import ApprovalDocument
from sexton.gateway.figures import from_now, parse_time

app = typer.Typer(help="Show and answer what waits for a person.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The question's id.")]


@app.callback(invoke_without_command=True)
def approvals(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Show and answer what waits for a person."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_approvals(context)


@app.command("list")
def list_approvals(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", "-a", help="Also those that are answered.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the questions that wait (the default)."""
    query = {"all": "yes"} if every else {}
    found: Sequence[ApprovalDocument] = connect(context, config, data).get("approvals", **query)
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("Nothing waits for you.")
    else:
        print_table(("ID", "STATE", "FOR", "WHAT", "UNTIL"), [_row(each) for each in found], free=("WHAT",))


def _row(asked: ApprovalDocument) -> tuple[str | Text, ...]:
    until = from_now(parse_time(asked["expires_at"]), local_clock.now()) if asked["state"] == "pending" else "-"
    question = json.dumps(asked["question"].get("arguments", asked["question"]), ensure_ascii=False)
    what = f"{asked['server']}.{asked['tool']} {question}"
    return asked["id"], styled_state(asked["state"]), asked["holder"], what, until or "-"


@app.command()
def approve(
    context: typer.Context,
    approval: IdArgument,
    content: Annotated[
        str | None, typer.Option(metavar="JSON", help="What a server asked to be filled in, as an object.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say yes."""
    filled = None if content is None else parse_object(content, what="The --content")
    body = {"yes": True} | ({} if filled is None else {"content": filled})
    _answer(context, config, data, as_json, approval, body)


@app.command()
def deny(
    context: typer.Context,
    approval: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say no."""
    _answer(context, config, data, as_json, approval, {"yes": False})


def _answer(
    context: typer.Context,
    config: Path | None,
    data: Path | None,
    as_json: bool,
    approval: str,
    body: Mapping[str, object],
) -> None:
    answered: ApprovalDocument = connect(context, config, data).post(f"approvals/{segment(approval)}", body)
    if wants_json(context, as_json):
        print_json(answered)
    else:
        say(f"{answered['server']}.{answered['tool']} is {answered['state']}.")
