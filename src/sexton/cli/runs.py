"""`sexton runs`: what became of each slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from sexton.cli import local_clock, run_view
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_json, print_table, say, styled_state
from sexton.gateway.documents import RunDocument, RunRecordDocument
from sexton.gateway.figures import duration, first_line, local_time, parse_time

app = typer.Typer(help="Show and cancel runs.")

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or the end of it as the listing shows it.")
]
JobOption = Annotated[str | None, typer.Option("--job", "-j", metavar="NAME", help="Only the runs of this job.")]
StateOption = Annotated[
    str | None, typer.Option("--state", "-s", metavar="STATE", help="Only runs in this state: ran, failed, …")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="How many at most.")]


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    job: JobOption = None,
    state: StateOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """What became of each slot of each job, the newest first."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_runs(context, job, state, limit)


@app.command("list")
def list_runs(
    context: typer.Context,
    job: JobOption = None,
    state: StateOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest runs (the default)."""
    gateway = connect(context, config, data)
    found: Sequence[RunDocument] = gateway.get("runs", job=job, state=state, limit=limit)
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No runs yet." if job is None and state is None else "No such runs.")
    else:
        now = local_clock.now()
        rows = [_row(run, now) for run in found]
        print_table(("RUN", "JOB", "STATE", "WHEN", "TOOK", "RESULT"), rows, right=("TOOK",), free=("RESULT",))


def _row(run: RunDocument, now: datetime) -> tuple[str | Text, ...]:
    began = parse_time(run["started_at"] or run["slot"] or run["created_at"])
    many = f" ({run['count']} slots)" if run["count"] > 1 else ""
    return (
        run_view.short_id(run["id"]),
        run["job"],
        styled_state(run["state"]) + many,
        local_time(began, now),
        duration(run["seconds"]),
        result_line(run),
    )


def result_line(run: RunDocument) -> str:
    """What to know of it in one line: what it said, or why it did not."""
    if run["state"] == "ran":
        return first_line(run["output"])
    return first_line(run["error"] or run["reason"] or run["output"])


@app.command()
def show(
    context: typer.Context,
    run: IdArgument,
    output: Annotated[bool, typer.Option("--output", "-o", help="Only the output, as it is.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run, with its log and output."""
    gateway = connect(context, config, data)
    if output:
        typer.echo(gateway.get_text(f"runs/{segment(run)}/output"), nl=False)
        return
    record: RunRecordDocument = gateway.get(f"runs/{segment(run)}")
    if wants_json(context, as_json):
        print_json(record)
    else:
        run_view.show(record)


@app.command()
def cancel(
    context: typer.Context,
    run: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a run that waits or is under way.

    With every process that it started.
    """
    gateway = connect(context, config, data)
    ended: RunDocument = gateway.post(f"runs/{segment(run)}/cancel", timeout=None)
    if wants_json(context, as_json):
        print_json(ended)
    elif ended["state"] in ("queued", "running"):
        say(f"{ended['job']} {run_view.short_id(ended['id'])} is told to end.")
    else:
        say(f"{ended['job']} {run_view.short_id(ended['id'])} is {ended['state']}.")
