"""Process trees as a page lists them: with their curve of memory, and what can be done with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sexton.gateway.dashboard.plot import spark
from sexton.gateway.documents import JobDocument, ServerDocument, TreeDocument
from sexton.gateway.holders import RunNames
from sexton.gateway.http import Gateway

_RUN = "run:"
_MODEL = "model:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who uses a tree; `run` is the id, where it is a run."""

    name: str
    run: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """`server` is set where the tree is a server's, `run` where it is a run's own, `model` where a local model's."""

    tree: TreeDocument
    server: str | None
    run: str | None
    model: str | None
    holders: Sequence[Holder]
    curve: str


def tree_rows(
    gateway: Gateway,
    trees: Sequence[TreeDocument],
    servers: Sequence[ServerDocument],
    jobs: Sequence[JobDocument],
    *,
    now: datetime,
) -> Sequence[TreeRow]:
    """Those of servers first, by name; then those of runs, the oldest first."""
    names, known = RunNames(jobs), {server["name"] for server in servers}
    rows = [_row(gateway, tree, known, names, now) for tree in trees]
    return sorted(rows, key=lambda row: (row.server is None, row.server or "", row.tree["started_at"]))


def holders_of(holders: Sequence[str], jobs: Sequence[JobDocument]) -> Sequence[Holder]:
    names = RunNames(jobs)
    return [_holder(holder, names) for holder in dict.fromkeys(holders)]


def _row(gateway: Gateway, tree: TreeDocument, known: set[str], names: RunNames, now: datetime) -> TreeRow:
    run = tree["owner"].removeprefix(_RUN) if tree["owner"].startswith(_RUN) else None
    model = tree["owner"].removeprefix(_MODEL) if tree["owner"].startswith(_MODEL) else None
    series = gateway.memory.series(tree["id"])
    holders = tree["holders"] or ([tree["owner"]] if run else [])
    return TreeRow(
        tree=tree,
        server=tree["name"] if run is None and model is None and tree["name"] in known else None,
        run=run,
        model=model,
        holders=[_holder(holder, names) for holder in dict.fromkeys(holders)],
        curve=spark(tuple(series.samples), now=now) if series else "",
    )


def _holder(holder: str, names: RunNames) -> Holder:
    run = holder.removeprefix(_RUN) if holder.startswith(_RUN) else None
    return Holder(name=names.name(holder), run=run)
