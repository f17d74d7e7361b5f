"""What of the gateway's state needs a person, the most pressing first (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sexton.gateway.documents import JobDocument, ServerDocument, TreeDocument
from sexton.gateway.figures import first_line

_STATES = {
    "failed": "bad",
    "missed": "warn",
    "interrupted": "warn",
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


def concerns_of(
    servers: Iterable[ServerDocument], jobs: Iterable[JobDocument], trees: Iterable[TreeDocument]
) -> Sequence[Concern]:
    found = [*_of_trees(trees), *_of_servers(servers), *_of_jobs(jobs)]
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
        lines = [line.strip() for line in (server["last_error"] or "").splitlines() if line.strip()]
        if server["state"] in {"broken", "backing_off"}:
            what = "is broken" if server["state"] == "broken" else "failed and is tried again"
            text = f"{what}: {lines[0]}" if lines else what
            tone = "bad" if server["state"] == "broken" else "warn"
            yield Concern(
                key=f"server-{server['name']}",
                tone=tone,
                subject=server["name"],
                text=text,
                target=target,
                details=lines[1:4],
            )
        for number, warning in enumerate(server["warnings"]):
            key = f"server-{server['name']}-{number}"
            yield Concern(key=key, tone="warn", subject=server["name"], text=warning, target=target)


def _of_jobs(jobs: Iterable[JobDocument]) -> Iterator[Concern]:
    for job in jobs:
        run = job["last_run"]
        if run is None or (tone := _STATES.get(run["state"])) is None:
            continue
        what = first_line(run["error"] or run["reason"])
        text = f"{run['state']} the last time{': ' + what if what else ''}"
        yield Concern(key=f"job-{job['name']}", tone=tone, subject=job["name"], text=text, target=f"/runs/{run['id']}")
