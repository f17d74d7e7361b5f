"""Events of the journal as a page tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sexton.gateway.documents import EventDocument, JobDocument
from sexton.gateway.event_lines import Mark, line_of
from sexton.gateway.figures import first_line
from sexton.gateway.holders import RunNames
from sexton.gateway.http import Gateway

_REMEMBERED = 2000
_TONES: Mapping[Mark, str] = {
    Mark.BEGAN: "live",
    Mark.DONE: "good",
    Mark.FAILED: "bad",
    Mark.WARNING: "warn",
    Mark.UP: "good",
    Mark.COMING: "live",
    Mark.DOWN: "quiet",
    Mark.SHARED: "quiet",
    Mark.NOTE: "quiet",
}


_QUEUED: Mapping[str, str] = {"manual": "queued by hand", "retry": "queued again"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldEvent:
    """`tone` is one of good, bad, warn, live, quiet; `target` is the page of what it is about, `node` is set only where
    the events of several are shown."""

    id: int
    at: str
    kind: str
    subject: str
    tone: str
    text: str
    details: tuple[str, ...]
    hint: str | None
    node: str | None
    target: str | None


def tell(gateway: Gateway, events: Iterable[EventDocument], jobs: Iterable[JobDocument]) -> Sequence[ToldEvent]:
    """The events in words, with the names of jobs in place of the ids of their runs."""
    names = RunNames(jobs)
    for event in gateway.journal.since(gateway.journal.last_id - _REMEMBERED):
        names.learn(event)
    return [told_event(event, names) for event in events]


def told_event(event: EventDocument, names: RunNames) -> ToldEvent:
    """Of a kind that nobody wrote words for, its name and its data."""
    line = line_of(event["kind"], names.name_holders(event["data"]))
    return ToldEvent(
        id=event["id"],
        at=event["at"],
        kind=event["kind"],
        subject=event["subject"],
        tone=_TONES[line.mark] if line else "quiet",
        text=line.text if line else _plain_words(event),
        details=line.details if line else (),
        hint=line.hint if line else None,
        node=_node_of(event),
        target=event_target(event),
    )


def _node_of(event: EventDocument) -> str | None:
    """Only the events of all nodes say it."""
    fields: Mapping[str, Any] = event
    return fields.get("node")


def _plain_words(event: EventDocument) -> str:
    data: Mapping[str, Any] = event["data"]
    noun, _, what = event["kind"].partition(".")
    what = what.replace("_", " ") or noun
    match noun:
        case "run" if what == "progress":
            return str(data.get("text") or what)
        case "run" if what == "queued":
            return _QUEUED.get(str(data.get("trigger")), "queued") + (
                f": {data['reason']}" if data.get("reason") else ""
            )
        case "server" if what == "gone":
            return "its processes are gone"
        case "audit":
            refused = "" if data.get("outcome") == "done" else f", and was {data.get('outcome')}"
            why = f": {first_line(data['why'])}" if data.get("why") else ""
            return f"{data.get('caller')} asked to {what}{refused}{why}"
    said = ", ".join(f"{key}: {value}" for key, value in data.items() if value not in (None, [], {}))
    return f"{what} ({first_line(said)})" if said else what


def event_target(event: EventDocument) -> str | None:
    """The page of what the event is about."""
    data: Mapping[str, Any] = event["data"]
    match event["kind"].partition(".")[0]:
        case "run" if isinstance(run := data.get("run"), str):
            return f"/runs/{quote(run, safe='')}"
        case "run" | "job":
            return f"/jobs/{quote(event['subject'], safe='')}"
        case "server":
            return f"/servers/{quote(event['subject'], safe='')}"
        case "containment" | "model":
            return "/processes"
        case "approval":
            return "/approvals"
        case "delivery" if isinstance(delivery := data.get("delivery"), int):
            return f"/deliveries/{delivery}"
        case "turn" if isinstance(conversation := data.get("conversation"), str):
            return f"/chat/{quote(conversation, safe='')}"
        case _:
            return None
