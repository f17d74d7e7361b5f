"""`sexton chat`: a conversation in the terminal, or one message from a script."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.connection import connect
from sexton.cli.gateway_client import GatewayClient, segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, remember, wants_json
from sexton.cli.output import console_for, print_json, print_table, printable, say, tell_error
from sexton.cli.questions import answer_to
from sexton.cli.turn_view import TurnView
from sexton.errors import SextonError, UsageError
from sexton.gateway.documents import (
    ConversationDocument,
    ConversationRecordDocument,
    FoundDocument,
    MessageDocument,
    TurnDocument,
)
from sexton.gateway.figures import from_now, parse_time

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

app = typer.Typer(help="Talk with a model that has the servers' tools.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The conversation's id, or the end of it.")]
HELP = """\
/call SERVER.TOOL {"key": "value"}   call a tool, without any model
/new                                 begin another conversation
/retry [WORDS]                       say the last message again, perhaps in other words
/quit                                leave (Ctrl-D does too); the conversation is kept
Ctrl-C stops the answer.  Esc and Enter begin a new line."""


@app.callback(invoke_without_command=True)
def chat(
    context: typer.Context,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Say this, print the answer, and end.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", "-r", metavar="ID", help="Go on with this conversation; `last`: the newest."),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="SERVER", help="Only the tools of these; may be given several times."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Who answers; the next one if it cannot.")
    ] = None,
    approvals: Annotated[
        Literal["never", "destructive", "always"] | None, typer.Option(help="Which tool calls wait for you.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with a model that has the servers' tools.

    With -m, or with a pipe or file on standard input, it prints one answer and ends: status 0, or 1 if it failed.
    What comes on standard input is added to the message.
    """
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is not None:
        return
    given = _piped()
    gateway = connect(context, config, data)
    settings: dict[str, Any] = {"servers": server, "models": model, "approvals": approvals}
    settings = {key: value for key, value in settings.items() if value is not None}
    conversation = _conversation(gateway, resume, settings)
    if message is None and given is None and sys.stdin.isatty():
        _talk(gateway, conversation, settings, history=places_of(context, config, data).data_dir() / "chat-history")
        return
    text = "\n\n".join(filter(None, [message, given]))
    if not text.strip():
        raise UsageError("There is nothing to say.", hint='give a message: sexton chat -m "…"')
    _say_once(gateway, conversation["id"], text, as_json=wants_json(context, as_json))


def _piped() -> str | None:
    """What a pipe or a file on standard input holds."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed
        return None
    return sys.stdin.read() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else None


def _conversation(gateway: GatewayClient, resume: str | None, settings: Mapping[str, Any]) -> ConversationDocument:
    if resume is None:
        body = {"way": "terminal", "key": secrets.token_hex(6), **settings}
        return cast("ConversationDocument", gateway.post("conversations", body))
    if resume == "last":
        listed = gateway.get("conversations", way="terminal", limit=1)
        if not listed:
            raise UsageError("There is no conversation to go on with.", hint="begin one: sexton chat")
        return cast("ConversationDocument", listed[0])
    return _known(gateway, resume)


def _known(gateway: GatewayClient, fragment: str) -> ConversationDocument:
    """The conversation of that id, or the one among the latest whose id ends so."""
    listed: Sequence[ConversationDocument] = gateway.get("conversations", limit=500)
    found = [each for each in listed if each["id"] == fragment or each["id"].endswith(fragment)]
    if len(found) != 1:
        what = f"{len(found)} conversations have" if found else "No conversation has"
        raise UsageError(f"{what} an id that ends with {fragment!r}.", hint="see them: sexton chat list")
    return found[0]


# One message


def _say_once(gateway: GatewayClient, conversation: str, text: str, *, as_json: bool) -> None:
    view = TurnView(sys.stderr if as_json else sys.stdout, quiet=True)
    try:
        ended = _turn(gateway, conversation, {"text": text}, view, answer=_point_to_approval)
    except KeyboardInterrupt:
        gateway.post(f"conversations/{conversation}/stop")
        raise
    if as_json:
        print_json(ended)
    if ended["state"] != "done":
        if not as_json and ended["error"]:
            tell_error(SextonError(ended["error"], hint=ended["hint"]))
        raise typer.Exit(1)


def _point_to_approval(_gateway: GatewayClient, event: Mapping[str, Any]) -> None:
    what = f"{event['server']}.{event['tool']} waits for you: sexton approvals approve {event['approval']}"
    console_for(sys.stderr).print(printable(what), soft_wrap=True)


def _turn(
    gateway: GatewayClient,
    conversation: str,
    message: Mapping[str, Any],
    view: TurnView,
    *,
    answer: Any,
    path: str = "messages",
) -> TurnDocument:
    """Say something and show what comes of it until its turn has ended."""
    with gateway.following(f"conversations/{conversation}/events") as events:
        turn = gateway.post(f"conversations/{conversation}/{path}", message)["id"]
        for event in _of_turn(events, turn):
            view.show(event)
            if event["type"] == "approval_asked":
                answer(gateway, event)
            if event["type"] == "turn_ended":
                return cast("TurnDocument", {**event, "id": turn})
    raise SextonError("The gateway ended before the turn did.", hint="it goes on with it at its next start")


def _of_turn(events: Iterator[Mapping[str, Any]], turn: str) -> Iterator[Mapping[str, Any]]:
    return (event for event in events if event["turn"] == turn)


# A conversation


def _talk(
    gateway: GatewayClient, conversation: ConversationDocument, settings: Mapping[str, Any], *, history: Path
) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    console = console_for(sys.stdout)
    session: PromptSession[str] = PromptSession(history=FileHistory(str(history)), key_bindings=_line_keys())
    console.print(Text("Ask something; /help shows more.", style="dim"))
    while True:
        try:
            said = session.prompt("> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        match said.split(maxsplit=1):
            case []:
                continue
            case ["/quit"]:
                return
            case ["/help"]:
                console.print(HELP, markup=False)
            case ["/new"]:
                conversation = _conversation(gateway, None, settings)
            case ["/retry", *words]:
                _retry(gateway, conversation["id"], words[0] if words else None)
            case _:
                _answer(gateway, conversation["id"], {"text": said})


def _line_keys() -> KeyBindings:
    """Esc and Enter (on most terminals also Alt and Enter) begin a new line instead of sending the message."""
    from prompt_toolkit.key_binding import KeyBindings  # loaded by who talks, not by every command

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _retry(gateway: GatewayClient, conversation: str, text: str | None) -> None:
    record: ConversationRecordDocument = gateway.get(f"conversations/{conversation}")
    numbers = [message["number"] for message in record["messages"] if message["role"] == "user"]
    if not numbers:
        say("There is no message yet.")
        return
    _answer(gateway, conversation, {"number": numbers[-1], "text": text}, path="retry")


def _answer(gateway: GatewayClient, conversation: str, message: Mapping[str, Any], *, path: str = "messages") -> None:
    view = TurnView(sys.stdout)
    try:
        ended = _turn(gateway, conversation, message, view, answer=_ask_person, path=path)
    except KeyboardInterrupt:
        gateway.post(f"conversations/{conversation}/stop")
        say("(stopped)")
        return
    except SextonError as error:
        tell_error(error)
        return
    if ended["error"]:
        tell_error(SextonError(ended["error"], hint=ended["hint"]))


def _ask_person(gateway: GatewayClient, event: Mapping[str, Any]) -> None:
    said = answer_to(event)
    try:
        gateway.post(f"approvals/{event['approval']}", said)
    except SextonError as error:  # answered elsewhere, or nobody answered in time: the turn has gone on
        say(error.what)


# What was said


@app.command("list")
def list_conversations(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=500, help="How many.")] = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the conversations, of every way to chat."""
    found: Sequence[ConversationDocument] = connect(context, config, data).get("conversations", limit=limit)
    if wants_json(context, as_json):
        print_json(found)
        return
    now = local_clock.now()
    rows = [
        (each["id"][-8:], each["way"], from_now(parse_time(each["changed_at"]), now) or "-", each["title"])
        for each in found
    ]
    print_table(("ID", "WAY", "CHANGED", "TITLE"), rows, free=("TITLE",))


@app.command()
def show(
    context: typer.Context,
    conversation: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was said in a conversation."""
    gateway = connect(context, config, data)
    record = gateway.get(f"conversations/{segment(_known(gateway, conversation)['id'])}")
    if wants_json(context, as_json):
        print_json(record)
        return
    for message in cast("ConversationRecordDocument", record)["messages"]:
        _print_message(message)


def _print_message(message: MessageDocument) -> None:
    say(Text(message["author"] or message["role"], style="bold"))
    if message["text"]:
        say(message["text"])
    for call in message["calls"]:
        say(Text(f"  {call['server']}.{call['tool']}: {call['state']}", style="dim"))


@app.command()
def search(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="WORD", help="All of these.")],
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find messages by their words."""
    found: Sequence[FoundDocument] = connect(context, config, data).get("conversations/search", q=" ".join(words))
    if wants_json(context, as_json):
        print_json(found)
        return
    rows = [(each["conversation"][-8:], each["title"], each["role"], each["excerpt"]) for each in found]
    print_table(("ID", "TITLE", "WHO", "WHAT"), rows, free=("TITLE", "WHAT"))


@app.command()
def export(
    context: typer.Context,
    conversation: IdArgument,
    form: Annotated[Literal["markdown", "json"], typer.Option("--form", help="What it is.")] = "markdown",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Print a whole conversation, to keep it elsewhere."""
    gateway = connect(context, config, data)
    known = _known(gateway, conversation)["id"]
    sys.stdout.write(gateway.get_text(f"conversations/{segment(known)}/export?form={form}"))


@app.command()
def delete(
    context: typer.Context,
    conversation: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Remove a conversation for ever."""
    gateway = connect(context, config, data)
    known = _known(gateway, conversation)
    gateway.delete(f"conversations/{segment(known['id'])}")
    say(f"The conversation {known['title']!r} is removed.")
