"""`sexton channels`: chat platforms, and who may talk to us there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_json, print_table, say, styled_state
from sexton.gateway.documents import ChannelDocument, PairingDocument, PersonDocument
from sexton.gateway.figures import first_line, from_now, local_time, parse_time

app = typer.Typer(help="Show chat platforms, and let people in.")

ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="Its name in the configuration.")]
WhoArgument = Annotated[
    str, typer.Argument(metavar="WHO", help="The code that they were told, or the platform's id of them.")
]


@app.callback(invoke_without_command=True)
def channels(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """How the chat platforms are doing."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_channels(context)


@app.command("list")
def list_channels(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the channels (the default)."""
    found: Sequence[ChannelDocument] = connect(context, config, data).get("channels")
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No channels.  Add one to the configuration: a table [channels.NAME]")
    else:
        columns = ("CHANNEL", "TYPE", "STATE", "NODE", "ACCOUNT", "PEOPLE", "UNANSWERED", "PROBLEM")
        print_table(columns, [_row(one) for one in found], right=("PEOPLE", "UNANSWERED"), free=("PROBLEM",))


def _row(channel: ChannelDocument) -> tuple[str | Text, ...]:
    again = from_now(parse_time(channel["retry_at"]), local_clock.now())
    retry = f" (again {again})" if again and channel["error"] else ""
    return (
        channel["name"],
        channel["type"],
        styled_state(channel["state"]),
        channel["node"] or "",
        channel["account"] or "",
        str(channel["people"]),
        str(channel["waiting"]) if channel["waiting"] else "",
        first_line(channel["error"]) + retry,
    )


@app.command()
def people(
    context: typer.Context,
    channel: ChannelArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who wrote to a channel and is not in its configuration."""
    found: Sequence[PersonDocument] = connect(context, config, data).get(f"channels/{segment(channel)}/people")
    if wants_json(context, as_json):
        print_json(found)
        return
    if not found:
        say(f"Nobody but those in [channels.{channel}] wrote.  Let somebody in: sexton channels pair {channel}")
        return
    now = local_clock.now()
    rows = [
        (
            one["id"],
            one["name"],
            styled_state(one["standing"]),
            local_time(parse_time(one["since"]), now),
            one["code"] or "",
        )
        for one in found
    ]
    print_table(("ID", "NAME", "STANDING", "SINCE", "CODE"), rows, free=("NAME",))


@app.command()
def pair(
    context: typer.Context,
    channel: ChannelArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a code that lets in the first who sends it to the channel."""
    made: PairingDocument = connect(context, config, data).post(f"channels/{segment(channel)}/codes")
    if wants_json(context, as_json):
        print_json(made)
        return
    until = local_time(parse_time(made["expires_at"]), local_clock.now())
    say(f"{made['code']}  lets in whoever first sends it to {channel}, until {until}.")


@app.command()
def approve(
    context: typer.Context,
    channel: ChannelArgument,
    who: WhoArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a person talk to the agent."""
    person = _decide(context, config, data, as_json, path=f"channels/{segment(channel)}/approve", who=who)
    if person:
        say(f"{_named(person)} may talk to {channel}.")


@app.command()
def refuse(
    context: typer.Context,
    channel: ChannelArgument,
    who: WhoArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a person no more."""
    person = _decide(context, config, data, as_json, path=f"channels/{segment(channel)}/refuse", who=who)
    if person:
        say(f"{_named(person)} gets no answer from {channel}.")


@app.command()
def forget(
    context: typer.Context,
    channel: ChannelArgument,
    who: Annotated[str, typer.Argument(metavar="ID", help="The platform's id of them.")],
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what was decided about a person.

    They are a stranger again, and can be told so again.
    """
    left = connect(context, config, data).post(f"channels/{segment(channel)}/forget", {"who": who})
    if wants_json(context, as_json):
        print_json(left)
    else:
        say(f"Nothing is known of {who} any more.")


def _decide(
    context: typer.Context, config: Path | None, data: Path | None, as_json: bool, *, path: str, who: str
) -> PersonDocument | None:
    """The person; None if it was printed as JSON."""
    person: PersonDocument = connect(context, config, data).post(path, {"who": who})
    if not wants_json(context, as_json):
        return person
    print_json(person)
    return None


def _named(person: PersonDocument) -> str:
    return f"{person['name']} ({person['id']})" if person["name"] and person["name"] != person["id"] else person["id"]
