"""The nodes on this database: what each offers and does, and taking one out of service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from starlette.requests import Request

from sexton.gateway.documents import ForgottenNodeDocument, NodeDocument, NodeEndDocument, NodeTreeDocument
from sexton.gateway.http.caller import caller_of
from sexton.gateway.http.parts import Gateway
from sexton.gateway.tree_status import TreeStatus
from sexton.scheduler import NodeEnd, NodeStatus

# A node says every 5 s that it lives; this much of its clock may differ from ours.
SILENT_AFTER = timedelta(seconds=20)


async def list_nodes(gateway: Gateway, _: Request) -> Sequence[NodeDocument]:
    """Every node, by name, with the process trees that it had at its last beat."""
    return [node_document(gateway, node) for node in await gateway.scheduler.nodes()]


async def drain_node(gateway: Gateway, request: Request) -> Sequence[NodeDocument]:
    """Let a node take no more runs; what runs there goes on to its end.  A restart changes nothing."""
    return await _set_drained(gateway, request, drained=True)


async def undrain_node(gateway: Gateway, request: Request) -> Sequence[NodeDocument]:
    """Let a drained node work again."""
    return await _set_drained(gateway, request, drained=False)


async def forget_node(gateway: Gateway, request: Request) -> ForgottenNodeDocument:
    """Take a node that is gone out of the list, and the jobs away that only its config file named.

    Its runs and events stay.  A node that runs, or has not been settled, is refused.
    """
    name = request.path_params["node"]
    changes = await gateway.scheduler.forget_node(name, by=caller_of(request).name)
    return ForgottenNodeDocument(name=name, jobs_removed=list(changes.removed))


async def _set_drained(gateway: Gateway, request: Request, *, drained: bool) -> Sequence[NodeDocument]:
    name = request.path_params["node"]
    await gateway.scheduler.set_drained(name, drained=drained, by=caller_of(request).name)
    return [one for one in await list_nodes(gateway, request) if one["name"] == name]


def node_document(gateway: Gateway, node: NodeStatus) -> NodeDocument:
    offers = cast("Mapping[str, Any]", node.offers)
    return NodeDocument(
        name=node.name,
        id=node.id,
        state=_state(gateway, node),
        drained=node.drained,
        here=node.id == gateway.scheduler.node_id,
        labels=offers.get("labels", []),
        servers=offers.get("servers", []),
        capacity=offers.get("capacity"),
        running=node.running,
        version=offers.get("version"),
        started_at=node.started_at.isoformat() if node.started_at else None,
        beat=node.beat_at.isoformat() if node.beat_at else None,
        trees=_trees(gateway, node),
        ended=_end(node.ended) if node.ended else None,
    )


def _end(ended: NodeEnd) -> NodeEndDocument:
    return NodeEndDocument(
        how=ended.how, at=ended.at.isoformat(), by=ended.by or None, settled=ended.settled, rerun=ended.rerun
    )


def _state(gateway: Gateway, node: NodeStatus) -> str:
    if node.id is None:
        return "absent"
    if node.beat_at is not None and gateway.clock.now() - node.beat_at > SILENT_AFTER:
        return "silent"
    return "drained" if node.drained else "up"


def _trees(gateway: Gateway, node: NodeStatus) -> Sequence[NodeTreeDocument]:
    """Our own as they are now, another node's as it told them."""
    if node.id == gateway.scheduler.node_id:
        return [tree_summary(tree) for tree in gateway.containment.trees()]
    return cast("Sequence[NodeTreeDocument]", node.offers.get("trees", []))


def tree_summary(tree: TreeStatus) -> NodeTreeDocument:
    """What other nodes are told of a tree."""
    return NodeTreeDocument(
        name=tree.name,
        owner=tree.owner,
        state=str(tree.state),
        processes=len(tree.pids),
        memory=tree.memory_bytes,
    )
