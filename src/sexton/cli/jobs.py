"""`sexton jobs`: what is to run, and when."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.text import Text

from sexton.cli import local_clock, run_view
from sexton.cli.connection import connect
from sexton.cli.gateway_client import segment
from sexton.cli.job_options import local_zone_name, parse_action, parse_schedule, parse_span
from sexton.cli.options import ConfigOption, DataOption, JsonOption, remember, wants_json
from sexton.cli.output import print_facts, print_json, print_table, say, styled_state
from sexton.errors import UsageError
from sexton.gateway.documents import JobDocument, NextDocument, RunDocument
from sexton.gateway.figures import duration, from_now, interval, local_time, parse_time

app = typer.Typer(help="Show, add, run and pause jobs.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]


@app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """What is to run, and when."""
    remember(context, config=config, data=data, as_json=as_json)
    if context.invoked_subcommand is None:
        list_jobs(context)


@app.command("list")
def list_jobs(
    context: typer.Context, config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the jobs (the default)."""
    found: Sequence[JobDocument] = connect(context, config, data).get("jobs")
    if wants_json(context, as_json):
        print_json(found)
    elif not found:
        say("No jobs yet.  Add one to sexton.toml, or: sexton jobs add NAME --every 30s --call server.tool")
    else:
        now = local_clock.now()
        rows = [_job_row(job, now) for job in found]
        print_table(("JOB", "WHEN", "DOES", "NEXT", "LAST RUN"), rows, free=("DOES",))


def _job_row(job: JobDocument, now: datetime) -> tuple[str | Text, ...]:
    last = job["last_run"]
    coming = _paused(job, now) if job["paused"] else Text(from_now(parse_time(job["next_run"]), now) or "-")
    if job["active_runs"]:
        coming = styled_state(job["active_runs"][0]["state"])
    return job["name"], when(job), does(job["action"]), coming, _last_run(last, now)


def _paused(job: JobDocument, now: datetime) -> Text:
    since = local_time(parse_time(job["paused_since"]), now)
    return Text.assemble(styled_state("paused"), f" since {since}" if since else "")


def _last_run(last: RunDocument | None, now: datetime) -> Text:
    if last is None:
        return Text("-")
    ended = from_now(parse_time(last["ended_at"] or last["created_at"]), now)
    return Text.assemble(styled_state(last["state"]), f" {ended}")


def when(job: JobDocument) -> str:
    """Its schedule, as it would be typed."""
    match job["schedule"]:
        case {"every": seconds}:
            return f"every {interval(float(seconds))}"
        case {"cron": expression}:
            return f"{expression}" if job["timezone"] == "UTC" else f"{expression} {job['timezone']}"
        case {"at": time}:
            return f"at {datetime.fromisoformat(time).astimezone(_zone(job['timezone'])):%Y-%m-%d %H:%M:%S %Z}"
        case _:
            return "by hand"


def does(action: Mapping[str, Any]) -> str:
    """What it does, in one short line."""
    match action:
        case {"kind": "call", "server": server, "tool": tool}:
            return f"{server}.{tool}"
        case {"kind": "command", "argv": argv}:
            return shlex.join(argv)
        case {"kind": "prompt", "prompt": prompt}:
            return f"asks: {' '.join(str(prompt).split())}"
        case _:
            return str(action.get("kind", ""))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise UsageError(
            f"There is no time zone {name!r} on this machine.", hint="use a name such as Europe/Amsterdam, or UTC"
        ) from error


@app.command()
def show(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job."""
    job: JobDocument = connect(context, config, data).get(f"jobs/{segment(name)}")
    if wants_json(context, as_json):
        print_json(job)
        return
    now = local_clock.now()
    facts: list[tuple[str, str | Text]] = [
        ("runs", when(job)),
        ("does", does(job["action"])),
        *_action_facts(job["action"], job["deliver"]),
        ("next", _paused(job, now) if job["paused"] else _next_text(job, now)),
        ("last", _last_run(job["last_run"], now)),
        ("policies", _policies(job)),
        *_deliver_facts(job),
        ("from", _origin(job)),
    ]
    print_facts(job["name"], facts)


def _next_text(job: JobDocument, now: datetime) -> str:
    coming = parse_time(job["next_run"])
    return f"{local_time(coming, now)} ({from_now(coming, now)})" if coming else "-"


def _action_facts(action: Mapping[str, Any], deliver: Sequence[str]) -> list[tuple[str, str | Text]]:
    """Names of environment variables only: their values may be secret."""
    facts: list[tuple[str, str | Text]] = []
    if action.get("arguments"):
        facts.append(("arguments", json.dumps(action["arguments"], ensure_ascii=False)))
    if action.get("kind") == "prompt" and action.get("servers"):
        facts.append(("servers", ", ".join(action["servers"])))
    if may := action.get("may"):
        targets = dict.fromkeys([*action.get("send_to", ()), *deliver]) if "send" in may else ()
        facts.append(("may", ", ".join(may) + (f" (to {', '.join(targets)})" if targets else "")))
    if action.get("cwd"):
        facts.append(("folder", str(action["cwd"])))
    if action.get("env"):
        facts.append(("environment", ", ".join(action["env"])))
    return facts


def _deliver_facts(job: JobDocument) -> list[tuple[str, str | Text]]:
    when = {"output": ", if it said anything or failed", "success": ", if it went well", "failure": ", if it failed"}
    return [("tells", ", ".join(job["deliver"]) + when.get(job["deliver_on"], ""))] if job["deliver"] else []


def _origin(job: JobDocument) -> str:
    """Where it comes from: the file, a person, or an agent that has scheduled it."""
    if job["origin"] == "config":
        return "the configuration"
    match job["action"]:
        case {"job": str(maker)}:
            return f"the job {maker}, which made it"
        case {"chat": str(chat)}:
            return f"the chat {run_view.short_id(chat)}, which made it"
        case _:
            return "sexton jobs add"


def _policies(job: JobDocument) -> str:
    parts = [f"overlap {job['overlap']}", f"catch up {job['catch_up']} within {interval(job['catch_up_window'])}"]
    if job["retries"]:
        parts.append(f"{job['retries']} retries, the first after {duration(job['retry_backoff'])}")
    spans = {"timeout": job["timeout"], "idle timeout": job["idle_timeout"], "jitter": job["jitter"]}
    parts += [f"{name} {interval(span)}" for name, span in spans.items() if span]
    if job["node"] or job["labels"]:
        parts.append("on " + " ".join([job["node"] or "a node", *(f"with {label}" for label in job["labels"])]))
    if job["priority"]:
        parts.append(f"priority {job['priority']}")
    return ", ".join(parts)


@app.command("next")
def next_times(
    context: typer.Context,
    name: NameArgument,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, max=1000, help="How many times.")] = 5,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show when a job starts next.

    In its own time zone and in yours.
    """
    found: NextDocument = connect(context, config, data).get(f"jobs/{segment(name)}/next", count=count)
    if wants_json(context, as_json):
        print_json(found)
        return
    if found["paused"]:
        say(f"{name} is paused; resumed, it would start at:")
    if not found["times"]:
        say(f"{name} has no time to come; it runs by hand: sexton jobs run {name}")
        return
    zone, now = _zone(found["timezone"]), local_clock.now()
    times = [datetime.fromisoformat(time) for time in found["times"]]
    rows = [
        (f"{time.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}", f"{time.astimezone():%a %H:%M:%S %Z}", from_now(time, now))
        for time in times
    ]
    print_table((found["timezone"], "LOCAL", "FROM NOW"), rows)


@app.command()
def add(
    context: typer.Context,
    name: NameArgument,
    argv: Annotated[
        list[str] | None, typer.Argument(metavar="ARGV", help="With --command: the program and its arguments.")
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="DURATION", help="An interval: 30s, 10m, 1h30m.")] = None,
    cron: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="'30 7 * * mon-fri', '@daily'.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Once: 2026-12-24T18:00, 18:00, or +10m.")] = None,
    call: Annotated[str | None, typer.Option(metavar="SERVER.TOOL", help="Call this tool.")] = None,
    arguments: Annotated[str | None, typer.Option(metavar="JSON", help="The tool's arguments.")] = None,
    command: Annotated[bool, typer.Option("--command", help="Run the program after `--`.")] = False,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Ask an agent this.")] = None,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="SERVER", help="Whose tools the prompt gets; may be given several times."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="Who answers the prompt; the next one if it cannot."),
    ] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="For --cron and --at; default: yours.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="A run ends after so long.")] = None,
    overlap: Annotated[
        Literal["skip", "queue", "replace", "parallel"] | None, typer.Option(help="When one is still at work.")
    ] = None,
    catch_up: Annotated[
        Literal["none", "latest", "all"] | None, typer.Option(help="Times that passed while no gateway ran.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="How often a failed run is tried again.")
    ] = None,
    deliver: Annotated[
        list[str] | None, typer.Option(metavar="TARGET", help="Tell how its runs ended; may be given several times.")
    ] = None,
    deliver_on: Annotated[
        Literal["always", "output", "success", "failure"] | None, typer.Option(help="Which ends are told.")
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", metavar="NODE", help="The only node that it may run on.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LABEL", help="What its node must have; may be given several times."),
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Add it, but let it wait for `resume`.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a job to the running gateway.

    It is kept over restarts.  Without --every, --cron or --at it runs by hand only.
    """
    zone = timezone or local_zone_name()
    document: dict[str, Any] = {
        "name": name,
        "schedule": parse_schedule(every=every, cron=cron, at=at, zone=_zone(zone)),
        "action": parse_action(
            call=call,
            arguments=arguments,
            command=command,
            argv=argv or [],
            prompt=prompt,
            servers=server or (),
            models=model or (),
        ),
        "timezone": zone,
        "timeout": None if timeout is None else parse_span("--timeout", timeout),
        "overlap": overlap,
        "catch_up": catch_up,
        "retries": retries,
        "deliver": deliver or None,
        "deliver_on": deliver_on,
        "node": node,
        "labels": label or None,
        "paused": paused,
    }
    given = {key: value for key, value in document.items() if value is not None}
    job: JobDocument = connect(context, config, data).post("jobs", given)
    if wants_json(context, as_json):
        print_json(job)
        return
    now = local_clock.now()
    coming = "paused" if job["paused"] else f"next {from_now(parse_time(job['next_run']), now)}"
    say(f"{name} added: {when(job)}, {does(job['action'])}" + (f"; {coming}" if job["schedule"] else ""))


@app.command()
def run(
    context: typer.Context,
    name: NameArgument,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow it to its end; exit status 1 if it fails.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job now.

    With --wait its output is printed when it ends, and its progress on standard error until then.
    """
    gateway = connect(context, config, data)
    after = gateway.last_event_id() if wait else 0
    started: RunDocument = gateway.post(f"jobs/{segment(name)}/run")
    if wait:
        run_view.follow(gateway, started["id"], after=after, as_json=wants_json(context, as_json))
    elif wants_json(context, as_json):
        print_json(started)
    else:
        short = run_view.short_id(started["id"])
        say(f"{name} runs as {short}.  See what becomes of it: sexton runs show {short}")


@app.command()
def pause(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a job's times pass unused.

    When it is resumed they are recorded as skipped.
    """
    _change(context, config, data, as_json, path=f"jobs/{segment(name)}/pause", said=f"{name} is paused.")


@app.command()
def resume(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a paused job run again."""
    _change(context, config, data, as_json, path=f"jobs/{segment(name)}/resume", said=f"{name} is resumed")


@app.command()
def remove(
    context: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a job that was added.

    A job of the configuration is removed there.  The runs stay in the history.
    """
    removed = connect(context, config, data).delete(f"jobs/{segment(name)}")
    if wants_json(context, as_json):
        print_json(removed)
    else:
        say(f"{name} is removed.")


def _change(
    context: typer.Context, config: Path | None, data: Path | None, as_json: bool, *, path: str, said: str
) -> None:
    job: JobDocument = connect(context, config, data).post(path)
    if wants_json(context, as_json):
        print_json(job)
        return
    coming = from_now(parse_time(job["next_run"]), local_clock.now())
    say(said if said.endswith(".") else f"{said}; next {coming or 'by hand'}.")
