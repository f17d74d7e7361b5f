"""Questions for a person, in the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection, Row, insert, select, update

from sexton.agent.approval import ApprovalState, PendingApproval, Question, QuestionKind
from sexton.database import Database, approval

_PENDING = str(ApprovalState.PENDING)


@final
class DatabaseApprovals:
    """Fulfils `ApprovalStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_or_find(self, fresh: PendingApproval) -> PendingApproval:
        """Add the question, or return the one with its key."""

        def work(connection: Connection) -> PendingApproval:
            mine = approval.c.key == fresh.question.key
            if row := connection.execute(select(approval).where(mine)).one_or_none():
                return _approval_of(row)
            connection.execute(insert(approval).values(**_values(fresh)))
            return fresh

        return await self._database.write(work)

    async def find(self, approval_id: str) -> PendingApproval | None:
        query = select(approval).where(approval.c.id == approval_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _approval_of(row)

    async def close(self, closed: PendingApproval) -> bool:
        """Write the end of a question that is pending; False if it is not."""
        mine = (approval.c.id == closed.id) & (approval.c.state == _PENDING)
        statement = update(approval).where(mine).values(**_end_values(closed))
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)

    async def listed(self, *, pending_only: bool, limit: int) -> tuple[PendingApproval, ...]:
        query = select(approval).order_by(approval.c.asked_at.desc()).limit(limit)
        if pending_only:
            query = query.where(approval.c.state == _PENDING)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(map(_approval_of, rows))

    async def void(self, *, turn: str | None, holder_prefix: str | None, at: datetime) -> tuple[str, ...]:
        """Close the pending ones of a turn, or of all holders of a kind; returns their ids."""
        mine = approval.c.state == _PENDING
        if turn is not None:
            mine &= approval.c.turn == turn
        if holder_prefix is not None:
            mine &= approval.c.holder.startswith(holder_prefix, autoescape=True)

        def work(connection: Connection) -> tuple[str, ...]:
            ids = tuple(connection.execute(select(approval.c.id).where(mine)).scalars().all())
            if ids:
                void = {"state": str(ApprovalState.VOID), "answered_at": at}
                connection.execute(update(approval).where(approval.c.id.in_(ids)).values(**void))
            return ids

        return await self._database.write(work)


def _values(fresh: PendingApproval) -> dict[str, Any]:
    question = fresh.question
    return {
        "id": fresh.id,
        "key": question.key[:512],
        "kind": str(question.kind),
        "holder": question.holder,
        "turn": question.turn,
        "server": question.server,
        "tool": question.tool,
        "asked": dict(question.asked),
        "asked_at": fresh.asked_at,
        "expires_at": fresh.expires_at,
        **_end_values(fresh),
    }


def _end_values(closed: PendingApproval) -> dict[str, Any]:
    return {
        "state": str(closed.state),
        "answered_at": closed.answered_at,
        "answered_by": closed.answered_by,
        "content": None if closed.content is None else dict(closed.content),
    }


def _approval_of(row: Row[Any]) -> PendingApproval:
    question = Question(
        key=row.key,
        kind=QuestionKind(row.kind),
        holder=row.holder,
        turn=row.turn,
        server=row.server,
        tool=row.tool,
        asked=row.asked,
    )
    return PendingApproval(
        id=row.id,
        question=question,
        state=ApprovalState(row.state),
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        answered_at=row.answered_at,
        answered_by=row.answered_by,
        content=row.content,
    )
