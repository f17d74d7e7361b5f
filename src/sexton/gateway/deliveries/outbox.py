"""Deliveries as rows of the database.  Every method is one transaction.

The oldest waiting row of a target is the only one that may be sent there, so
that its receivers see them in order.  Whoever sends it holds a lease on it:
two gateways on one database do not send the same row at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from sexton import database as tables
from sexton.database import Database
from sexton.gateway.deliveries.delivery import Attachment, Delivery, DeliveryState, Message, UnknownDelivery, key_of_run
from sexton.gateway.deliveries.run_message import run_message
from sexton.journal import JSON
from sexton.scheduler import Job, Run

_delivery = tables.delivery
_file = tables.delivery_file
_node = tables.node
_WAITING = str(DeliveryState.WAITING)
_CANCELLED = str(DeliveryState.CANCELLED)


def queue_run(connection: Connection, job: Job, run: Run, output: str | None) -> None:
    """Put what is to be told about the end of a run into the outbox, within the transaction that writes that end."""
    message = run_message(job, run, output)
    if message is None:
        return
    for target in dict.fromkeys(job.deliver):
        _add(connection, target, key_of_run(run.id), message, now=run.ended_at or run.created_at, about=run)


def queue_message(connection: Connection, target: str, message: Message, *, key: str, now: datetime) -> None:
    """Put a message into the outbox within somebody else's transaction; the same key again adds nothing."""
    _add(connection, target, key, message, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What waits for one target: when its oldest may be sent, and since when that one waits."""

    due_at: datetime
    since: datetime


class Outbox:
    """See the module.  Raises `DatabaseError` from every method.

    `is_shared`: owners are nodes, and a lease holds for as long as its node is known, whatever the clocks say.
    """

    def __init__(self, database: Database, *, is_shared: bool = False) -> None:
        self._database = database
        self.is_shared = is_shared

    async def add(self, target: str, message: Message, *, key: str, now: datetime) -> Delivery:
        """A waiting delivery; the one that is there if the target has one of that key already."""
        return await self._database.write(partial(_add, target=target, key=key, message=message, now=now))

    async def release(self, owner: str) -> None:
        """End the leases of a gateway that is dead; only that same gateway, started again, can know that."""
        await self._database.write(partial(_release, owner=owner))

    async def lanes(self, *, owner: str, now: datetime) -> Mapping[str, Lane]:
        """Each target for which something waits that no other living node is sending."""
        lanes = partial(_shared_lanes, owner=owner) if self.is_shared else _lanes
        return await self._database.read(partial(lanes, now=now))

    async def claim(self, target: str, *, owner: str, now: datetime, lease: timedelta) -> Delivery | None:
        """Take the oldest delivery of a target, if it is due and nobody holds it; its attempt counts from here."""
        claim = partial(_claim, target=target, owner=owner, now=now, lease=lease, is_shared=self.is_shared)
        return await self._database.write(claim)

    async def note_part(self, delivery: Delivery, *, parts_sent: int, lease_until: datetime) -> bool:
        """A part has arrived: the next attempt goes on after it.  False: somebody else has taken it over."""
        return await self._database.write(
            partial(_change_ours, delivery=delivery, parts_sent=parts_sent, lease_until=lease_until)
        )

    async def end(
        self, delivery: Delivery, state: DeliveryState, *, now: datetime, error: str | None, receipt: str | None
    ) -> None:
        """Write what became of it.  One that was cancelled while it was sent counts as sent, else as cancelled.

        What somebody else has taken over can only have been sent by us as well.
        """
        values = {"state": str(state), "ended_at": now, "error": error, "receipt": receipt}
        await self._database.write(partial(_end, delivery=delivery, values=values))

    async def put_off(
        self, delivery: Delivery, *, due_at: datetime, error: str, not_before: datetime | None = None
    ) -> None:
        """Try again at `due_at`; until `not_before`, which a receiver asked for, nothing but a person hurries it."""
        values: dict[str, Any] = {"due_at": due_at, "not_before": not_before, "error": error}
        await self._database.write(partial(_change_ours, delivery=delivery, owner=None, lease_until=None, **values))

    async def files(self, delivery_id: int) -> tuple[Attachment, ...]:
        """What goes out with a delivery that was not sent yet; a list of deliveries comes without."""
        return await self._database.read(partial(_files, delivery_id=delivery_id))

    async def hurry(self, name: str, *, now: datetime) -> None:
        """Let what waits for a target, with whatever recipient, be due now, but for what a receiver wants to wait."""
        await self._database.write(partial(_hurry, name=name, now=now))

    async def retry(self, delivery_id: int, *, now: datetime) -> Delivery:
        """Send at once what waits; put back what failed or was cancelled.  What was sent stays so."""
        return await self._database.write(partial(_retry, delivery_id=delivery_id, now=now))

    async def cancel(self, delivery_id: int, *, now: datetime) -> Delivery:
        """Send it no more, unless it was sent."""
        return await self._database.write(partial(_cancel, delivery_id=delivery_id, now=now))

    async def delivery(self, delivery_id: int) -> Delivery:
        """Raises `UnknownDelivery`."""
        return await self._database.read(partial(_named, delivery_id=delivery_id))

    async def deliveries(
        self,
        *,
        target: str | None = None,
        states: Collection[DeliveryState] = (),
        job: str | None = None,
        run: str | None = None,
        limit: int,
        before: int | None = None,
    ) -> tuple[Delivery, ...]:
        """Newest first; `target` is a name, with or without a recipient."""
        return await self._database.read(
            partial(_listed, target=target, states=states, job=job, run=run, limit=limit, before=before)
        )

    async def counts(self) -> Mapping[DeliveryState, int]:
        return await self._database.read(_counts)

    async def prune(self, *, before: datetime) -> int:
        """Forget deliveries that ended before that time; how many those were."""
        return await self._database.write(partial(_prune, before=before))


def _add(
    connection: Connection, target: str, key: str, message: Message, *, now: datetime, about: Run | None = None
) -> Delivery:
    values = {
        "target": target,
        "key": key,
        "state": _WAITING,
        "job": about.job if about else None,
        "run": about.id if about else None,
        "title": message.title,
        "text": message.text,
        "facts": dict(message.facts),
        "attempts": 0,
        "parts_sent": 0,
        "created_at": now,
        "since": now,
        "due_at": now,
    }
    with suppress(IntegrityError), connection.begin_nested():  # Violated: it is there already.
        connection.execute(insert(_delivery).values(**values))
        _add_files(connection, target, key, message.files)
    return _of(connection.execute(select(_delivery).where(_delivery.c.target == target, _delivery.c.key == key)).one())


def _add_files(connection: Connection, target: str, key: str, files: Sequence[Attachment]) -> None:
    if not files:
        return
    made = select(_delivery.c.id).where(_delivery.c.target == target, _delivery.c.key == key)
    delivery_id = connection.execute(made).scalar_one()
    for place, file in enumerate(files):
        values = {"name": file.name[:255], "content_type": file.content_type[:128], "content": file.content}
        connection.execute(insert(_file).values(delivery=delivery_id, place=place, **values))


def _files(connection: Connection, *, delivery_id: int) -> tuple[Attachment, ...]:
    rows = connection.execute(select(_file).where(_file.c.delivery == delivery_id).order_by(_file.c.place)).all()
    return tuple(Attachment(name=row.name, content_type=row.content_type, content=bytes(row.content)) for row in rows)


def _of(row: Row[Any]) -> Delivery:
    facts: Mapping[str, JSON] = row.facts
    return Delivery(
        id=row.id,
        target=row.target,
        key=row.key,
        state=DeliveryState(row.state),
        message=Message(title=row.title, text=row.text, facts=facts),
        job=row.job,
        run=row.run,
        attempts=row.attempts,
        parts_sent=row.parts_sent,
        created_at=row.created_at,
        since=row.since,
        due_at=row.due_at,
        ended_at=row.ended_at,
        error=row.error,
        receipt=row.receipt,
        owner=row.owner,
    )


def _release(connection: Connection, *, owner: str) -> None:
    connection.execute(update(_delivery).where(_delivery.c.owner == owner).values(owner=None, lease_until=None))


_HEADS = select(_delivery.c.target, _delivery.c.due_at, _delivery.c.lease_until, _delivery.c.since).where(
    _delivery.c.id.in_(
        select(func.min(_delivery.c.id)).where(_delivery.c.state == _WAITING).group_by(_delivery.c.target)
    )
)


def _lanes(connection: Connection, *, now: datetime) -> Mapping[str, Lane]:
    rows = connection.execute(_HEADS).all()
    return {row.target: Lane(due_at=max(row.due_at, row.lease_until or now), since=row.since) for row in rows}


def _shared_lanes(connection: Connection, *, owner: str, now: datetime) -> Mapping[str, Lane]:
    others = select(_node.c.id).where(_node.c.id != owner)
    free = or_(_delivery.c.owner.is_(None), _delivery.c.owner.not_in(others))
    rows = connection.execute(_HEADS.where(free)).all()
    return {row.target: Lane(due_at=max(row.due_at, now), since=row.since) for row in rows}


def _is_taken(connection: Connection, head: Row[Any], *, owner: str, now: datetime, is_shared: bool) -> bool:
    """Whether somebody else is sending it.  Among nodes, whoever is not known any more may not send either."""
    if not is_shared:
        return head.lease_until is not None and head.lease_until > now
    living = set(connection.execute(select(_node.c.id).where(_node.c.id.in_([head.owner, owner]))).scalars())
    return owner not in living or head.owner in living - {owner}


def _claim(
    connection: Connection, *, target: str, owner: str, now: datetime, lease: timedelta, is_shared: bool
) -> Delivery | None:
    waiting = select(_delivery).where(_delivery.c.target == target, _delivery.c.state == _WAITING)
    head = connection.execute(waiting.order_by(_delivery.c.id).limit(1).with_for_update()).one_or_none()
    if head is None or head.due_at > now or _is_taken(connection, head, owner=owner, now=now, is_shared=is_shared):
        return None
    values = {"owner": owner, "lease_until": now + lease, "attempts": head.attempts + 1}
    connection.execute(update(_delivery).where(_delivery.c.id == head.id).values(**values))
    return _named(connection, delivery_id=head.id)


def _change(connection: Connection, *, delivery_id: int, **values: Any) -> None:
    connection.execute(update(_delivery).where(_delivery.c.id == delivery_id).values(**values))


def _change_ours(connection: Connection, *, delivery: Delivery, **values: Any) -> bool:
    """Unless somebody else has taken it over since."""
    ours = update(_delivery).where(
        _delivery.c.id == delivery.id, _delivery.c.owner == delivery.owner, _delivery.c.attempts == delivery.attempts
    )
    return connection.execute(ours.values(**values)).rowcount == 1


def _end(connection: Connection, *, delivery: Delivery, values: Mapping[str, Any]) -> None:
    is_sent = values["state"] == str(DeliveryState.SENT)
    if not (_change_ours(connection, delivery=delivery, owner=None, lease_until=None) or is_sent):
        return
    ends = [_WAITING, _CANCELLED] if is_sent else [_WAITING]
    statement = update(_delivery).where(_delivery.c.id == delivery.id, _delivery.c.state.in_(ends))
    connection.execute(statement.values(**values))
    if is_sent:
        connection.execute(delete(_file).where(_file.c.delivery == delivery.id))


def _hurry(connection: Connection, *, name: str, now: datetime) -> None:
    of_target = or_(_delivery.c.target == name, _delivery.c.target.startswith(f"{name}:", autoescape=True))
    may = or_(_delivery.c.not_before.is_(None), _delivery.c.not_before <= now)
    waiting = update(_delivery).where(of_target, _delivery.c.state == _WAITING, _delivery.c.due_at > now, may)
    connection.execute(waiting.values(due_at=now))


def _retry(connection: Connection, *, delivery_id: int, now: datetime) -> Delivery:
    delivery = _named(connection, delivery_id=delivery_id)
    if delivery.state is DeliveryState.SENT or delivery.owner is not None:
        return delivery
    values = {"state": _WAITING, "since": now, "due_at": now, "not_before": None, "ended_at": None}
    _change(connection, delivery_id=delivery_id, **values)
    return _named(connection, delivery_id=delivery_id)


def _cancel(connection: Connection, *, delivery_id: int, now: datetime) -> Delivery:
    delivery = _named(connection, delivery_id=delivery_id)
    if delivery.state is DeliveryState.WAITING:
        _change(connection, delivery_id=delivery_id, state=_CANCELLED, ended_at=now)
    return _named(connection, delivery_id=delivery_id)


def _named(connection: Connection, *, delivery_id: int) -> Delivery:
    row = connection.execute(select(_delivery).where(_delivery.c.id == delivery_id)).one_or_none()
    if row is None:
        raise UnknownDelivery(delivery_id)
    return _of(row)


def _listed(
    connection: Connection,
    *,
    target: str | None,
    states: Collection[DeliveryState],
    job: str | None,
    run: str | None,
    limit: int,
    before: int | None,
) -> tuple[Delivery, ...]:
    statement = select(_delivery).order_by(_delivery.c.id.desc()).limit(limit)
    if target is not None:
        statement = statement.where(
            or_(_delivery.c.target == target, _delivery.c.target.startswith(f"{target}:", autoescape=True))
        )
    if states:
        statement = statement.where(_delivery.c.state.in_([str(state) for state in states]))
    if job is not None:
        statement = statement.where(_delivery.c.job == job)
    if run is not None:
        statement = statement.where(_delivery.c.run == run)
    if before is not None:
        statement = statement.where(_delivery.c.id < before)
    return tuple(_of(row) for row in connection.execute(statement).all())


def _counts(connection: Connection) -> Mapping[DeliveryState, int]:
    statement = select(_delivery.c.state, func.count()).group_by(_delivery.c.state)
    return {DeliveryState(state): count for state, count in connection.execute(statement).all()}


def _prune(connection: Connection, *, before: datetime) -> int:
    ended = delete(_delivery).where(_delivery.c.state != _WAITING, _delivery.c.ended_at < before)
    return connection.execute(ended).rowcount
