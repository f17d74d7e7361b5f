"""The durable inbox: what came in, who may talk to us, and how far each channel has read.

Every method is one transaction.  A message is in the database, with the place
from which its channel goes on, before the platform is told that we have it;
the same one again changes nothing.  Of strangers only that they wrote is kept.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from sexton import database as tables
from sexton.database import Database
from sexton.errors import UsageError
from sexton.gateway.channels.access import (
    HOUR,
    AccessRules,
    Facts,
    Standing,
    Verdict,
    code_hash,
    code_in,
    is_live,
    judge,
    new_code,
    stranger_text,
)
from sexton.gateway.channels.channel import ChannelDown, Incoming
from sexton.gateway.channels.claims import is_claimed_by
from sexton.gateway.channels.files import IncomingFile
from sexton.gateway.channels.progress_notes import ProgressNotes, prune_notes
from sexton.gateway.deliveries import Message, queue_message
from sexton.journal import JSON

_inbox = tables.inbox
_file = tables.inbox_file
_cursor = tables.channel_cursor
_person = tables.channel_person
_code = tables.pairing_code
_thread = tables.channel_thread
# Of the strangers of one channel; the oldest are forgotten (and would be told again).
MOST_STRANGERS = 1_000


class InboxState(enum.StrEnum):
    WAITING = "waiting"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message in the inbox that is not answered yet."""

    id: int
    channel: str
    key: str
    chat: str
    thread: str
    sender: str
    author: str
    text: str
    context: Mapping[str, JSON]
    conversation: str | None = None
    """The conversation that it was given to, once it was."""

    @property
    def conversation_key(self) -> str:
        """The same for all that is said in one chat, or in one thread of it."""
        return f"{self.channel}:{self.thread or self.chat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who wrote to a channel, and whether they may."""

    channel: str
    sender: str
    author: str
    standing: Standing
    code: str | None
    since: datetime
    by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of messages: those for the agent, the people that a code let in, and strangers that were told."""

    letters: tuple[Letter, ...]
    paired: tuple[str, ...]
    strangers: tuple[str, ...]


class Inbox:
    """See the module.  Raises `DatabaseError` from every method.

    `node` is the id of this gateway among the nodes, where several share the database; None: there is one.
    """

    def __init__(self, database: Database, *, node: str | None = None) -> None:
        self._database = database
        self._node = node
        self.progress = ProgressNotes(database)
        """What is shown of the turns of its messages."""

    async def cursor(self, channel: str) -> str | None:
        return await self._database.read(partial(_read_cursor, channel=channel))

    async def take(
        self, channel: str, messages: Sequence[Incoming], *, cursor: str | None, rules: AccessRules, now: datetime
    ) -> Taken:
        """Put in what is new and allowed, and tell the channel's place in the same transaction.

        Raises `ChannelDown` if the channel is another node's.
        """
        take = partial(_take, channel=channel, messages=tuple(messages), cursor=cursor, rules=rules, now=now)

        def work(connection: Connection) -> Taken:
            if self._node is not None and not is_claimed_by(connection, channel=channel, node=self._node):
                raise ChannelDown("Another node keeps this channel now.")
            return take(connection)

        return await self._database.write(work)

    async def waiting(self, channel: str | None = None) -> tuple[Letter, ...]:
        """What no answer was written for yet (None: on any channel), the oldest first."""
        return await self._database.read(partial(_waiting, channel=channel))

    async def answer(self, letter: Letter, message: Message | None, *, key: str, now: datetime) -> None:
        """Put the answer (None: there is none) into the outbox, and be done with the message, in one transaction."""
        await self._database.write(partial(_answer, letter=letter, message=message, key=key, now=now))

    async def files(self, letter: Letter) -> tuple[IncomingFile, ...]:
        """What came with a message that has no answer yet."""
        return await self._database.read(partial(_files, message_id=letter.id))

    async def place(self, letter: Letter) -> str:
        """The conversation that it belongs to, for good: what is begun anew later is another one."""
        return await self._database.write(partial(_place, letter=letter))

    async def begin_anew(self, letter: Letter) -> None:
        """Let what comes after this message be another conversation."""
        await self._database.write(partial(_begin_anew, conversation=letter.conversation_key))

    async def counts(self) -> Mapping[str, int]:
        """Messages without an answer, by channel."""
        return await self._database.read(_counts)

    async def prune(self, *, before: datetime) -> None:
        """Forget messages that were answered before that time, codes that are over, and what was shown then."""
        await self._database.write(partial(_prune, before=before))

    # People

    async def people(self, channel: str | None = None) -> tuple[Person, ...]:
        return await self._database.read(partial(_people, channel=channel))

    async def standing(self, channel: str, sender: str) -> Standing | None:
        """What was decided about a sender, if they are known at all."""
        row = await self._database.read(partial(_row, channel=channel, sender=sender))
        return None if row is None else Standing(row.standing)

    async def set_standing(self, channel: str, who: str, standing: Standing, *, by: str, now: datetime) -> Person:
        """Let in or refuse a person, by the code they were told or the platform's id.

        Raises `UsageError` if it is a code that nobody was told, or that is over.
        """
        return await self._database.write(
            partial(_set_standing, channel=channel, who=who, standing=standing, by=by, now=now)
        )

    async def forget(self, channel: str, sender: str) -> bool:
        """Know nothing of that person any more.  False if nothing was known."""
        return await self._database.write(partial(_forget, channel=channel, sender=sender))

    async def make_code(self, channel: str, *, by: str, now: datetime) -> str:
        """A code that lets in the first person who sends it to that channel, within an hour."""
        return await self._database.write(partial(_make_code, channel=channel, by=by, now=now))


def _read_cursor(connection: Connection, *, channel: str) -> str | None:
    return connection.execute(select(_cursor.c.cursor).where(_cursor.c.channel == channel)).scalar()


def _take(
    connection: Connection,
    *,
    channel: str,
    messages: Sequence[Incoming],
    cursor: str | None,
    rules: AccessRules,
    now: datetime,
) -> Taken:
    letters: list[Letter] = []
    paired: list[str] = []
    strangers: list[str] = []
    for message in messages:
        facts = _facts(connection, channel, message, now)
        verdict = judge(rules, message.sender, facts, to_us=message.to_us, direct=message.direct)
        if verdict is Verdict.TAKE and (letter := _put(connection, channel, message, now)):
            letters.append(letter)
        elif verdict is Verdict.PAIR:
            _pair(connection, channel, message, now)
            paired.append(message.sender)
        elif verdict is Verdict.TELL:
            _tell_stranger(connection, channel, message, now)
            strangers.append(message.sender)
        elif verdict is Verdict.IGNORE and facts.standing is Standing.WAITING and code_in(message.text):
            _note_wrong_code(connection, channel, message.sender, now)
    if cursor is not None:
        _write_cursor(connection, channel, cursor)
    return Taken(letters=tuple(letters), paired=tuple(paired), strangers=tuple(strangers))


def _facts(connection: Connection, channel: str, message: Incoming, now: datetime) -> Facts:
    person = _row(connection, channel, message.sender)
    if person is not None and person.standing != str(Standing.WAITING):
        return Facts(standing=Standing(person.standing))
    told = select(func.count()).where(_person.c.channel == channel, _person.c.told_at > now - HOUR)
    wrong = select(func.coalesce(func.sum(_person.c.wrong_codes), 0)).where(
        _person.c.channel == channel, _person.c.wrong_at > now - HOUR
    )
    lately = person is not None and person.wrong_at is not None and person.wrong_at > now - HOUR
    code = code_in(message.text)
    return Facts(
        standing=None if person is None else Standing.WAITING,
        told=person is not None and person.told_at is not None,
        told_lately=connection.execute(told).scalar_one(),
        wrong_codes=person.wrong_codes if person is not None and lately else 0,
        wrong_codes_of_all=connection.execute(wrong).scalar_one(),
        is_code=code is not None and _live_code(connection, channel, code, now) is not None,
    )


def _row(connection: Connection, channel: str, sender: str) -> Row[Any] | None:
    of_sender = select(_person).where(_person.c.channel == channel, _person.c.sender == sender)
    return connection.execute(of_sender).one_or_none()


def _live_code(connection: Connection, channel: str, code: str, now: datetime) -> Row[Any] | None:
    row = connection.execute(select(_code).where(_code.c.hash == code_hash(channel, code))).one_or_none()
    return row if row is not None and is_live(row.created_at, now) else None


def _put(connection: Connection, channel: str, message: Incoming, now: datetime) -> Letter | None:
    """None if it is there already."""
    of_key = select(_inbox.c.id).where(_inbox.c.channel == channel, _inbox.c.key == message.key)
    if connection.execute(of_key).scalar() is not None:
        return None
    values = {
        "channel": channel,
        "key": message.key,
        "chat": message.chat,
        "thread": message.thread,
        "sender": message.sender,
        "author": message.author,
        "text": message.text,
        "context": dict(message.context),
        "state": str(InboxState.WAITING),
        "received_at": now,
    }
    connection.execute(insert(_inbox).values(**values))
    made = connection.execute(select(_inbox).where(_inbox.c.channel == channel, _inbox.c.key == message.key)).one()
    for place, file in enumerate(message.files):
        values = {"content": file.content, "why": file.why, "content_type": file.content_type[:128]}
        connection.execute(insert(_file).values(message=made.id, place=place, name=file.name[:255], **values))
    return _letter(made)


def _files(connection: Connection, *, message_id: int) -> tuple[IncomingFile, ...]:
    rows = connection.execute(select(_file).where(_file.c.message == message_id).order_by(_file.c.place)).all()
    return tuple(
        IncomingFile(
            name=row.name,
            content_type=row.content_type,
            content=None if row.content is None else bytes(row.content),
            why=row.why,
        )
        for row in rows
    )


def _letter(row: Row[Any]) -> Letter:
    return Letter(
        id=row.id,
        channel=row.channel,
        key=row.key,
        chat=row.chat,
        thread=row.thread,
        sender=row.sender,
        author=row.author,
        text=row.text,
        context=row.context,
        conversation=row.conversation,
    )


def _put_person(connection: Connection, channel: str, sender: str, **values: Any) -> None:
    if _row(connection, channel, sender) is None:
        first = {"author": "", "standing": str(Standing.WAITING), "wrong_codes": 0}
        connection.execute(insert(_person).values(channel=channel, sender=sender, **{**first, **values}))
    else:
        of_sender = update(_person).where(_person.c.channel == channel, _person.c.sender == sender)
        connection.execute(of_sender.values(**values))


def _pair(connection: Connection, channel: str, message: Incoming, now: datetime) -> None:
    code = code_in(message.text)
    assert code is not None
    by = _live_code(connection, channel, code, now)
    connection.execute(delete(_code).where(_code.c.hash == code_hash(channel, code)))
    _put_person(
        connection,
        channel,
        message.sender,
        author=message.author,
        standing=str(Standing.ALLOWED),
        since=now,
        by=f"a code of {by.created_by}" if by is not None else "a code",
        code=None,
    )
    said = Message(text="You are let in. What can I do for you?", facts=message.context)
    queue_message(connection, f"{channel}:{message.chat}", said, key=f"paired:{message.key}", now=now)


def _tell_stranger(connection: Connection, channel: str, message: Incoming, now: datetime) -> None:
    code = new_code()
    wrong = {"wrong_codes": 1, "wrong_at": now} if code_in(message.text) else {}
    _put_person(
        connection, channel, message.sender, author=message.author, since=now, told_at=now, code=code, by=None, **wrong
    )
    said = Message(text=stranger_text(channel, code), facts=message.context)
    queue_message(connection, f"{channel}:{message.chat}", said, key=f"stranger:{message.key}", now=now)
    _forget_oldest_strangers(connection, channel)


def _note_wrong_code(connection: Connection, channel: str, sender: str, now: datetime) -> None:
    row = _row(connection, channel, sender)
    lately = row is not None and row.wrong_at is not None and row.wrong_at > now - HOUR
    count = row.wrong_codes + 1 if row is not None and lately else 1
    _put_person(connection, channel, sender, wrong_codes=count, wrong_at=now, **({} if row else {"since": now}))


def _forget_oldest_strangers(connection: Connection, channel: str) -> None:
    strangers = select(_person.c.sender, _person.c.since).where(
        _person.c.channel == channel, _person.c.standing == str(Standing.WAITING)
    )
    rows = connection.execute(strangers.order_by(_person.c.since.desc()).offset(MOST_STRANGERS)).all()
    for row in rows:
        _forget(connection, channel=channel, sender=row.sender)


def _write_cursor(connection: Connection, channel: str, cursor: str) -> None:
    moved = connection.execute(update(_cursor).where(_cursor.c.channel == channel).values(cursor=cursor))
    if not moved.rowcount:
        connection.execute(insert(_cursor).values(channel=channel, cursor=cursor))


def _waiting(connection: Connection, *, channel: str | None) -> tuple[Letter, ...]:
    waiting = select(_inbox).where(_inbox.c.state == str(InboxState.WAITING)).order_by(_inbox.c.id)
    if channel is not None:
        waiting = waiting.where(_inbox.c.channel == channel)
    return tuple(_letter(row) for row in connection.execute(waiting).all())


def _answer(connection: Connection, *, letter: Letter, message: Message | None, key: str, now: datetime) -> None:
    if message is not None:
        queue_message(connection, f"{letter.channel}:{letter.chat}", message, key=key, now=now)
    # What was said is in the conversation; here only its key is needed, so that it is not taken twice.
    done = {"state": str(InboxState.ANSWERED), "ended_at": now, "text": "", "context": {}}
    connection.execute(update(_inbox).where(_inbox.c.id == letter.id).values(**done))
    connection.execute(delete(_file).where(_file.c.message == letter.id))


def _place(connection: Connection, *, letter: Letter) -> str:
    found = select(_thread.c.generation).where(_thread.c.conversation == letter.conversation_key)
    generation = connection.execute(found).scalar()
    place = f"{letter.conversation_key}#{generation}" if generation else letter.conversation_key
    connection.execute(update(_inbox).where(_inbox.c.id == letter.id).values(conversation=place))
    return place


def _begin_anew(connection: Connection, *, conversation: str) -> None:
    of_it = update(_thread).where(_thread.c.conversation == conversation)
    if not connection.execute(of_it.values(generation=_thread.c.generation + 1)).rowcount:
        connection.execute(insert(_thread).values(conversation=conversation, generation=1))


def _counts(connection: Connection) -> Mapping[str, int]:
    waiting = select(_inbox.c.channel, func.count()).where(_inbox.c.state == str(InboxState.WAITING))
    return {name: count for name, count in connection.execute(waiting.group_by(_inbox.c.channel)).all()}  # noqa: C416


def _prune(connection: Connection, *, before: datetime) -> None:
    connection.execute(delete(_inbox).where(_inbox.c.state == str(InboxState.ANSWERED), _inbox.c.ended_at < before))
    connection.execute(delete(_code).where(_code.c.created_at < before))
    prune_notes(connection, before=before)


def _people(connection: Connection, *, channel: str | None) -> tuple[Person, ...]:
    statement = select(_person).order_by(_person.c.channel, _person.c.since)
    if channel is not None:
        statement = statement.where(_person.c.channel == channel)
    return tuple(_person_of(row) for row in connection.execute(statement).all())


def _person_of(row: Row[Any]) -> Person:
    return Person(
        channel=row.channel,
        sender=row.sender,
        author=row.author,
        standing=Standing(row.standing),
        code=row.code,
        since=row.since,
        by=row.by,
    )


def _set_standing(
    connection: Connection, *, channel: str, who: str, standing: Standing, by: str, now: datetime
) -> Person:
    sender = who
    if (code := code_in(who)) is not None and _row(connection, channel, who) is None:
        told = select(_person).where(_person.c.channel == channel, _person.c.code == code)
        row = connection.execute(told).one_or_none()
        if row is None or not is_live(row.since, now):
            raise UsageError(
                f"Nobody on {channel!r} was told the code {code}, or more than an hour ago.",
                hint=f"see who wrote: sexton channels people {channel}; they can be let in by their id as well",
            )
        sender = row.sender
    _put_person(connection, channel, sender, standing=str(standing), since=now, by=by, code=None)
    found = _row(connection, channel, sender)
    assert found is not None
    return _person_of(found)


def _forget(connection: Connection, *, channel: str, sender: str) -> bool:
    gone = delete(_person).where(_person.c.channel == channel, _person.c.sender == sender)
    return connection.execute(gone).rowcount > 0


def _make_code(connection: Connection, *, channel: str, by: str, now: datetime) -> str:
    code = new_code()
    connection.execute(
        insert(_code).values(hash=code_hash(channel, code), channel=channel, created_at=now, created_by=by)
    )
    return code
