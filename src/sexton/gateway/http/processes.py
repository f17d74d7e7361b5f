"""The process trees: what runs, who holds it, and reaping what nobody holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from sexton.gateway.documents import MemoryDocument, ProcessesDocument, ReapDocument, TreeDocument
from sexton.gateway.http.body import RequestBody, read_body
from sexton.gateway.http.parts import Gateway
from sexton.gateway.memory_samples import MemorySeries
from sexton.gateway.plain import plain
from sexton.gateway.reap_documents import dry_run_document, reap_document
from sexton.gateway.record_documents import orphan_document
from sexton.gateway.tree_status import TreeStatus


class ReapRequest(RequestBody):
    """`include_active` also ends what is in use; `dry_run` only says what would be ended."""

    dry_run: bool = False
    include_active: bool = False


async def list_processes(gateway: Gateway, _: Request) -> ProcessesDocument:
    """Every live tree of this gateway, and the boundary that holds them."""
    return ProcessesDocument(boundary=str(gateway.containment.boundary), trees=_tree_documents(gateway))


async def list_memory(gateway: Gateway, request: Request) -> Sequence[MemoryDocument]:
    """How much memory each tree used in the last hour, also of those that ended lately; query: `name`."""
    name = request.query_params.get("name")
    return [memory_document(series) for series in gateway.memory.all() if name in (None, series.name)]


def memory_document(series: MemorySeries) -> MemoryDocument:
    return MemoryDocument(
        tree=series.tree,
        name=series.name,
        owner=series.owner,
        leader_pid=series.leader_pid,
        started_at=series.started_at.isoformat(),
        ended_at=series.ended_at.isoformat() if series.ended_at else None,
        samples=[(sample.at.isoformat(), sample.memory) for sample in series.samples],
    )


def _tree_documents(gateway: Gateway) -> Sequence[TreeDocument]:
    holders = _holders(gateway)
    return [tree_document(gateway, tree, holders) for tree in gateway.containment.trees()]


def tree_document(gateway: Gateway, tree: TreeStatus, holders: Mapping[int, Sequence[str]]) -> TreeDocument:
    return TreeDocument(
        id=tree.id,
        name=tree.name,
        owner=tree.owner,
        state=str(tree.state),
        boundary=str(tree.boundary),
        holders=list(holders.get(tree.leader_pid or 0, ())),
        leader_pid=tree.leader_pid,
        keeper_pid=tree.keeper_pid,
        pids=list(tree.pids),
        memory=tree.memory_bytes,
        age=round((gateway.clock.now() - tree.started_at).total_seconds(), 3),
        started_at=tree.started_at.isoformat(),
        reason=None if tree.reason is None else str(tree.reason),
        stuck=plain(tree.stuck),
        external=plain(tree.external),
    )


def _holders(gateway: Gateway) -> Mapping[int, Sequence[str]]:
    """Who uses a server's process, by the process's pid: the containment knows owners, the pool knows holders."""
    return dict(gateway.model_holders()) | {
        process.pid: process.holders
        for server in gateway.pool.status()
        for process in server.processes
        if process.pid is not None
    }


async def reap(gateway: Gateway, request: Request) -> ReapDocument:
    """End what nobody holds, prove it gone, and say what it was."""
    asked = await read_body(request, ReapRequest)
    if asked.dry_run:
        return dry_run_document(_would_end(gateway, include_active=asked.include_active))
    report = await gateway.containment.sweep(include_active=asked.include_active)
    return reap_document(report.recovery, ended=report.ended, stuck=report.stuck)


def _would_end(gateway: Gateway, *, include_active: bool) -> Sequence[TreeDocument]:
    orphans = [orphan_document(record, gateway.clock.now()) for record in gateway.orphans()]
    return [*orphans, *_tree_documents(gateway)] if include_active else orphans


async def doctor(gateway: Gateway, _: Request) -> Mapping[str, Any]:
    """What of the containment promise this host enforces, with the evidence and the fix."""
    report: Mapping[str, Any] = plain(await gateway.examine())
    return report
