"""`sexton nodes`: the gateways on one database, and taking one out of service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_json, print_table, say, styled_state
from sexton.gateway.documents import ForgottenNodeDocument, NodeDocument
from sexton.gateway.figures import counted, from_now, parse_time

app = typer.Typer(help="Show the nodes that share this database, and take one out of service.")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Its name.")]


@app.callback(invoke_without_command=True)
def nodes(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """How the nodes are doing."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_nodes(context)


@app.command("list")
def list_nodes(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the nodes (the default)."""
    found: Sequence[NodeDocument] = connect(context, config, data).get("nodes")
    if wants_json(context, as_json):
        print_json(found)
        return
    columns = ("NODE", "STATE", "RUNNING", "LABELS", "TREES", "BEAT", "VERSION", "ENDED")
    print_table(columns, [_row(one) for one in found], right=("RUNNING", "TREES"), free=("LABELS", "ENDED"))


def _row(node: NodeDocument) -> tuple[str | Text, ...]:
    capacity = "" if node["capacity"] is None else f"/{node['capacity']}"
    return (
        node["name"] + (" (here)" if node["here"] else ""),
        styled_state(node["state"]),
        f"{node['running']}{capacity}" if node["id"] else "",
        " ".join(node["labels"]),
        str(len(node["trees"])) if node["id"] else "",
        from_now(parse_time(node["beat"]), local_clock.now()),
        node["version"] or "",
        _ended(node),
    )


def _ended(node: NodeDocument) -> str:
    """How it ended, where it is gone."""
    if node["id"] or not (ended := node["ended"]):
        return ""
    settled = f", {counted(ended['settled'], 'run')} settled by {ended['by']}" if ended["how"] == "died" else ""
    return f"{ended['how']} {from_now(parse_time(ended['at']), local_clock.now())}{settled}"


@app.command()
def drain(
    context: typer.Context,
    node: NodeArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a node no more runs, for maintenance.  What runs there goes on to its end."""
    found = connect(context, config, data).post(f"nodes/{segment(node)}/drain")
    _print_changed(found, "takes no more work", node=node, as_json=wants_json(context, as_json))


@app.command()
def undrain(
    context: typer.Context,
    node: NodeArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a drained node work again."""
    found = connect(context, config, data).post(f"nodes/{segment(node)}/undrain")
    _print_changed(found, "takes work again", node=node, as_json=wants_json(context, as_json))


def _print_changed(found: Sequence[NodeDocument], what: str, *, node: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    left = sum(one["running"] for one in found if one["drained"])
    say(
        f"{node} {what}"
        + (f"; what runs there goes on to its end ({counted(left, 'run')}): sexton nodes" if left else ".")
    )


@app.command()
def forget(
    context: typer.Context,
    node: NodeArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a node that is gone for good out of the list.

    Its runs and events stay; the jobs that only its config file named are removed.
    """
    found: ForgottenNodeDocument = connect(context, config, data).delete(f"nodes/{segment(node)}")
    if wants_json(context, as_json):
        print_json(found)
        return
    jobs = found["jobs_removed"]
    say(f"{node} is forgotten" + (f", and the jobs that only its file named: {', '.join(jobs)}." if jobs else "."))
