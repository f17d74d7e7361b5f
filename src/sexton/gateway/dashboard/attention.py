"""What of the gateway's state needs a person, the most pressing first (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from sexton.gateway.documents import DeliveryDocument, JobDocument, ServerDocument, TreeDocument
from sexton.gateway.figures import counted

_STATES = {
    "failed": "bad",
    "missed": "warn",
    "interrupted": "warn",
}
_DOWN = {
    "broken": "is broken",
    "backing_off": "failed, and is tried again",
    "stopped": "did not start the last time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """`tone` is bad or warn; `key` names it for as long as it lasts."""

    key: str
    tone: str
    subject: str
    text: str
    target: str
    details: Sequence[str] = ()


class Question(Protocol):
    """What waits for a person."""

    @property
    def id(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def who(self) -> str: ...


def concerns_of(
    servers: Iterable[ServerDocument],
    jobs: Iterable[JobDocument],
    trees: Iterable[TreeDocument],
    questions: Iterable[Question] = (),
    undelivered: Sequence[DeliveryDocument] = (),
) -> Sequence[Concern]:
    """`undelivered` are the deliveries that failed lately, the latest first."""
    asked, unsent = _of_questions(questions), _of_deliveries(undelivered)
    found = [*_of_trees(trees), *_of_servers(servers), *_of_jobs(jobs), *asked, *unsent]
    return sorted(found, key=lambda concern: concern.tone != "bad")


def _of_trees(trees: Iterable[TreeDocument]) -> Iterator[Concern]:
    for tree in trees:
        if tree["state"] == "stuck":
            why = "; ".join(f"process {one.get('pid')} {one.get('why')}" for one in tree["stuck"])
            text = f"does not end{': ' + why if why else ''}; every sweep tries again"
            yield Concern(key=f"tree-{tree['id']}", tone="bad", subject=tree["name"], text=text, target="/processes")


def _of_servers(servers: Iterable[ServerDocument]) -> Iterator[Concern]:
    for server in servers:
        target = f"/servers/{quote(server['name'], safe='')}"
        lines = _lines(server["last_error"])
        if lines and server["state"] in _DOWN:
            what = _DOWN[server["state"]]
            text = f"{what}: {lines[0]}"
            tone = "bad" if server["state"] == "broken" else "warn"
            yield Concern(
                key=f"server-{server['name']}",
                tone=tone,
                subject=server["name"],
                text=text,
                target=target,
                details=lines[1:3],
            )
        for number, warning in enumerate(server["warnings"]):
            key = f"server-{server['name']}-{number}"
            yield Concern(key=key, tone="warn", subject=server["name"], text=warning, target=target)


def _of_jobs(jobs: Iterable[JobDocument]) -> Iterator[Concern]:
    for job in jobs:
        run = job["last_run"]
        if run is None or (tone := _STATES.get(run["state"])) is None:
            continue
        lines = _lines(run["error"] or run["reason"])
        text = f"{run['state']} the last time{': ' + lines[0] if lines else ''}"
        target = f"/runs/{run['id']}"
        key = f"job-{job['name']}"
        yield Concern(key=key, tone=tone, subject=job["name"], text=text, target=target, details=lines[1:2])


def _of_questions(questions: Iterable[Question]) -> Iterator[Concern]:
    for one in questions:
        text = f"waits for a yes or no, for {one.who}"
        yield Concern(key=f"asked-{one.id}", tone="warn", subject=one.what, text=text, target="/approvals")


def _of_deliveries(undelivered: Sequence[DeliveryDocument]) -> Iterator[Concern]:
    if undelivered:
        last = undelivered[0]
        count = counted(len(undelivered), "delivery", "deliveries")
        lines = _lines(last["error"])
        yield Concern(
            key="deliveries",
            tone="warn",
            subject=last["target"],
            text=f"{count} failed in the last 24 hours{': ' + lines[0] if lines else ''}",
            target="/deliveries?state=failed",
        )


def _lines(text: str | None) -> Sequence[str]:
    """What was said, without the advice that stands after it."""
    said = (text or "").partition("\nNext: ")[0]
    return [line.strip() for line in said.splitlines() if line.strip()]
