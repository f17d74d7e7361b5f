"""`sexton servers`: the MCP servers, their tools, and starting one anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sexton.cli.connection import connect, connect_if_running
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, remember, wants_json
from sexton.cli.output import print_json, print_table, printable, say, styled_state
from sexton.cli.places import Places
from sexton.errors import SextonError
from sexton.gateway.documents import CheckDocument, ServerDocument, ToolDocument
from sexton.gateway.figures import age, counted, duration, first_line, size
from sexton.gateway.holders import RunNames

_Found = TypeVar("_Found")

app = typer.Typer(help="Show and check MCP servers.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The server's name in the configuration.")]


@app.callback(invoke_without_command=True)
def servers(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """The MCP servers."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_servers(context)


@app.command("list")
def list_servers(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the servers (the default).

    Without a running gateway: those of the configuration.
    """
    places = places_of(context, config, data)
    gateway = connect_if_running(context, places.data_dir())
    found: Sequence[ServerDocument] = gateway.get("servers") if gateway else _list_alone(places)
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No servers are configured.  Add one to sexton.toml, or: sexton servers import FILE")
    else:
        is_held = gateway is not None and any(server["holders"] for server in found)
        _print_servers(found, RunNames(gateway.get("jobs")) if gateway and is_held else RunNames())
        if gateway is None:
            say("No gateway is running.  Start one: sexton up")


def _print_servers(found: Sequence[ServerDocument], names: RunNames) -> None:
    columns = ("SERVER", "STATE", "SHARING", "HELD BY", "PROCESSES", "MEMORY", "AGE", "CALLS")
    rows = [
        (
            server["name"],
            styled_state(server["state"]),
            server["sharing"],
            ", ".join(names.names(server["holders"])) or "-",
            str(len(server["pids"])),
            size(server["memory"]) or "-",
            age(server["age"]) or "-",
            str(server["calls"]),
        )
        for server in found
    ]
    print_table(columns, rows, right=("PROCESSES", "MEMORY", "AGE", "CALLS"), free=("HELD BY",))
    for server in found:
        if server["last_error"]:
            say(f"{server['name']}: {first_line(server['last_error'])}")


@app.command()
def tools(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the tools of one server.

    From the catalogue: the server is started only if its tools are not known yet.
    Without a running gateway it is ended after it.
    """
    places = places_of(context, config, data)
    found: Sequence[ToolDocument]
    if gateway := connect_if_running(context, places.data_dir()):
        found = gateway.get(f"servers/{segment(name)}/tools", timeout=None)
    else:
        found = _list_tools_alone(places, name)
    if wants_json(context, as_json):
        print_json(found)
    else:
        print_table(
            ("TOOL", "ARGUMENTS", "WHAT IT DOES"),
            [_tool_row(tool) for tool in found],
            free=("WHAT IT DOES", "ARGUMENTS"),
        )
        say(f"{counted(len(found), 'tool')}.  Call one: sexton call {name} TOOL key=value …")


def _tool_row(tool: ToolDocument) -> tuple[str, str, str]:
    schema = tool["input_schema"]
    required = set(schema.get("required", ()))
    names = [name if name in required else f"[{name}]" for name in schema.get("properties", {})]
    return tool["name"], " ".join(names), first_line((tool["description"] or tool["title"] or "").split(". ")[0])


@app.command()
def check(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Use one server for a moment and say what came of it.

    Exit status 1 if it does not work.  Without a running gateway it is started for this and ended after it.
    """
    places = places_of(context, config, data)
    found: CheckDocument
    if gateway := connect_if_running(context, places.data_dir()):
        found = gateway.post(f"servers/{segment(name)}/check", timeout=None)
    else:
        found = _check_alone(places, name)
    if wants_json(context, as_json):
        print_json(found)
    elif found["ok"]:
        said = f"{found['server_info'] or name}, protocol {found['protocol_version']}"
        say(f"{name} works: {said}, {counted(found['tools'], 'tool')}, ready in {duration(found['seconds'])}")
    if not found["ok"]:
        raise SextonError(found["error"] or f"The server {name!r} does not work.", hint=found["hint"])


@app.command()
def restart(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the next holders a fresh process.

    New holders wait for it.  Who holds the old one keeps it for 10 s at most; then their calls fail.  Also lets a
    server that failed too often start again.
    """
    gateway = connect(context, config, data)
    found: ServerDocument = gateway.post(f"servers/{segment(name)}/restart", timeout=None)
    if wants_json(context, as_json):
        print_json(found)
    else:
        held = f"; held by {', '.join(RunNames().names(found['holders']))}" if found["holders"] else ""
        say(f"{name} is {found['state']}{held}.")


@app.command()
def stop(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the processes of one server now.

    Whoever uses it: their calls fail.  It starts again when it is next needed.
    """
    gateway = connect(context, config, data)
    found: ServerDocument = gateway.post(f"servers/{segment(name)}/stop", timeout=None)
    if wants_json(context, as_json):
        print_json(found)
    else:
        say(f"{name} is {found['state']}.")


@app.command()
def log(
    context: typer.Context,
    name: NameArgument,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=1, max=10_000, help="How many of the last ones.")
    ] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come, until Ctrl-C.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Show what one server wrote to its stderr.

    Each line with its time.
    """
    gateway = connect(context, config, data)
    path = f"servers/{segment(name)}/log"
    if follow:
        for text in gateway.follow_text(path, lines=lines, follow="true"):
            typer.echo(printable(text).plain, nl=False)
    else:
        typer.echo(printable(gateway.get_text(path, lines=lines)).plain, nl=False)


@app.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="mcpServers JSON, or a hermes config.yaml.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be added, write nothing.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take over the servers of another program.

    Reads the mcpServers JSON of Claude Desktop, Claude Code, Cursor and VS Code, and a hermes config.yaml, and adds
    them to sexton.toml.  Secrets stay behind as ${env:NAME}.
    """
    from sexton.daemon import import_servers

    report = import_servers(file, places_of(context, config, data).config_to_extend(), dry_run=dry_run)
    if wants_json(context, as_json):
        print_json(asdict(report) | {"source": str(report.source), "target": str(report.target)})
    else:
        say(report.text())


# Without a gateway


def _list_alone(places: Places) -> Sequence[ServerDocument]:
    where = _settings_and_data(places)
    from sexton.daemon import list_servers_once

    return _run_alone(partial(list_servers_once, *where))


def _list_tools_alone(places: Places, name: str) -> Sequence[ToolDocument]:
    where = _settings_and_data(places)
    from sexton.daemon import list_tools_once

    return _run_alone(partial(list_tools_once, *where, server=name))


def _check_alone(places: Places, name: str) -> CheckDocument:
    where = _settings_and_data(places)
    from sexton.daemon import check_once

    return _run_alone(partial(check_once, *where, server=name))


def _settings_and_data(places: Places) -> tuple[Path, Path]:
    return places.find_config(), places.data_dir()


def _run_alone(work: Callable[[], Awaitable[_Found]]) -> _Found:
    import anyio

    return anyio.run(work)
