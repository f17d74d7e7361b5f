"""`sexton servers`: the MCP servers, their tools, and starting one anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, remember, wants_json
from sexton.cli.output import print_json, print_table, printable, say, styled_state
from sexton.errors import SextonError
from sexton.gateway.documents import CheckDocument, ServerDocument, ToolDocument
from sexton.gateway.figures import age, counted, duration, first_line, size
from sexton.gateway.holders import RunNames

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
    """List the servers (the default)."""
    gateway = connect(context, config, data)
    found: Sequence[ServerDocument] = gateway.get("servers")
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No servers are configured.  Add one to sexton.toml, or: sexton servers import FILE")
    else:
        names = RunNames(gateway.get("jobs")) if any(server["holders"] for server in found) else RunNames()
        _print_servers(found, names)


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
    """
    gateway = connect(context, config, data)
    found: Sequence[ToolDocument] = gateway.get(f"servers/{segment(name)}/tools", timeout=None)
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

    Exit status 1 if it does not work.
    """
    gateway = connect(context, config, data)
    found: CheckDocument = gateway.post(f"servers/{segment(name)}/check", timeout=None)
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
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many of the last ones.")] = 200,
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
