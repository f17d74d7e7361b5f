"""Nodes as rows of the database: who lives, what each offers, which are drained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from sexton import database as tables
from sexton.errors import UsageError
from sexton.journal import JSON
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import Run
from sexton.scheduler.rows import Settled
from sexton.scheduler.run_states import RunState

_node = tables.node
_drained = tables.drained_node
_run = tables.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a beat found: the ids of the runs that we hold, all other gateways, and runs that waited for too long."""

    held: frozenset[str]
    others: tuple[Gateway, ...]
    late: tuple[Run, ...] = ()
    settled: tuple[Settled, ...] = ()
    """Runs of nobody: their gateway was gone before they were claimed for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node: a gateway that lives (or has not been settled yet), or a drained name without one (`id` is None).

    `beat_at` is the node's own clock at its last beat; `offers` is what it told with it: labels, capacity, servers,
    version, trees.
    """

    id: str | None
    name: str
    drained: bool
    running: int = 0
    started_at: datetime | None = None
    beat_at: datetime | None = None
    offers: Mapping[str, JSON] = field(default_factory=dict)


class UnknownNode(UsageError):
    def __init__(self, name: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no node '{name}'. The nodes are: {', '.join(known)}.", hint="run: sexton nodes")


def register(connection: Connection, *, gateway: Gateway, now: datetime) -> None:
    connection.execute(
        insert(_node).values(
            id=gateway.id,
            name=gateway.name,
            process=dict(gateway.process),
            beat=gateway.beat,
            started_at=now,
            offers=dict(gateway.offers),
            beat_at=now,
        )
    )


def unregister(connection: Connection, *, gateway_id: str, beat: int | None = None) -> bool:
    """Forget a gateway; with `beat`, only if that is still its last one."""
    is_it = _node.c.id == gateway_id if beat is None else and_(_node.c.id == gateway_id, _node.c.beat == beat)
    return connection.execute(delete(_node).where(is_it)).rowcount == 1


def beat(connection: Connection, *, gateway: Gateway, now: datetime) -> bool:
    """False: the gateway is not known any more."""
    values = {"beat": _node.c.beat + 1, "beat_at": now, "offers": dict(gateway.offers)}
    return connection.execute(update(_node).where(_node.c.id == gateway.id).values(**values)).rowcount == 1


def gateways(connection: Connection) -> tuple[Gateway, ...]:
    rows = connection.execute(select(_node.c.id, _node.c.name, _node.c.process, _node.c.beat)).all()
    return tuple(Gateway(id=row.id, name=row.name, process=row.process, beat=row.beat) for row in rows)


def held_by(connection: Connection, *, gateway_id: str) -> frozenset[str]:
    """The ids of the runs that are running there."""
    statement = select(_run.c.id).where(_run.c.state == str(RunState.RUNNING), _run.c.owner == gateway_id)
    return frozenset(connection.execute(statement).scalars())


_IS_KNOWN = select(_node.c.id).where(_node.c.id == bindparam("id"))


def is_known(connection: Connection, gateway_id: str) -> bool:
    """Whether that gateway may claim: who was settled must first be registered anew."""
    return connection.execute(_IS_KNOWN, {"id": gateway_id}).first() is not None


_IS_DRAINED = select(_drained.c.name).where(_drained.c.name == bindparam("name"))


def is_drained(connection: Connection, name: str) -> bool:
    return connection.execute(_IS_DRAINED, {"name": name}).first() is not None


def set_drained(connection: Connection, *, name: str, drained: bool, by: str, now: datetime) -> bool:
    known = tuple(sorted({node.name for node in statuses(connection)}))
    if name not in known:
        raise UnknownNode(name, known=known)
    if is_drained(connection, name) is drained:
        return False
    if drained:
        connection.execute(insert(_drained).values(name=name, since=now, by=by[:255]))
    else:
        connection.execute(delete(_drained).where(_drained.c.name == name))
    return True


def statuses(connection: Connection) -> tuple[NodeStatus, ...]:
    running = select(_run.c.owner, func.count().label("runs")).where(_run.c.state == str(RunState.RUNNING))
    counts = {row.owner: row.runs for row in connection.execute(running.group_by(_run.c.owner))}
    drained = set(connection.execute(select(_drained.c.name)).scalars())
    rows = connection.execute(select(_node).order_by(_node.c.name, _node.c.id)).all()
    living = [
        NodeStatus(
            id=row.id,
            name=row.name,
            drained=row.name in drained,
            running=counts.get(row.id, 0),
            started_at=row.started_at,
            beat_at=row.beat_at,
            offers=row.offers or {},
        )
        for row in rows
    ]
    absent = [NodeStatus(id=None, name=name, drained=True) for name in drained - {node.name for node in living}]
    return tuple(sorted([*living, *absent], key=lambda node: (node.name, node.id or "")))
