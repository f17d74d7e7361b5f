"""`sexton journal`: what happened, on this node and on all others of its database."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.job_options import parse_span
from sexton.cli.options import ConfigOption, DataOption, JsonOption, wants_json
from sexton.cli.output import print_json, printable, say
from sexton.errors import UsageError
from sexton.gateway.documents import NodeEventDocument
from sexton.gateway.event_lines import line_of
from sexton.gateway.figures import first_line, local_time, parse_time

_EVERY = 1.0
_AT_ONCE = 1000


def add_to(app: typer.Typer) -> None:
    app.command()(journal)


def journal(
    context: typer.Context,
    job: Annotated[str | None, typer.Option("--job", "-j", metavar="NAME", help="Only of this job.")] = None,
    run: Annotated[str | None, typer.Option("--run", "-r", metavar="ID", help="Only of this run.")] = None,
    server: Annotated[str | None, typer.Option("--server", "-s", metavar="NAME", help="Only of this server.")] = None,
    node: Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only what happened on this node.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", metavar="KIND", help="Only kinds that begin so: run., gateway.dead"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only from then on: 30m, 2h, or 2026-11-22T14:00.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="How many at most.")] = 50,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened on all nodes, the latest last.

    With --json and --follow: one event a line.
    """
    if job is not None and server is not None:
        raise UsageError("--job and --server exclude each other.", hint="leave one of them out")
    as_json = wants_json(context, as_json)
    gateway = connect(context, config, data)
    kinds = kind or [prefix for prefix, name in (("run.", job), ("job.", job), ("server.", server)) if name]
    wanted = {"node": node, "subject": job or server, "text": run, "kind": kinds, "since": _since(since)}
    found: Sequence[NodeEventDocument] = gateway.get("journal/all", **wanted, limit=limit)
    if as_json and not follow:
        print_json(found)
        return
    if not found and not follow:
        say("No such events.")
    last = 0
    while True:
        for event in reversed(found):
            _show(event, as_json=as_json)
            last = event["id"]
        if not follow:
            return
        if len(found) < _AT_ONCE:
            time.sleep(_EVERY)
        found = gateway.get("journal/all", **wanted, after=last, limit=_AT_ONCE)


def _since(said: str | None) -> str | None:
    """A time, or how long ago; in the zone of this machine unless it says another."""
    if said is None:
        return None
    try:
        return datetime.fromisoformat(said).astimezone().isoformat()
    except ValueError:
        return (local_clock.now() - timedelta(seconds=parse_span("--since", said))).isoformat()


def _show(event: NodeEventDocument, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
        return
    when = local_time(parse_time(event["at"]), local_clock.now())
    say(
        Text.assemble(
            (when, "dim"),
            "  ",
            printable(event["node"]),
            "  ",
            (printable(event["subject"]).plain, "bold"),
            "  ",
            _words(event),
        )
    )


def _words(event: NodeEventDocument) -> Text:
    if line := line_of(event["kind"], event["data"]):
        return Text(printable(line.text).plain, style=line.mark.value[2])
    told = ", ".join(f"{key}: {value}" for key, value in event["data"].items() if value not in (None, [], {}))
    return printable(f"{event['kind']}" + (f" ({first_line(told)})" if told else ""))
