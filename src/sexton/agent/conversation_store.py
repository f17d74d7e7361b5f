"""Conversations in the database.  Every function of a connection is one step of one transaction."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, final

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, insert, or_, select, tuple_, update

from sexton.agent.conversation import ChatSettings, Conversation, ConversationRecord, Found, TurnRow, TurnState
from sexton.agent.messages import Attachment, CallRecord, CallState, Message, Role, UserMessage
from sexton.database import (
    Database,
    attachment,
    channel_claim,
    conversation,
    message,
    message_call,
    node,
    search_on,
    turn,
)
from sexton.errors import SextonError, UsageError
from sexton.journal import JSON

TITLE_LENGTH = 80
_ACTIVE = (str(TurnState.QUEUED), str(TurnState.RUNNING))


class UnknownConversation(UsageError):
    """There is no such conversation."""


class UnknownMessage(UsageError):
    """The conversation has no such message."""


def new_id() -> str:
    """An id that sorts by the time of its making (RFC 9562, version 7 in spirit: only the order matters here)."""
    return f"{uuid.uuid1().time:016x}{uuid.uuid4().hex[:8]}"


class ConversationElsewhere(SextonError):
    """Another gateway on this database has turns of the conversation to do."""


class TurnElsewhere(Exception):
    """Another gateway has taken the turn over: it is not ours to do any more."""


@final
class ConversationStore:
    """`owner` is this gateway's id among the nodes, where several share the database; None: there is one."""

    def __init__(self, database: Database, *, owner: str | None = None) -> None:
        self._database = database
        self._owner = owner

    # Conversations

    async def open(self, key: str, *, way: str, settings: ChatSettings | None, at: datetime) -> Conversation:
        """The conversation of that key, made if it is new; settings that are given replace its own."""

        def work(connection: Connection) -> Conversation:
            row = connection.execute(select(conversation).where(conversation.c.key == key)).one_or_none()
            if row is None:
                values = _conversation_values(key, way, settings or ChatSettings(), at)
                connection.execute(insert(conversation).values(**values))
                return _find(connection, values["id"])
            if settings is not None and settings != ChatSettings.from_json(row.settings):
                mine = conversation.c.id == row.id
                connection.execute(update(conversation).where(mine).values(settings=settings.as_json()))
            return _find(connection, row.id)

        return await self._database.write(work)

    async def find(self, conversation_id: str) -> Conversation:
        """Raises UnknownConversation."""
        return await self._database.read(lambda connection: _find(connection, conversation_id))

    async def listed(self, *, limit: int, before: datetime | None, way: str | None) -> tuple[Conversation, ...]:
        """The ones that changed last first."""
        query = select(conversation).order_by(conversation.c.changed_at.desc()).limit(limit)
        if before is not None:
            query = query.where(conversation.c.changed_at < before)
        if way is not None:
            query = query.where(conversation.c.way == way)

        def work(connection: Connection) -> tuple[Conversation, ...]:
            return tuple(_conversation_of(connection, row) for row in connection.execute(query).all())

        return await self._database.read(work)

    async def record(self, conversation_id: str) -> ConversationRecord:
        """A conversation with all that is in it.  Raises UnknownConversation."""

        def work(connection: Connection) -> ConversationRecord:
            found = _find(connection, conversation_id)
            shown = (str(TurnState.QUEUED), str(TurnState.RUNNING), str(TurnState.FAILED), str(TurnState.STOPPED))
            rows = connection.execute(
                select(turn).where(turn.c.conversation == conversation_id, turn.c.state.in_(shown)).order_by(turn.c.id)
            )
            turns = tuple(_turn_of(connection, row) for row in rows.all())
            return ConversationRecord(conversation=found, messages=_history(connection, found.id, 0), turns=turns)

        return await self._database.read(work)

    async def remove(self, conversation_id: str) -> None:
        """Raises UnknownConversation."""

        def work(connection: Connection) -> None:
            _find(connection, conversation_id)
            connection.execute(delete(conversation).where(conversation.c.id == conversation_id))

        await self._database.write(work)

    async def search(self, words: str, *, limit: int) -> tuple[Found, ...]:
        """Messages that hold all of the words, best first."""
        return await self._database.read(lambda connection: _search(connection, words, limit))

    async def pictures(self, turn_id: str, *, most: int) -> tuple[Attachment, ...]:
        """Those of the model's messages in a turn and of their calls, the first ones first."""
        of_turn = (
            select(attachment)
            .join(
                message,
                (message.c.conversation == attachment.c.conversation) & (message.c.number == attachment.c.number),
            )
            .where(message.c.turn == turn_id, message.c.role == str(Role.ASSISTANT))
            .where(attachment.c.media_type.startswith("image/"))
            .order_by(attachment.c.number, attachment.c.id)
            .limit(most)
        )
        found = await self._database.read(lambda connection: map(_attachment_of, connection.execute(of_turn).all()))
        return tuple(dict.fromkeys(found))  # what a tool made may stand in the reply as well

    async def set_summary(self, conversation_id: str, summary: str, upto: int) -> None:
        mine = conversation.c.id == conversation_id
        statement = update(conversation).where(mine).values(summary=summary, summary_upto=upto)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    # Turns

    async def add_turn(
        self, conversation_id: str, said: UserMessage, *, key: str | None, at: datetime
    ) -> tuple[TurnRow, bool]:
        """A message's turn, and whether it is new: the same key is the same turn.  Raises UnknownConversation."""

        def work(connection: Connection) -> tuple[TurnRow, bool]:
            _find(connection, conversation_id)
            if key is not None and (known := _turn_by_key(connection, conversation_id, key)):
                return known, False
            if self._owner is not None:
                _require_here(connection, conversation_id, self._owner)
            made = new_id()
            connection.execute(
                insert(turn).values(
                    id=made,
                    conversation=conversation_id,
                    message_key=key,
                    state=str(TurnState.QUEUED),
                    said={"text": said.text, "author": said.author},
                    attempt=0,
                    text="",
                    usage={},
                    created_at=at,
                    owner=self._owner,
                )
            )
            _add_attachments(connection, conversation_id, made, 0, "", said.images)
            _touch(connection, conversation_id, at, title=said.text)
            return _turn(connection, made), True

        return await self._database.write(work)

    async def begin_turn(self, turn_id: str, *, at: datetime) -> tuple[TurnRow, bool]:
        """Mark it as under way; its message joins the conversation, unless it did so before a restart.

        Returns the row and whether it was under way before: then the calls of which nobody knows the end are marked so.
        Raises TurnElsewhere.
        """

        def work(connection: Connection) -> tuple[TurnRow, bool]:
            self._require_ours(connection, turn_id)
            row = _turn(connection, turn_id)
            again = row.state is TurnState.RUNNING
            values: dict[str, Any] = {"state": str(TurnState.RUNNING), "attempt": row.attempt + 1}
            connection.execute(update(turn).where(turn.c.id == turn_id).values(**values, started_at=at))
            if again:
                _mark_unknown(connection, turn_id)
            else:
                _join(connection, row, turn_id, at)
            return _turn(connection, turn_id), again

        return await self._database.write(work)

    async def merge_turn(self, turn_id: str, into: str, *, at: datetime) -> UserMessage:
        """The message of a waiting turn joins the conversation as part of the turn under way."""

        def work(connection: Connection) -> UserMessage:
            row = _turn(connection, turn_id)
            _join(connection, row, into, at)
            merged = {"state": str(TurnState.MERGED), "merged_into": into, "ended_at": at}
            connection.execute(update(turn).where(turn.c.id == turn_id).values(**merged))
            return row.said

        return await self._database.write(work)

    async def end_turn(
        self,
        turn_id: str,
        state: TurnState,
        *,
        text: str,
        usage: Mapping[str, JSON],
        error: str | None,
        hint: str | None,
        partial: str,
        at: datetime,
    ) -> None:
        """What became of a turn; `partial` is what the model had said of a message that it did not finish.

        Raises TurnElsewhere.
        """

        def work(connection: Connection) -> None:
            self._require_ours(connection, turn_id)
            row = _turn(connection, turn_id)
            values = {"state": str(state), "text": text, "usage": dict(usage), "error": error, "hint": hint}
            connection.execute(update(turn).where(turn.c.id == turn_id).values(**values, ended_at=at))
            if partial:
                cut = Message(role=Role.ASSISTANT, text=partial, turn=turn_id, cut=True, at=at)
                _add_message(connection, row.conversation, cut)
            _close_calls(connection, turn_id)
            _touch(connection, row.conversation, at)

        await self._database.write(work)

    async def turn(self, turn_id: str) -> TurnRow:
        return await self._database.read(lambda connection: _turn(connection, turn_id))

    async def unfinished_turns(self) -> tuple[TurnRow, ...]:
        """Those that were waiting or under way when their gateway ended, oldest first; from now on they are ours."""

        def work(connection: Connection) -> tuple[TurnRow, ...]:
            left: ColumnElement[bool] = turn.c.state.in_(_ACTIVE)
            if self._owner is not None:
                left &= or_(turn.c.owner.is_(None), turn.c.owner.not_in(select(node.c.id)))
                left &= turn.c.conversation.not_in(_of_others_channels(self._owner))
            rows = connection.execute(select(turn).where(left).order_by(turn.c.id)).all()
            if rows and self._owner is not None:
                mine = turn.c.id.in_([row.id for row in rows])
                connection.execute(update(turn).where(mine).values(owner=self._owner))
            return tuple(_turn_of(connection, row) for row in rows)

        return await (self._database.read(work) if self._owner is None else self._database.write(work))

    def _require_ours(self, connection: Connection, turn_id: str) -> None:
        if self._owner is None:
            return
        if connection.execute(select(turn.c.owner).where(turn.c.id == turn_id)).scalar() != self._owner:
            raise TurnElsewhere

    # Messages

    async def add_message(self, conversation_id: str, said: Message) -> Message:
        """Add it as the last one; returns it with its number."""
        return await self._database.write(lambda connection: _add_message(connection, conversation_id, said))

    async def change_call(self, conversation_id: str, number: int, call: CallRecord) -> None:
        def work(connection: Connection) -> None:
            mine = (
                (message_call.c.conversation == conversation_id)
                & (message_call.c.number == number)
                & (message_call.c.id == call.id)
            )
            values = {"state": str(call.state), "result": clean(call.result), "seconds": call.seconds}
            connection.execute(update(message_call).where(mine).values(**values))
            if call.state.is_final and call.images:
                _add_attachments(connection, conversation_id, "", number, call.id, call.images)

        await self._database.write(work)

    async def history(self, conversation_id: str, *, after: int = 0) -> tuple[Message, ...]:
        """What was said after the message of that number, oldest first, without what was replaced."""
        return await self._database.read(lambda connection: _history(connection, conversation_id, after))

    async def replace_from(self, conversation_id: str, number: int) -> Message:
        """Put aside a message of the user and all that followed; returns it.  Raises UnknownMessage."""

        def work(connection: Connection) -> Message:
            known = {each.number: each for each in _history(connection, conversation_id, 0)}
            if number not in known or known[number].role is not Role.USER:
                raise UnknownMessage(f"The conversation has no message {number} of the user.")
            here = (message.c.conversation == conversation_id) & (message.c.number >= number)
            connection.execute(update(message).where(here).values(replaced=True))
            found = _find(connection, conversation_id)
            if found.summary_upto >= number:
                mine = conversation.c.id == conversation_id
                connection.execute(update(conversation).where(mine).values(summary="", summary_upto=0))
            return known[number]

        return await self._database.write(work)


def _of_others_channels(owner: str) -> Select[tuple[str]]:
    """Conversations on channels that this node does not keep: what they ask and stop comes to the one that does."""
    others = select(channel_claim.c.channel).where(channel_claim.c.owner.is_distinct_from(owner))
    return select(conversation.c.id).where(conversation.c.way.in_(others))


def _require_here(connection: Connection, conversation_id: str, owner: str) -> None:
    """Raises ConversationElsewhere if a gateway that lives has turns of it to do, and is not this one."""
    elsewhere = (
        select(node.c.name)
        .join(turn, turn.c.owner == node.c.id)
        .where(turn.c.conversation == conversation_id, turn.c.state.in_(_ACTIVE), node.c.id != owner)
        .limit(1)
    )
    if (name := connection.execute(elsewhere).scalar()) is not None:
        raise ConversationElsewhere(
            f"The node '{name}' is at work on this conversation.",
            hint="talk to that one, or wait until it has answered; then any node will do",
        )


def clean(said: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair."""
    return said.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _conversation_values(key: str, way: str, settings: ChatSettings, at: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "key": key,
        "way": way,
        "title": "",
        "settings": settings.as_json(),
        "summary": "",
        "summary_upto": 0,
        "created_at": at,
        "changed_at": at,
    }


def _find(connection: Connection, conversation_id: str) -> Conversation:
    row = connection.execute(select(conversation).where(conversation.c.id == conversation_id)).one_or_none()
    if row is None:
        raise UnknownConversation(
            f"There is no conversation {conversation_id!r}.", hint="see them all: sexton chat list"
        )
    return _conversation_of(connection, row)


def _conversation_of(connection: Connection, row: Row[Any]) -> Conversation:
    waiting = select(func.count()).where(turn.c.conversation == row.id, turn.c.state.in_(_ACTIVE))
    return Conversation(
        id=row.id,
        key=row.key,
        way=row.way,
        title=row.title or "(empty)",
        settings=ChatSettings.from_json(row.settings),
        created_at=row.created_at,
        changed_at=row.changed_at,
        summary=row.summary,
        summary_upto=row.summary_upto,
        busy=bool(connection.execute(waiting).scalar()),
    )


def _touch(connection: Connection, conversation_id: str, at: datetime, *, title: str = "") -> None:
    mine = conversation.c.id == conversation_id
    connection.execute(update(conversation).where(mine).values(changed_at=at))
    if first := clean(" ".join(title.split()))[:TITLE_LENGTH]:
        connection.execute(update(conversation).where(mine, conversation.c.title == "").values(title=first))


def _turn(connection: Connection, turn_id: str) -> TurnRow:
    return _turn_of(connection, connection.execute(select(turn).where(turn.c.id == turn_id)).one())


def _turn_by_key(connection: Connection, conversation_id: str, key: str) -> TurnRow | None:
    mine = (turn.c.conversation == conversation_id) & (turn.c.message_key == key)
    row = connection.execute(select(turn).where(mine)).one_or_none()
    return None if row is None else _turn_of(connection, row)


def _turn_of(connection: Connection, row: Row[Any]) -> TurnRow:
    mine = (attachment.c.turn == row.id) & (attachment.c.number == 0)
    files = connection.execute(select(attachment).where(mine).order_by(attachment.c.place)).all()
    return TurnRow(
        id=row.id,
        conversation=row.conversation,
        state=TurnState(row.state),
        said=UserMessage(row.said["text"], tuple(map(_attachment_of, files)), row.said["author"]),
        attempt=row.attempt,
        merged_into=row.merged_into,
        text=row.text,
        error=row.error,
        hint=row.hint,
        usage=row.usage,
        created_at=row.created_at,
    )


def _join(connection: Connection, row: TurnRow, turn_id: str, at: datetime) -> None:
    """The message of a turn becomes the last one of its conversation; its files go with it."""
    said = Message(role=Role.USER, text=row.said.text, author=row.said.author, turn=turn_id, at=at)
    joined = _add_message(connection, row.conversation, said)
    waiting = (attachment.c.turn == row.id) & (attachment.c.number == 0)
    connection.execute(update(attachment).where(waiting).values(number=joined.number))


def _add_message(connection: Connection, conversation_id: str, said: Message) -> Message:
    last = select(func.max(message.c.number)).where(message.c.conversation == conversation_id)
    number = (connection.execute(last).scalar() or 0) + 1
    connection.execute(
        insert(message).values(
            conversation=conversation_id,
            number=number,
            turn=said.turn,
            role=str(said.role),
            text=clean(said.text),
            author=said.author[:255],
            cut=said.cut,
            replaced=False,
            at=said.at,
        )
    )
    search_on(connection).add_message(conversation_id, number, said.text)
    _add_attachments(connection, conversation_id, said.turn, number, "", said.images)
    for place, call in enumerate(said.calls):
        connection.execute(insert(message_call).values(**_call_values(conversation_id, number, place, call)))
    return replace(said, number=number)


def _call_values(conversation_id: str, number: int, place: int, call: CallRecord) -> dict[str, Any]:
    return {
        "conversation": conversation_id,
        "number": number,
        "id": call.id[:255],
        "place": place,
        "name": call.name[:255],
        "server": call.server[:64],
        "tool": call.tool[:255],
        "arguments": dict(call.arguments),
        "state": str(call.state),
        "result": clean(call.result),
        "seconds": call.seconds,
    }


def _add_attachments(
    connection: Connection, conversation_id: str, turn_id: str, number: int, call: str, files: Sequence[Attachment]
) -> None:
    for place, file in enumerate(files):
        connection.execute(
            insert(attachment).values(
                id=new_id(),
                conversation=conversation_id,
                turn=turn_id,
                number=number,
                call=call,
                place=place,
                media_type=file.media_type[:128],
                name=file.name[:255],
                data=file.data,
            )
        )


def _attachment_of(row: Row[Any]) -> Attachment:
    return Attachment(row.media_type, bytes(row.data), row.name)


def _history(connection: Connection, conversation_id: str, after: int) -> tuple[Message, ...]:
    here = (message.c.conversation == conversation_id) & (message.c.number > after) & ~message.c.replaced
    rows = connection.execute(select(message).where(here).order_by(message.c.number)).all()
    calls: dict[int, list[Row[Any]]] = defaultdict(list)
    mine = (message_call.c.conversation == conversation_id) & (message_call.c.number > after)
    for row in connection.execute(select(message_call).where(mine).order_by(message_call.c.place)).all():
        calls[row.number].append(row)
    files: dict[tuple[int, str], list[Attachment]] = defaultdict(list)
    theirs = (attachment.c.conversation == conversation_id) & (attachment.c.number > after)
    for row in connection.execute(select(attachment).where(theirs).order_by(attachment.c.place)).all():
        files[row.number, row.call].append(_attachment_of(row))
    return tuple(_message_of(row, calls[row.number], files) for row in rows)


def _message_of(
    row: Row[Any], calls: Sequence[Row[Any]], files: Mapping[tuple[int, str], Sequence[Attachment]]
) -> Message:
    return Message(
        role=Role(row.role),
        text=row.text,
        images=tuple(files.get((row.number, ""), ())),
        author=row.author,
        calls=tuple(_call_of(call, files) for call in calls),
        cut=row.cut,
        number=row.number,
        turn=row.turn,
        at=row.at,
    )


def _call_of(row: Row[Any], files: Mapping[tuple[int, str], Sequence[Attachment]]) -> CallRecord:
    return CallRecord(
        id=row.id,
        name=row.name,
        server=row.server,
        tool=row.tool,
        arguments=row.arguments,
        state=CallState(row.state),
        result=row.result,
        images=tuple(files.get((row.number, row.id), ())),
        seconds=row.seconds,
    )


_UNKNOWN = (
    "The gateway was cut off while this call was under way. Nobody knows whether it had its effect, and it was not "
    "made again: find out before you repeat it."
)


def _mark_unknown(connection: Connection, turn_id: str) -> None:
    _set_calls(connection, turn_id, (CallState.STARTED,), CallState.UNKNOWN, _UNKNOWN)


def _close_calls(connection: Connection, turn_id: str) -> None:
    """After its end, no call of a turn is open: those that were not made will not be."""
    _mark_unknown(connection, turn_id)
    planned = (CallState.PLANNED, CallState.ASKED)
    _set_calls(connection, turn_id, planned, CallState.CANCELLED, "The turn was ended before this call was made.")


def _set_calls(
    connection: Connection, turn_id: str, states: Sequence[CallState], state: CallState, result: str
) -> None:
    for row in connection.execute(select(message).where(message.c.turn == turn_id)).all():
        mine = (message_call.c.conversation == row.conversation) & (message_call.c.number == row.number)
        open_ones = mine & message_call.c.state.in_([str(each) for each in states])
        connection.execute(update(message_call).where(open_ones).values(state=str(state), result=result))


def _search(connection: Connection, words: str, limit: int) -> tuple[Found, ...]:
    places = search_on(connection).messages(words, limit=limit)
    shown = select(message.c.conversation, message.c.number, message.c.role, message.c.at, conversation.c.title).join(
        conversation, conversation.c.id == message.c.conversation
    )
    wanted = tuple_(message.c.conversation, message.c.number).in_([(each.conversation, each.number) for each in places])
    known = {(row.conversation, row.number): row for row in connection.execute(shown.where(wanted)).all()}
    return tuple(
        Found(
            conversation=each.conversation,
            title=row.title,
            number=each.number,
            role=row.role,
            excerpt=each.excerpt,
            at=row.at,
        )
        for each in places
        if (row := known.get((each.conversation, each.number))) is not None
    )
