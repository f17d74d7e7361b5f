"""What `sexton jobs add` was given, as the API wants it (pure but for the clock and the machine's time zone)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from sexton.cli.tool_arguments import parse_object
from sexton.daemon import parse_duration
from sexton.errors import UsageError

_UTC = ("Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal")


def parse_span(option: str, text: str) -> float:
    """Seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"The value of {option} {error}.") from error


def parse_schedule(*, every: str | None, cron: str | None, at: str | None, zone: ZoneInfo) -> dict[str, Any] | None:
    """The one schedule that was given; None if none was."""
    given = [name for name, value in (("--every", every), ("--cron", cron), ("--at", at)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were both given.", hint="a job has one schedule: choose one")
    if every is not None:
        return {"every": parse_span("--every", every)}
    if cron is not None:
        return {"cron": cron}
    return None if at is None else {"at": _future(at, zone, now=datetime.now(UTC)).isoformat()}


def _future(text: str, zone: ZoneInfo, *, now: datetime) -> datetime:
    if (moment := parse_moment(text, zone, now=now)) <= now:
        raise UsageError(
            f"The value of --at is {text!r}, which has passed.",
            hint="name a time to come, such as 18:00 or +10m; a job without --at runs by hand",
        )
    return moment


def parse_moment(text: str, zone: ZoneInfo, *, now: datetime) -> datetime:
    """`2026-12-24T18:00` or `18:00` (today or, if that has passed, tomorrow) in `zone`, or `+10m` from now."""
    said = text.strip()
    if said.startswith("+"):
        return now + timedelta(seconds=parse_span("--at", said[1:]))
    try:
        if ":" in said and "-" not in said[1:]:
            return _next_at(time.fromisoformat(said), now.astimezone(zone))
        moment = datetime.fromisoformat(said)
    except ValueError as error:
        raise UsageError(
            f"The value of --at is {text!r}, which is no time.", hint="write 2026-12-24T18:00, 18:00 or +10m"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _next_at(wall: time, here: datetime) -> datetime:
    today = datetime.combine(here.date(), wall, wall.tzinfo or here.tzinfo)
    return (
        today if today > here else datetime.combine(here.date() + timedelta(days=1), wall, wall.tzinfo or here.tzinfo)
    )


def parse_action(
    *,
    call: str | None,
    arguments: str | None,
    command: bool,
    argv: Sequence[str],
    prompt: str | None = None,
    servers: Sequence[str] = (),
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Exactly one of a tool call, a program and a prompt; a program starts in the folder where this was typed."""
    given = [call is not None, command, prompt is not None].count(True)
    if given != 1:
        raise UsageError(
            "A job does one thing, and this one does " + ("several." if given else "nothing."),
            hint="give --call SERVER.TOOL (with --arguments JSON), --command -- PROGRAM ARGUMENT …, or --prompt TEXT",
        )
    if (servers or models) and prompt is None:
        raise UsageError(f"--{'server' if servers else 'model'} belongs to --prompt.")
    if arguments is not None and call is None:
        raise UsageError("--arguments belongs to --call.", hint="write a program's arguments after it")
    if call is not None:
        return _call_action(call, arguments, argv)
    if prompt is not None:
        return _prompt_action(prompt, servers, models, argv)
    if not argv:
        raise UsageError("--command is given, but no program.", hint="put it after two dashes: --command -- PROGRAM …")
    return {"kind": "command", "argv": list(argv), "cwd": str(Path.cwd())}


def _prompt_action(prompt: str, servers: Sequence[str], models: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    if argv:
        raise UsageError(f"{argv[0]!r} was not expected.", hint="put the whole prompt into quotes: --prompt '…'")
    action: dict[str, Any] = {"kind": "prompt", "prompt": prompt, "servers": list(servers)}
    return action | ({"models": list(models)} if models else {})


def _call_action(call: str, arguments: str | None, argv: Sequence[str]) -> dict[str, Any]:
    if argv:
        raise UsageError(f"{argv[0]!r} was not expected.", hint="give a tool's arguments as JSON: --arguments '{…}'")
    server, dot, tool = call.partition(".")
    if not (server and dot and tool):
        raise UsageError(
            f"--call is {call!r}; it must be SERVER.TOOL.", hint="see the tools: sexton servers tools SERVER"
        )
    parsed = {} if arguments is None else parse_object(arguments, what="The --arguments")
    return {"kind": "call", "server": server, "tool": tool, "arguments": parsed}


def local_zone_name() -> str:
    """The machine's time zone by name: $TZ, or where /etc/localtime points; UTC if neither says."""
    named = os.environ.get("TZ", "").lstrip(":")
    linked = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    known = available_timezones()
    found = next((name for name in (named, linked) if name in known), "UTC")
    return "UTC" if found in _UTC else found
