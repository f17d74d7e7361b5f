"""`sexton token`: who else may call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import BAD, GOOD, QUIET, print_json, print_table, say
from sexton.gateway.documents import NewTokenDocument, TokenDocument
from sexton.gateway.figures import local_time, parse_time

app = typer.Typer(help="Make, list and revoke tokens.")


class ScopeName(Enum):
    READ = "read"
    RUN = "run"
    ADMIN = "admin"


@app.callback(invoke_without_command=True)
def tokens(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Who else than you may call the gateway."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_tokens(context)


@app.command("list")
def list_tokens(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the tokens (the default)."""
    found: Sequence[TokenDocument] = connect(context, config, data).get("tokens")
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No tokens.  Make one: sexton token create NAME --scope run")
    else:
        now = local_clock.now()
        rows = [_row(token, now) for token in found]
        print_table(("TOKEN", "ID", "STATE", "SCOPES", "PROFILES", "MADE", "LAST USED", "UNTIL"), rows)


def _row(token: TokenDocument, now: datetime) -> tuple[str | Text, ...]:
    return (
        token["name"],
        token["id"],
        _state(token),
        ", ".join(token["scopes"]),
        ", ".join(token["profiles"] or ()),
        local_time(parse_time(token["created_at"]), now),
        local_time(parse_time(token["last_used_at"]), now) or "never",
        local_time(parse_time(token["expires_at"]), now),
    )


def _state(token: TokenDocument) -> Text:
    if token["valid"]:
        return Text("valid", style=GOOD)
    return Text("revoked", style=BAD) if token["revoked_at"] else Text("expired", style=QUIET)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scope: Annotated[
        ScopeName,
        typer.Option("--scope", "-s", help="read: see; run: also call tools and run jobs; admin: also change them."),
    ] = ScopeName.READ,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", metavar="NAME", help="Only the MCP endpoint, with this profile; may repeat."),
    ] = None,
    lasts: Annotated[
        str | None, typer.Option("--lasts", metavar="DURATION", help="How long it is valid, such as 30d.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it.

    This once: the gateway keeps only its hash.
    """
    body: dict[str, object] = {"name": name, "scope": scope.value}
    if profile:
        body["profiles"] = profile
    if lasts is not None:
        body["lasts"] = _seconds(lasts)
    made: NewTokenDocument = connect(context, config, data).post("tokens", body)
    if wants_json(context, as_json):
        print_json(made)
    else:
        typer.echo(made["token"])


def _seconds(written: str) -> float:
    from sexton.daemon import parse_duration
    from sexton.errors import UsageError

    try:
        return parse_duration(written)
    except ValueError as error:
        raise UsageError(f"--lasts {error}.", hint="write it like 12h or 30d") from error


@app.command()
def revoke(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name or its id.")],
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token invalid at once.

    With the browsers that were logged in by it.
    """
    gone: TokenDocument = connect(context, config, data).delete(f"tokens/{segment(token)}")
    if wants_json(context, as_json):
        print_json(gone)
    else:
        say(f"The token {gone['name']} ({gone['id']}) is revoked.")
