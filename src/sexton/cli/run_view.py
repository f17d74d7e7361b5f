"""One run, shown and followed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from rich.text import Text

from sexton.cli import local_clock
from sexton.cli.gateway_client import GatewayClient, segment
from sexton.cli.output import console_for, print_facts, print_json, printable, say, styled_state
from sexton.errors import SextonError
from sexton.gateway.documents import EventDocument, RunDocument, RunRecordDocument, ToolCallDocument
from sexton.gateway.figures import duration, first_line, local_time, parse_time

_ENDED = frozenset({"run.ended", "run.skipped", "run.missed", "run.lost"})


def short_id(run_id: str) -> str:
    """The last eight digits, which differ; the first ones are the time.  The API takes them for the whole."""
    return run_id[-8:]


def show(record: RunRecordDocument) -> None:
    """Everything that was kept of it, for a person."""
    run, now = record["run"], local_clock.now()
    facts: list[tuple[str, str | Text]] = [("state", styled_state(run["state"]))]
    optional = (
        ("reason", run["reason"] if run["reason"] != run["state"] else ""),
        ("slot", local_time(parse_time(run["slot"]), now)),
        ("slots", f"{run['count']}, until {local_time(parse_time(run['slot_end']), now)}" if run["count"] > 1 else ""),
        ("started", local_time(parse_time(run["started_at"]), now)),
        ("took", duration(run["seconds"])),
        ("because", run["trigger"].replace("_", " ")),
        ("attempt", str(run["attempt"]) if run["attempt"] > 1 else ""),
        ("on", run["node"]),
        *((key.replace("_", " "), str(value)) for key, value in run["details"].items() if not isinstance(value, dict)),
    )
    facts += [(name, value) for name, value in optional if value]
    print_facts(f"{run['job']} {run['id']}", facts)
    _print_part("error", run["error"])
    _print_part("log", "\n".join(f"{line['at'][11:23]} {line['text']}" for line in record["log"]))
    _print_part("calls", "\n".join(map(_call_line, record.get("calls", ()))))
    _print_part("output", record["output"])


def _call_line(call: ToolCallDocument) -> str:
    arguments = json.dumps(call["arguments"], ensure_ascii=False) if call["arguments"] else ""
    told = "" if call["state"] == "ok" else f" {call['state']}: {first_line(call['text'])}"
    line = f"{call['started_at'][11:23]} {call['server']}.{call['tool']} {arguments} {duration(call['seconds'])}{told}"
    return " ".join(line.split())


def _print_part(title: str, text: str | None) -> None:
    if text:
        say(Text(f"\n{title}", style="bold"))
        say(text.rstrip("\n"))


def follow(gateway: GatewayClient, run_id: str, *, after: int, as_json: bool) -> None:
    """Stay with a run until it has ended, then print its output.  Progress goes to standard error.

    Raises `SextonError` if it did not run to a good end, or the gateway went away.
    """
    progress = console_for(sys.stderr)
    for event in _events_of(gateway, run_id, after=after):
        if event["kind"] == "run.progress" and not as_json:
            progress.print(printable(str(event["data"].get("text", ""))), soft_wrap=True, style="dim")
        if event["kind"] in _ENDED:
            break
    record: RunRecordDocument = gateway.get(f"runs/{segment(run_id)}")
    if as_json:
        print_json(record)
    elif record["output"] and not _is_told_by_error(record):
        say(record["output"].rstrip("\n"))
    _raise_unless_ran(record["run"])


def _is_told_by_error(record: RunRecordDocument) -> bool:
    """A tool that says why it failed says so in its output, and the error quotes it."""
    return bool(record["output"]) and str(record["output"]).strip() in (record["run"]["error"] or "")


def _events_of(gateway: GatewayClient, run_id: str, *, after: int) -> Iterator[EventDocument]:
    return (event for event in gateway.events(after=after) if event["data"].get("run") == run_id)


def _raise_unless_ran(run: RunDocument) -> None:
    if run["state"] == "ran":
        return
    took = f" after {duration(run['seconds'])}" if run["seconds"] is not None else ""
    why, _, hint = (run["error"] or run["reason"] or "no reason was given").partition("\nNext: ")
    if run["state"] in ("queued", "running"):
        why = "the gateway is stopping, or lost it"
    raise SextonError(
        f"The run of {run['job']!r} {_ended_how(run['state'])}{took}: {why}",
        hint=hint or f"see everything that was kept: sexton runs show {short_id(run['id'])}",
    )


def _ended_how(state: str) -> str:
    return {"failed": "failed", "queued": "has not started", "running": "has not ended"}.get(state, f"was {state}")
