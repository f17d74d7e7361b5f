"""Nodes as rows of the database: who lives, what each offers, which are drained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, select, update

from sexton import database as tables
from sexton.errors import UsageError
from sexton.journal import JSON
from sexton.scheduler.gateways import Gateway
from sexton.scheduler.job import Run
from sexton.scheduler.rows import Settled
from sexton.scheduler.run_states import RunState

_node = tables.node
_drained = tables.drained_node
_past = tables.past_node
_run = tables.run
STOPPED, DIED = "stopped", "died"
REMEMBERED = timedelta(days=30)
"""How long a node that is gone, and not drained, is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a beat found: the ids of the runs that we hold, all other gateways, and runs that waited for too long."""

    held: frozenset[str]
    others: tuple[Gateway, ...]
    late: tuple[Run, ...] = ()
    settled: tuple[Settled, ...] = ()
    """Runs of nobody: their gateway was gone before they were claimed for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEnd:
    """How a gateway ended.  `how`: stopped, died; the node `by` settled that many of its runs, and queued `rerun` of
    them again."""

    how: str
    at: datetime
    by: str = ""
    settled: int = 0
    rerun: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node: a gateway that lives (or has not been settled yet), or the name of one that is gone (`id` is None).

    `beat_at` is the node's own clock at its last beat; `offers` is what it told with it: labels, capacity, servers,
    version, trees.  `ended` is how the last gateway of that name ended: for one that lives, its predecessor.
    """

    id: str | None
    name: str
    drained: bool
    running: int = 0
    started_at: datetime | None = None
    beat_at: datetime | None = None
    offers: Mapping[str, JSON] = field(default_factory=dict)
    ended: NodeEnd | None = None


class NodeNotGone(UsageError):
    """It lives, or what it left has not been settled."""


class UnknownNode(UsageError):
    def __init__(self, name: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no node '{name}'. The nodes are: {', '.join(known)}.", hint="run: sexton nodes")


def unknown_node(connection: Connection, name: str) -> UnknownNode:
    return UnknownNode(name, known=tuple(sorted({node.name for node in statuses(connection)})))


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


def row_of(connection: Connection, gateway_id: str) -> Row[Any] | None:
    return connection.execute(select(_node).where(_node.c.id == gateway_id)).one_or_none()


def note_end(connection: Connection, row: Row[Any] | None, end: NodeEnd) -> None:
    """Keep how the gateway of this row ended; forget those that ended long ago."""
    if row is None:
        return
    is_old = and_(_past.c.at < end.at - REMEMBERED, _past.c.name.not_in(select(_drained.c.name).scalar_subquery()))
    connection.execute(delete(_past).where((_past.c.name == row.name) | is_old))
    connection.execute(
        insert(_past).values(
            name=row.name,
            id=row.id,
            how=end.how,
            at=end.at,
            by=end.by[:255],
            settled=end.settled,
            rerun=end.rerun,
            started_at=row.started_at,
            offers=row.offers,
        )
    )


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
    if not any(node.name == name for node in statuses(connection)):
        raise unknown_node(connection, name)
    if is_drained(connection, name) is drained:
        return False
    if drained:
        connection.execute(insert(_drained).values(name=name, since=now, by=by[:255]))
    else:
        connection.execute(delete(_drained).where(_drained.c.name == name))
    return True


def forget(connection: Connection, *, name: str) -> None:
    """Take a node that is gone out of the list, with its drain.  Raises `UnknownNode`, `NodeNotGone`."""
    found = [node for node in statuses(connection) if node.name == name]
    if not found:
        raise unknown_node(connection, name)
    if found[0].id is not None:
        said = f", and said so last at {found[0].beat_at:%Y-%m-%d %H:%M:%S} UTC" if found[0].beat_at else ""
        raise NodeNotGone(
            f"Node '{name}' lives, or has not been settled yet{said}.",
            hint="stop it first; the others settle one that died within 2 minutes",
        )
    if left := _unsettled(connection, name):
        raise NodeNotGone(
            f"Node '{name}' has {left} runs that are not settled yet.",
            hint="wait for the next beat, 5 s, and try again",
        )
    connection.execute(delete(_past).where(_past.c.name == name))
    connection.execute(delete(_drained).where(_drained.c.name == name))


def _unsettled(connection: Connection, name: str) -> int:
    was = select(_past.c.id).where(_past.c.name == name).scalar_subquery()
    runs = select(func.count()).where(_run.c.state == str(RunState.RUNNING), _run.c.owner.in_(was))
    return connection.execute(runs).scalar_one()


def statuses(connection: Connection) -> tuple[NodeStatus, ...]:
    """Those that live and those that are gone, by name."""
    running = select(_run.c.owner, func.count().label("runs")).where(_run.c.state == str(RunState.RUNNING))
    counts = {row.owner: row.runs for row in connection.execute(running.group_by(_run.c.owner))}
    drained = set(connection.execute(select(_drained.c.name)).scalars())
    past = {row.name: row for row in connection.execute(select(_past))}
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
            ended=_end_of(past.get(row.name)),
        )
        for row in rows
    ]
    names = (drained | past.keys()) - {node.name for node in living}
    absent = [_absent(name, past.get(name), drained=name in drained) for name in names]
    return tuple(sorted([*living, *absent], key=lambda node: (node.name, node.id or "")))


def _absent(name: str, row: Row[Any] | None, *, drained: bool) -> NodeStatus:
    if row is None:
        return NodeStatus(id=None, name=name, drained=drained)
    offers = {key: value for key, value in (row.offers or {}).items() if key != "trees"}  # which ended with it
    started_at, ended = row.started_at, _end_of(row)
    return NodeStatus(id=None, name=name, drained=drained, started_at=started_at, offers=offers, ended=ended)


def _end_of(row: Row[Any] | None) -> NodeEnd | None:
    if row is None:
        return None
    return NodeEnd(how=row.how, at=row.at, by=row.by, settled=row.settled, rerun=row.rerun)
