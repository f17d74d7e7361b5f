"""`sexton deliveries`: what is to be sent, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_facts, print_json, print_table, say, styled_state
from sexton.gateway.documents import DeliveryDocument
from sexton.gateway.figures import first_line, from_now, local_time, parse_time

app = typer.Typer(help="Show, send, retry and cancel deliveries.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The number that the listing shows.")]
TargetOption = Annotated[
    str | None, typer.Option("--target", "-t", metavar="TARGET", help="Only those for this NAME or NAME:RECIPIENT.")
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", "-s", metavar="STATE", help="Only those in this state: waiting, sent, failed, cancelled."),
]
JobOption = Annotated[str | None, typer.Option("--job", "-j", metavar="NAME", help="Only those of this job.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="How many at most.")]


@app.callback(invoke_without_command=True)
def deliveries(
    context: typer.Context,
    target: TargetOption = None,
    state: StateOption = None,
    job: JobOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is to be sent to somebody, and what became of it, the newest first."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_deliveries(context, target, state, job, limit)


@app.command("list")
def list_deliveries(
    context: typer.Context,
    target: TargetOption = None,
    state: StateOption = None,
    job: JobOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest deliveries (the default)."""
    gateway = connect(context, config, data)
    found: Sequence[DeliveryDocument] = gateway.get("deliveries", target=target, state=state, job=job, limit=limit)
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No deliveries yet." if target is None and state is None and job is None else "No such deliveries.")
    else:
        now = local_clock.now()
        columns = ("ID", "TARGET", "STATE", "WHEN", "TRIES", "ABOUT")
        print_table(columns, [_row(one, now) for one in found], right=("ID", "TRIES"), free=("ABOUT",))


def _row(delivery: DeliveryDocument, now: datetime) -> tuple[str | Text, ...]:
    ended = parse_time(delivery["ended_at"])
    coming = parse_time(delivery["next_attempt"])
    return (
        str(delivery["id"]),
        delivery["target"],
        styled_state(delivery["state"]),
        local_time(ended, now) if ended else from_now(coming, now),
        str(delivery["attempts"]) if delivery["attempts"] else "",
        about_line(delivery),
    )


def about_line(delivery: DeliveryDocument) -> str:
    """What to know of it in one line: why it was not sent, or what it says."""
    if delivery["error"] and delivery["state"] != "sent":
        return first_line(delivery["error"])
    title = f"{delivery['title']}: " if delivery["title"] else ""
    return title + first_line(delivery["text"])


@app.command()
def show(
    context: typer.Context,
    delivery: IdArgument,
    text: Annotated[bool, typer.Option("--text", help="Only what is to be said, all of it, as it is.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one delivery."""
    gateway = connect(context, config, data)
    if text:
        typer.echo(gateway.get_text(f"deliveries/{segment(delivery)}/text"))
        return
    found: DeliveryDocument = gateway.get(f"deliveries/{segment(delivery)}")
    if wants_json(context, as_json):
        print_json(found)
        return
    now = local_clock.now()
    facts: list[tuple[str, str | Text]] = [("state", styled_state(found["state"])), ("key", found["key"])]
    optional = (
        ("job", found["job"]),
        ("run", found["run"]),
        ("attempts", str(found["attempts"]) if found["attempts"] else None),
        ("made", local_time(parse_time(found["created_at"]), now)),
        ("next try", from_now(parse_time(found["next_attempt"]), now)),
        ("ended", local_time(parse_time(found["ended_at"]), now)),
        ("called", found["receipt"]),
        ("title", found["title"]),
    )
    facts += [(name, value) for name, value in optional if value]
    print_facts(f"{found['id']} to {found['target']}", facts)
    _print_part("error", found["error"])
    left = found["characters"] - len(found["text"])
    more = f"\n[… {left} more characters: sexton deliveries show {found['id']} --text]" if left > 0 else ""
    _print_part("text", found["text"] + more)


def _print_part(title: str, text: str | None) -> None:
    if text:
        say(Text(f"\n{title}", style="bold"))
        say(text.rstrip("\n"))


@app.command()
def send(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="NAME or NAME:RECIPIENT, as in `deliver`.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; `-` reads standard input.")],
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="A title, or the subject of a mail.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="The same key again sends nothing more.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message to a target.

    It is kept until it is sent, also over a restart of the gateway.
    """
    said = typer.get_text_stream("stdin").read() if text == "-" else text
    given = {"target": target, "text": said, "title": title, "key": key}
    body = {name: value for name, value in given.items() if value is not None}
    made: DeliveryDocument = connect(context, config, data).post("deliveries", body)
    if wants_json(context, as_json):
        print_json(made)
    else:
        say(f"It is delivery {made['id']}.  See what becomes of it: sexton deliveries show {made['id']}")


@app.command()
def retry(
    context: typer.Context,
    delivery: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one again that failed, or at once one that waits."""
    found: DeliveryDocument = connect(context, config, data).post(f"deliveries/{segment(delivery)}/retry")
    if wants_json(context, as_json):
        print_json(found)
    elif found["state"] == "sent":
        say(f"{found['id']} was sent already; nothing was changed.")
    else:
        say(f"{found['id']} is tried again.")


@app.command()
def cancel(
    context: typer.Context,
    delivery: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one no more.

    What waits behind it for the same target goes on.
    """
    found: DeliveryDocument = connect(context, config, data).post(f"deliveries/{segment(delivery)}/cancel")
    if wants_json(context, as_json):
        print_json(found)
    else:
        say(f"{found['id']} is {found['state']}.")
