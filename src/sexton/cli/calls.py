"""`sexton call`: one tool call, now, with and without a running gateway."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from sexton.cli.connection import connect_if_running
from sexton.cli.job_options import parse_span
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, wants_json
from sexton.cli.output import print_json, say
from sexton.cli.places import Places
from sexton.cli.tool_arguments import parse_arguments
from sexton.errors import SextonError
from sexton.gateway.documents import CallDocument


def add_to(app: typer.Typer) -> None:
    app.command()(call)


def call(
    context: typer.Context,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="The server's name in the configuration.")],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool; see: sexton servers tools SERVER.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARGUMENTS]", help="One JSON object, or key=value pairs (key:=JSON, key==TEXT)."),
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="End the call after so long.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call one tool and print its answer.

    Exit status 1 if the tool says that it failed.  A running gateway does it on its warm server; without one the
    server is started for this call and ended after it.
    """
    request: dict[str, Any] = {"server": server, "tool": tool, "arguments": parse_arguments(arguments or [])}
    if timeout is not None:
        request["timeout"] = parse_span("--timeout", timeout)
    answer = _call(context, places_of(context, config, data), request)
    if wants_json(context, as_json):
        print_json(answer)
    elif answer["is_error"]:
        raise SextonError(f"{server}.{tool} failed: {answer['text']}")
    elif answer["text"]:
        say(answer["text"].rstrip("\n"))
    if answer["is_error"]:
        raise typer.Exit(1)


def _call(context: typer.Context, places: Places, request: dict[str, Any]) -> CallDocument:
    if gateway := connect_if_running(context, places.data_dir()):
        answer: CallDocument = gateway.post("calls", request, timeout=None)
        return answer
    return _call_alone(places, request)


def _call_alone(places: Places, request: dict[str, Any]) -> CallDocument:
    """Without a gateway: the server is started for this call and proven gone after it."""
    settings, folder = places.find_config(), places.data_dir()
    import anyio

    from sexton.daemon import call_once

    return anyio.run(partial(call_once, settings, folder, **({"timeout": None} | request)))
