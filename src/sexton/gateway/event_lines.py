"""From an event of the journal to the line that a person reads of it, or to none (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sexton.gateway.figures import counted, duration, first_line


class Mark(Enum):
    """What kind of news a line is: its symbol, the one where only ASCII can be shown, its style."""

    BEGAN = ("▶", ">", "cyan")
    DONE = ("✔", "+", "green")
    FAILED = ("✘", "x", "red")
    WARNING = ("!", "!", "yellow")
    UP = ("●", "o", "green")
    COMING = ("○", ".", "cyan")
    DOWN = ("○", ".", "dim")
    SHARED = ("◆", "*", "magenta")
    NOTE = ("·", "-", "dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """`details` are further lines of an error, `hint` is what to do next, on a line of its own."""

    mark: Mark
    text: str
    details: tuple[str, ...] = ()
    hint: str | None = None


Data = Mapping[str, Any]


def line_of(kind: str, data: Data) -> EventLine | None:
    """The line for an event; None for what only programs care about.  Holders are named as the data names them."""
    if teller := _TELLERS.get(kind):
        return teller(data)
    return _told_problem(data) if data.get("what") else None


def _run_started(data: Data) -> EventLine:
    how = {"manual": " by hand", "catch_up": " late, to catch up", "retry": f" again, attempt {data.get('attempt')}"}
    return EventLine(mark=Mark.BEGAN, text=f"run {_short(data)} started{how.get(str(data.get('trigger')), '')}")


def _run_ended(data: Data) -> EventLine:
    took = f" in {duration(data['seconds'])}" if data.get("seconds") is not None else ""
    match data.get("state"):
        case "ran":
            said = first_line(data.get("output"))
            return EventLine(mark=Mark.DONE, text=f"ran{took}" + (f": {said}" if said else ""))
        case "failed":
            what, details, hint = _split_error(data.get("error") or data.get("reason"))
            after = took.replace(" in ", " after ")
            text = f"failed{after}" + (f": {what}" if what else "")
            return EventLine(mark=Mark.FAILED, text=text, details=details, hint=hint)
        case state:
            reason = first_line(data.get("reason") or data.get("error"))
            after = took.replace(" in ", " after ")
            return EventLine(mark=Mark.WARNING, text=f"{state}{after}" + (f": {reason}" if reason else ""))


def _run_left_out(word: str) -> Callable[[Data], EventLine]:
    def tell(data: Data) -> EventLine:
        slots = f" {data['count']} times" if data.get("count", 1) > 1 else ""
        reason = f": {first_line(data['reason'])}" if data.get("reason") else ""
        return EventLine(mark=Mark.WARNING, text=f"{word}{slots}{reason}")

    return tell


def _run_stuck(data: Data) -> EventLine:
    return EventLine(
        mark=Mark.WARNING,
        text=f"run {_short(data)} was told to end {duration(data.get('seconds'))} ago and has not",
        hint="see what it holds: sexton ps",
    )


def _run_unrecorded(data: Data) -> EventLine:
    return EventLine(
        mark=Mark.FAILED,
        text=f"run {_short(data)} has ended ({data.get('state')}), and the database did not take it",
        hint="the next start records it as interrupted",
    )


def _server_starting(data: Data) -> EventLine:
    waiting = _names(data.get("waiting"))
    return EventLine(mark=Mark.COMING, text="starting" + (f" for {waiting}" if waiting else ""))


def _server_started(data: Data) -> EventLine:
    facts = [f"pid {data['pid']}"] if data.get("pid") else []
    if data.get("tools") is not None:
        facts.append(counted(int(data["tools"]), "tool"))
    more = f" ({', '.join(facts)})" if facts else ""
    return EventLine(mark=Mark.UP, text=f"ready in {duration(data.get('seconds'))}{more}")


def _server_shared(data: Data) -> EventLine:
    holders = data.get("holders") or ()
    return EventLine(mark=Mark.SHARED, text=f"shared by {counted(len(holders), 'holder')}: {_names(holders)}")


_RETIRED = {
    "max_age": "its age",
    "max_calls": "its share of calls",
    "restart": "a restart was asked for",
    "config_changed": "its definition changed",
    "removed": "no longer configured",
    "not_needed": "no longer needed",
}


def _server_retired(data: Data) -> EventLine:
    reason = str(data.get("reason") or "")
    calls = f" after {counted(int(data['calls']), 'call')}" if data.get("calls") is not None else ""
    return EventLine(mark=Mark.DOWN, text=f"retired{calls}: {_RETIRED.get(reason, reason)}")


_NOT_STARTED = re.compile(r"^'[^']+' could not be started: ")
_ITSELF = re.compile(r"^server '[^']+' ")


def _server_failed(word: str) -> Callable[[Data], EventLine]:
    def tell(data: Data) -> EventLine:
        what, details, hint = _split_error(data.get("error"))
        holders = _names(data.get("holders"))
        held = f" (held by {holders})" if holders and word == "died" else ""
        # Whom it is about stands before it already.
        what = _ITSELF.sub("it ", _NOT_STARTED.sub("", what))
        return EventLine(mark=Mark.FAILED, text=f"{word}{held}: {what}", details=details, hint=hint)

    return tell


def _breaker_open(data: Data) -> EventLine:
    return EventLine(
        mark=Mark.WARNING,
        text=f"failed {counted(int(data.get('failures', 0)), 'time')} in a row; not started for "
        f"{duration(data.get('retry_in'))}",
        hint="try at once: sexton servers restart NAME",
    )


def _tools_changed(data: Data) -> EventLine:
    names = data.get("tools") or ()
    shown = _names(names[:6]) + (", …" if len(names) > 6 else "")
    return EventLine(mark=Mark.NOTE, text=f"has {counted(len(names), 'tool')}: {shown}")


def _gateway_stopped(data: Data) -> EventLine:
    if not (left := data.get("left")):
        return EventLine(mark=Mark.NOTE, text="stopped; nothing is left")
    return EventLine(
        mark=Mark.WARNING,
        text=f"stopped, but these do not end: {_names(left)}; their keepers go on trying",
        hint="see why: sexton ps",
    )


def _draining(data: Data) -> EventLine | None:
    """Nothing of a process that nobody holds: that it is retired is told by itself."""
    if not (holders := _names(data.get("holders"))):
        return None
    return EventLine(mark=Mark.NOTE, text=f"to be replaced when {holders} no longer holds it")


def _told_problem(data: Data) -> EventLine:
    """An event with the words of an error: `what` and, where there is a next step, `hint`."""
    hint = data.get("hint")
    return EventLine(mark=Mark.WARNING, text=first_line(str(data["what"])), hint=str(hint) if hint else None)


def _note(text: str) -> Callable[[Data], EventLine]:
    return lambda data: EventLine(mark=Mark.NOTE, text=text + (f": {data['reason']}" if data.get("reason") else ""))


def _clock_jumped(data: Data) -> EventLine:
    seconds = float(data.get("seconds", 0))
    way = "forward" if seconds > 0 else "back"
    return EventLine(mark=Mark.WARNING, text=f"the clock went {way} by {duration(abs(seconds))}; nothing runs twice")


def _dead_gateway(data: Data) -> EventLine:
    runs = int(data.get("runs", 0))
    cut_off = f"; {counted(runs, 'run')} of it settled" if runs else ", with no run under way"
    who = f"node {data['node']}" if data.get("node") else "an earlier one"
    return EventLine(mark=Mark.WARNING, text=f"{who} had died{cut_off}")


def _node_drained(data: Data) -> EventLine:
    return EventLine(mark=Mark.NOTE, text=f"gets no more runs, by {data.get('by')}")


def _cut_off(data: Data) -> EventLine:
    runs = counted(int(data.get("runs", 0)), "run")
    return EventLine(mark=Mark.FAILED, text=f"cut off from the database for too long; ends its {runs}")


def _gap(data: Data) -> EventLine:
    return EventLine(mark=Mark.WARNING, text=f"{counted(int(data.get('lost', 0)), 'event')} came too fast to be shown")


def _gateway_starting(data: Data) -> EventLine:
    return EventLine(mark=Mark.NOTE, text=f"sexton {data.get('version', '')} starts, pid {data.get('pid')}")


def _gateway_stopping(data: Data) -> EventLine:
    drain = f"; what runs gets {duration(data['drain'])} to end" if data.get("drain") else ""
    return EventLine(mark=Mark.NOTE, text=f"stopping ({data.get('signal')}){drain}", hint="once more stops at once")


def _settings_reloaded(data: Data) -> EventLine:
    parts = [
        f"{noun} {change}: {_names(names)}"
        for noun in ("servers", "jobs", "targets", "channels")
        for change in ("added", "changed", "removed")
        if (names := data.get(f"{noun}_{change}"))
    ]
    return EventLine(mark=Mark.NOTE, text="reloaded: " + ("; ".join(parts) or "nothing that runs has changed"))


def _recovered(data: Data) -> EventLine | None:
    trees = data.get("trees") or ()
    if not trees:
        return None
    ended = f"ended {counted(len(trees), 'process tree')} that a crash left behind"
    return EventLine(mark=Mark.WARNING, text=f"{ended}: {_names(trees)}")


def _delivery_delayed(data: Data) -> EventLine:
    retry = f"; again in {duration(data['retry_in'])}" if data.get("retry_in") is not None else ""
    text = f"delivery {data.get('delivery')} not sent yet: {first_line(str(data.get('what', '')))}{retry}"
    return EventLine(mark=Mark.WARNING, text=text, hint=data.get("hint"))


def _delivery_failed(data: Data) -> EventLine:
    text = f"delivery {data.get('delivery')} failed: {first_line(str(data.get('what', '')))}"
    return EventLine(mark=Mark.FAILED, text=text, hint=data.get("hint"))


def _delivery_sent(data: Data) -> EventLine:
    about = f" ({data['job']})" if data.get("job") else ""
    return EventLine(mark=Mark.DONE, text=f"delivery {data.get('delivery')} sent to {data.get('target')}{about}")


def _channel_down(data: Data) -> EventLine:
    retry = f"; again in {duration(data['retry_in'])}" if data.get("retry_in") is not None else ""
    what = first_line(str(data.get("what", ""))).rstrip(".")
    return EventLine(mark=Mark.WARNING, text=f"not connected: {what}{retry}", hint=data.get("hint"))


def _channel_connected(data: Data) -> EventLine:
    return EventLine(mark=Mark.UP, text=f"connected as {data.get('account')}")


def _person(told: str) -> Callable[[Data], EventLine]:
    return lambda data: EventLine(mark=Mark.NOTE, text=f"{data.get('sender')} {told}")


def _turn_ended(data: Data) -> EventLine:
    usage = data.get("usage") or {}
    took = f" in {duration(usage['seconds'])}" if usage.get("seconds") is not None else ""
    if data.get("state") == "done":
        tokens = int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))
        facts = [counted(tokens, "token"), counted(int(usage.get("calls", 0)), "call")]
        return EventLine(mark=Mark.DONE, text=f"answered{took} ({', '.join(facts)})")
    what, details, hint = _split_error(data.get("error"))
    mark = Mark.FAILED if data.get("state") == "failed" else Mark.WARNING
    return EventLine(
        mark=mark, text=f"{data.get('state')}{took}" + (f": {what}" if what else ""), details=details, hint=hint
    )


def _approval_asked(data: Data) -> EventLine:
    asked = data.get("approval") or {}
    what = ".".join(filter(None, [str(asked.get("server", "")), str(asked.get("tool", ""))]))
    return EventLine(
        mark=Mark.WARNING,
        text=f"{asked.get('holder')} waits for a person: {asked.get('kind')} of {what}",
        hint=f"sexton approvals approve {asked.get('id')}",
    )


def _approval_answered(data: Data) -> EventLine:
    asked = data.get("approval") or {}
    by = f" by {asked['answered_by']}" if asked.get("answered_by") else ""
    return EventLine(mark=Mark.NOTE, text=f"{asked.get('server')}.{asked.get('tool')} is {asked.get('state')}{by}")


_TELLERS: Mapping[str, Callable[[Data], EventLine | None]] = {
    "run.started": _run_started,
    "run.ended": _run_ended,
    "run.skipped": _run_left_out("skipped"),
    "run.missed": _run_left_out("missed"),
    "run.lost": _run_left_out("lost"),
    "run.stuck": _run_stuck,
    "run.unrecorded": _run_unrecorded,
    "job.added": _note("job added"),
    "job.changed": _note("job changed"),
    "job.removed": _note("job removed"),
    "job.paused": _note("job paused"),
    "job.resumed": _note("job resumed"),
    "turn.started": lambda _: EventLine(mark=Mark.BEGAN, text="a message"),
    "turn.ended": _turn_ended,
    "approval.asked": _approval_asked,
    "approval.answered": _approval_answered,
    "approval.expired": _approval_answered,
    "approval.void": lambda _: None,
    "server.starting": _server_starting,
    "server.started": _server_started,
    "server.shared": _server_shared,
    "server.retired": _server_retired,
    "server.start_failed": _server_failed("did not start"),
    "server.died": _server_failed("died"),
    "server.breaker_open": _breaker_open,
    "server.tools_changed": _tools_changed,
    "server.breaker_closed": _note("works again"),
    "server.draining": _draining,
    "server.taken_away": _note("taken away from its holders"),
    "model.started": _server_started,
    "model.retired": lambda _: EventLine(mark=Mark.DOWN, text="retired: idle"),
    "model.died": lambda data: EventLine(mark=Mark.FAILED, text=f"died: {first_line(data.get('what'))}"),
    "model.failed": _server_failed("did not start"),
    "channel.taken": _note("is this node's now"),
    "channel.left": _note("is left to other nodes"),
    "channel.connected": _channel_connected,
    "channel.down": _channel_down,
    "channel.stranger": _person("wrote, and is not let in"),
    "channel.paired": _person("is let in by a code"),
    "channel.approved": _person("is let in"),
    "channel.refused": _person("is refused"),
    "delivery.sent": _delivery_sent,
    "delivery.delayed": _delivery_delayed,
    "delivery.failed": _delivery_failed,
    "gateway.starting": _gateway_starting,
    "gateway.stopping": _gateway_stopping,
    "gateway.stopping_now": _note("stopping now"),
    "gateway.stopped": _gateway_stopped,
    "settings.reloaded": _settings_reloaded,
    "containment.recovered": _recovered,
    "clock.jumped": _clock_jumped,
    "database.recovered": _note("the database works again"),
    "gateway.dead": _dead_gateway,
    "node.drained": _node_drained,
    "node.undrained": lambda data: EventLine(mark=Mark.NOTE, text=f"works again, by {data.get('by')}"),
    "node.forgotten": lambda data: EventLine(mark=Mark.NOTE, text=f"forgotten, by {data.get('by')}"),
    "node.cut_off": _cut_off,
    "node.back": lambda _: EventLine(mark=Mark.UP, text="has the database again, and works"),
    "journal.gap": _gap,
}


def _short(data: Data) -> str:
    return str(data.get("run", ""))[-8:]


def _names(names: Any) -> str:
    return ", ".join(str(name) for name in names or ())


_MOST_DETAILS = 3


def _split_error(text: Any) -> tuple[str, tuple[str, ...], str | None]:
    """The first line of an error's text, the next few (the last words of a server, say), and its `Next:` line."""
    said, _, hint = str(text or "").partition("\nNext: ")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    what, details = lines[:1], lines[1:]
    if len(details) > _MOST_DETAILS:
        left = len(details) - _MOST_DETAILS + 1
        details = [*details[: _MOST_DETAILS - 1], f"(+{counted(left, 'line')})"]
    return "".join(what), tuple(details), first_line(hint) or None
