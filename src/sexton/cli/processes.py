"""`sexton ps`, `sexton reap`, `sexton doctor`: what runs, ending what nobody holds, and what holds at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sexton.cli.connection import connect_if_running
from sexton.cli.gateway_client import GatewayClient, SilentGatewayError
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, wants_json
from sexton.cli.output import print_json, print_table, say, styled_state, tell_error
from sexton.cli.places import Places
from sexton.errors import UsageError
from sexton.gateway.documents import ProcessesDocument, ReapDocument, TreeDocument
from sexton.gateway.figures import age, counted, size
from sexton.gateway.holders import RunNames
from sexton.gateway.reap_documents import dry_run_document, reap_document


def add_to(app: typer.Typer) -> None:
    for command in (ps, reap, doctor):
        app.command()(command)


def ps(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Show every process tree, and who holds it.

    State, holders, leader's pid, number of processes, memory, age, boundary.  Without a running gateway: what the
    ledger says is left.
    """
    folder = places_of(context, config, data).data_dir()
    gateway = connect_if_running(context, folder)
    if gateway is not None:
        try:
            found: ProcessesDocument = gateway.get("processes")
        except SilentGatewayError as error:
            tell_error(error)  # what it holds is all the more worth knowing
        else:
            _print_held(context, gateway, found, as_json=as_json)
            return
    _print_left(context, folder, as_json=as_json, is_silent=gateway is not None)


def _print_held(context: typer.Context, gateway: GatewayClient, found: ProcessesDocument, *, as_json: bool) -> None:
    if wants_json(context, as_json):
        print_json(found)
        return
    if any(tree["holders"] for tree in found["trees"]):
        _print_trees(found["trees"], RunNames(gateway.get("jobs")))
    elif found["trees"]:
        _print_trees(found["trees"], RunNames())
    trees = _summary(found["trees"]) if found["trees"] else "No process trees"
    say(f"{trees} in the boundary {found['boundary']}.")


def _print_left(context: typer.Context, folder: Path, *, as_json: bool, is_silent: bool) -> None:
    """What the ledger tells where no gateway does."""
    found = _left_on_disk(folder)
    if wants_json(context, as_json):
        print_json(found)
        return
    if not is_silent:
        say(f"No gateway is running on {folder}.")
    if not found["trees"]:
        say("The ledger names no process trees: nothing is left.")
        return
    _print_trees(found["trees"], RunNames())
    if any(tree["state"] == "orphaned" for tree in found["trees"]):
        say("Next: end them with: sexton reap  (a starting gateway does it too)")


def _summary(trees: Sequence[TreeDocument]) -> str:
    processes = counted(sum(len(tree["pids"]) for tree in trees), "process", "processes")
    return f"{counted(len(trees), 'tree')}, {processes}, {size(sum(tree['memory'] or 0 for tree in trees))}"


def _print_trees(trees: Sequence[TreeDocument], names: RunNames) -> None:
    columns = ("NAME", "STATE", "HELD BY", "PID", "PROCESSES", "MEMORY", "AGE", "BOUNDARY")
    print_table(
        columns,
        [_tree_row(tree, names) for tree in trees],
        right=("PID", "PROCESSES", "MEMORY", "AGE"),
        free=("HELD BY",),
    )
    for tree in trees:
        for stuck in tree["stuck"]:
            say(f"{tree['name']}: pid {stuck.get('pid')} does not end: {stuck.get('why')}")


def _tree_row(tree: TreeDocument, names: RunNames) -> tuple[str | Text, ...]:
    return (
        tree["name"],
        styled_state(tree["state"]),
        ", ".join(names.names(_holders(tree))) or "-",
        str(tree["leader_pid"] or "-"),
        str(len(tree["pids"])),
        size(tree["memory"]) or "-",
        age(tree["age"]),
        tree["boundary"],
    )


def _holders(tree: TreeDocument) -> Sequence[str]:
    """Who uses a server's tree; of any other tree, its owner."""
    return tree["holders"] or ([] if tree["owner"].startswith("server:") else [tree["owner"]])


def _left_on_disk(folder: Path, *, only_orphans: bool = False) -> ProcessesDocument:
    """What the ledger names: trees that nobody keeps any more, and those of a `sexton call` that is under way."""
    from sexton.containment import list_live, list_orphans
    from sexton.gateway.record_documents import orphan_document, record_document

    now = datetime.now(UTC)
    orphans = [orphan_document(record, now) for record in list_orphans(folder)]
    live = [] if only_orphans else [record_document(record, now) for record in list_live(folder)]
    return ProcessesDocument(boundary=None, trees=[*live, *orphans])


def reap(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be ended, end nothing.")] = False,
    include_active: Annotated[
        bool, typer.Option("--include-active", help="Also end what is in use.  Its calls and runs fail.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End what nobody holds any more.

    Each tree is proven gone.  What is in use is not touched, unless you say so.  Exit status 1 if something does not
    end.
    """
    folder = places_of(context, config, data).data_dir()
    gateway = connect_if_running(context, folder)
    if gateway is None and include_active:
        raise UsageError(f"No gateway is running on {folder}, so nothing is in use.", hint="leave out --include-active")
    report = _reap(gateway, folder, dry_run=dry_run, include_active=include_active)
    if wants_json(context, as_json):
        print_json(report)
    elif dry_run:
        _print_dry_run(report)
    else:
        _print_reaped(report)
    if report["stuck"]:
        raise typer.Exit(1)


def _reap(gateway: GatewayClient | None, folder: Path, *, dry_run: bool, include_active: bool) -> ReapDocument:
    if gateway:
        request = {"dry_run": dry_run, "include_active": include_active}
        report: ReapDocument = gateway.post("reap", request, timeout=None)
        return report
    if dry_run:
        return dry_run_document(_left_on_disk(folder, only_orphans=True)["trees"])
    import anyio

    from sexton.containment import recover

    return reap_document(anyio.run(recover, folder))


_NOTHING = "Nothing to end: no tree is without its holder."


def _print_dry_run(report: ReapDocument) -> None:
    if report["would_end"]:
        _print_trees(report["would_end"], RunNames())
        say(f"{_summary(report['would_end'])} would be ended.  Nothing was.")
    else:
        say(_NOTHING)


def _print_reaped(report: ReapDocument) -> None:
    for tree in report["recovered"]:
        killed = f", {counted(len(tree['killed']), 'process', 'processes')} killed by name" if tree["killed"] else ""
        say(Text.assemble(f"{tree['name']} ({tree['owner']}): ", styled_state(tree["state"]), killed))
        if tree["escaped"]:
            pids = ", ".join(str(pid) for pid in tree["escaped"])
            say(f"  not ours to end, but of this tree by its cookie: pid {pids}")
        if tree["pending"]:
            say(f"  a container may be left: {tree['pending']}")
    for record in report["unfollowed"]:
        say(f"{record['path']}: {record['why']}")
    if report["ended"]:
        say(f"{counted(len(report['ended']), 'tree')} in use ended.")
    if report["stuck"]:
        names = ", ".join(report["stuck"])
        say(f"{counted(len(report['stuck']), 'tree')} did not end: {names}.  Every sweep tries again.")
    elif not report["recovered"] and not report["ended"]:
        say(_NOTHING)


def doctor(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Say what this host can promise.

    Each guarantee with its level, the evidence, and what would make it firmer.  Exit status 1 if there are problems.
    """
    places = places_of(context, config, data)
    folder = places.data_dir()
    gateway = connect_if_running(context, folder)
    report: Mapping[str, Any] = gateway.get("doctor", timeout=60) if gateway else _examine(folder)
    trouble = gateway.get("status")["database"] if gateway else _examine_database(places)
    report = {**report, "database": trouble}
    if wants_json(context, as_json):
        print_json(report)
    else:
        _print_diagnosis(report)
    if report["boundary"] is None or report["problems"] or trouble:
        raise typer.Exit(1)


def _examine(folder: Path) -> Mapping[str, Any]:
    import anyio

    from sexton.containment import examine
    from sexton.gateway.plain import plain

    report: Mapping[str, Any] = plain(anyio.run(examine, folder))
    return report


def _examine_database(places: Places) -> Mapping[str, Any] | None:
    """What keeps a gateway from using the database of the settings; None: nothing, or there are no settings to read."""
    import anyio

    from sexton.daemon.settings import load_settings
    from sexton.database import Database, DatabaseError

    try:
        location = load_settings(places.find_config()).database or places.data_dir() / "sexton.db"
        anyio.run(Database.examine, location)
    except DatabaseError as error:
        return {"failure": str(error.failure), "what": error.what, "hint": error.hint}
    except UsageError:  # `sexton up` tells, with file and line.
        return None
    return None


def _print_diagnosis(report: Mapping[str, Any]) -> None:
    say(Text.assemble("boundary: ", (report["backend"], "bold")))
    for guarantee in report["guarantees"]:
        say(Text.assemble("\n", (guarantee["name"], "bold"), ": ", styled_state(guarantee["level"])))
        say(f"  {guarantee['evidence']}")
        if guarantee["fix"]:
            say(f"  Firmer: {guarantee['fix']}")
    if trouble := report["database"]:
        say(Text.assemble("\n", ("database", "bold"), ": ", styled_state(trouble["failure"])))
        say(f"  {trouble['what']}")
        say(f"  Next: {trouble['hint']}")
    if report["not_covered"]:
        say(Text("\nNot covered anywhere", style="bold"))
        for line in report["not_covered"]:
            say(f"  {line}")
    if report["problems"]:
        say(Text("\nProblems", style="bold red"))
        for line in report["problems"]:
            say(f"  {line}")
