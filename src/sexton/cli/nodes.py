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
from sexton.gateway.documents import NodeDocument
from sexton.gateway.figures import from_now, parse_time

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
    columns = ("NODE", "STATE", "RUNNING", "LABELS", "TREES", "BEAT", "VERSION")
    print_table(columns, [_row(one) for one in found], right=("RUNNING", "TREES"), free=("LABELS",))


def _row(node: NodeDocument) -> tuple[str | Text, ...]:
    capacity = "" if node["capacity"] is None else f"/{node['capacity']}"
    return (
        node["name"] + (" (here)" if node["here"] else ""),
        styled_state(node["state"]),
        f"{node['running']}{capacity}",
        " ".join(node["labels"]),
        str(len(node["trees"])) if node["id"] else "",
        from_now(parse_time(node["beat"]), local_clock.now()) or "",
        node["version"] or "",
    )


@app.command()
def drain(
    context: typer.Context,
    node: NodeArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a node no more runs, for maintenance.  What runs there goes on to its end."""
    found: Sequence[NodeDocument] = connect(context, config, data).post(f"nodes/{segment(node)}/drain")
    if wants_json(context, as_json):
        print_json(found)
        return
    left = sum(one["running"] for one in found)
    say(f"{node} takes no more work" + (f"; {left} runs go on to their end: sexton nodes" if left else "."))


@app.command()
def undrain(
    context: typer.Context,
    node: NodeArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a drained node work again."""
    found: Sequence[NodeDocument] = connect(context, config, data).post(f"nodes/{segment(node)}/undrain")
    if wants_json(context, as_json):
        print_json(found)
        return
    say(f"{node} takes work again.")
