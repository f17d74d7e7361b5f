"""Which node keeps which channel, where several share the database.

A claim is a row that names a node, and holds for as long as that node is known
among the nodes: it has no clock of its own.  A node that is believed dead
loses its row, and with it its runs, its turns and its channels at once; see
`sexton.scheduler` for when that is.  Every method is one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, final

from sqlalchemy import Connection, delete, insert, select, update

from sexton import database as tables
from sexton.database import Database

_claim = tables.channel_claim
_node = tables.node
_drained = tables.drained_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The node that keeps a channel; `told` is what it said of the channel with its last beat, if it did."""

    node: str
    told: Mapping[str, Any]


@final
class ChannelClaims:
    """The claims of the node with the id `node`, which others know by `name`.  Raises `DatabaseError`."""

    def __init__(self, database: Database, *, node: str, name: str) -> None:
        self._database = database
        self._name = name
        self.node = node

    async def take(self, channels: Collection[str], *, now: datetime) -> frozenset[str]:
        """Claim those that no node keeps; which of them are ours now.  A node that is drained gets none anew."""
        owners = await self._database.read(partial(_owners, channels=channels))
        if len(owners) < len(set(channels)):
            owners = await self._database.write(
                partial(_take, channels=channels, node=self.node, name=self._name, now=now)
            )
        return frozenset(channel for channel, owner in owners.items() if owner == self.node)

    async def release(self, channels: Collection[str], *, now: datetime) -> None:
        """Give them back; what is not ours is left as it is.  The connections must have ended."""
        await self._database.write(partial(_release, channels=channels, node=self.node, now=now))

    async def forget(self, channel: str) -> None:
        """Give it back for good: nobody waits for a node that keeps it."""
        await self._database.write(partial(_forget, channel=channel, node=self.node))

    async def holders(self) -> Mapping[str, Holder]:
        """The living node of each channel that has one."""
        return await self._database.read(_holders)


def is_claimed_by(connection: Connection, *, channel: str, node: str) -> bool:
    """Whether the channel is that node's, for as long as this transaction lasts."""
    owner = select(_claim.c.owner).where(_claim.c.channel == channel).with_for_update(read=True)
    return connection.execute(owner).scalar() == node


def _owners(connection: Connection, *, channels: Collection[str]) -> dict[str, str]:
    """Those that have one that lives."""
    held = select(_claim.c.channel, _claim.c.owner).join(_node, _node.c.id == _claim.c.owner)
    rows = connection.execute(held.where(_claim.c.channel.in_(channels))).all()
    return {row.channel: row.owner for row in rows}


def _take(connection: Connection, *, channels: Collection[str], node: str, name: str, now: datetime) -> dict[str, str]:
    owners = _owners(connection, channels=channels)
    known = connection.execute(select(_node.c.id).where(_node.c.id == node)).first() is not None
    drained = connection.execute(select(_drained.c.name).where(_drained.c.name == name)).first() is not None
    if not known or drained:
        return owners
    for channel in sorted(set(channels) - set(owners)):
        mine = {"owner": node, "since": now}
        if not connection.execute(update(_claim).where(_claim.c.channel == channel).values(**mine)).rowcount:
            connection.execute(insert(_claim).values(channel=channel, **mine))
        owners[channel] = node
    return owners


def _release(connection: Connection, *, channels: Collection[str], node: str, now: datetime) -> None:
    ours = update(_claim).where(_claim.c.channel.in_(channels), _claim.c.owner == node)
    connection.execute(ours.values(owner=None, since=now))


def _forget(connection: Connection, *, channel: str, node: str) -> None:
    connection.execute(delete(_claim).where(_claim.c.channel == channel, _claim.c.owner == node))


def _holders(connection: Connection) -> dict[str, Holder]:
    rows = connection.execute(
        select(_claim.c.channel, _node.c.name, _node.c.offers).join(_node, _node.c.id == _claim.c.owner)
    ).all()
    return {
        row.channel: Holder(node=row.name, told=((row.offers or {}).get("channels") or {}).get(row.channel) or {})
        for row in rows
    }
