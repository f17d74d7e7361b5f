"""Takes what is in the inbox to the agent, and the agent's answer to the outbox.

A message leaves the inbox in the transaction that puts its answer into the
outbox; until then every start takes it to the agent again, under the same key,
which the agent knows as the same turn.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.database import DatabaseError
from sexton.errors import SextonError, UsageError
from sexton.gateway.channels.channel import Channel
from sexton.gateway.channels.chats import Chats, EventStream, Said, SayAs, Turn, TurnEnded
from sexton.gateway.channels.commands import Command, command_in, help_text, question_text
from sexton.gateway.channels.files import picture_name, sort_files
from sexton.gateway.channels.inbox import Inbox, Letter
from sexton.gateway.channels.progress import Progress, Watch
from sexton.gateway.channels.setup import ChannelSetup
from sexton.gateway.deliveries import Attachment, Deliveries, Message

LOG = logging.getLogger(__name__)
SHOW_WORKING_EVERY = 4.0
# How often, and for how long, the agent is asked again that cannot take a message now.
ASK_AGAIN_EVERY = 5.0
ASK_AGAIN_FOR = 600.0


@dataclass(slots=True)
class _Talk:
    """One conversation with messages that are not answered yet."""

    letters: deque[Letter] = field(default_factory=deque)
    works: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Of the work on the letters, not of turns that have begun."""
    turns: int = 0
    asked: list[str] = field(default_factory=list)
    """Approvals that were asked for here, the last one last."""


@final
class Desk:
    """See the module.  `channels` gives the channel and its setup by name, while it is there."""

    def __init__(
        self,
        inbox: Inbox,
        chats: Chats,
        deliveries: Deliveries,
        progress: Progress,
        *,
        say_as: SayAs,
        channels: Callable[[str], tuple[Channel, ChannelSetup] | None],
        clock: Clock,
    ) -> None:
        self._inbox = inbox
        self._chats = chats
        self._deliveries = deliveries
        self._progress = progress
        self._say_as = say_as
        self._channels = channels
        self._clock = clock
        self._talks: dict[str, _Talk] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(
        self, *, is_alone: bool = True, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer until cancelled, beginning with what the last gateway left, unless there are others beside us."""
        async with anyio.create_task_group() as self._tasks:
            await self._tasks.start(_run, self._progress)
            if is_alone:
                self.put(await self._inbox.waiting())
            task_status.started()
            await anyio.sleep_forever()

    def put(self, letters: Iterable[Letter]) -> None:
        """Take these to the agent, in this order for each conversation."""
        assert self._tasks is not None
        for letter in letters:
            talk = self._talks.setdefault(letter.conversation_key, _Talk())
            talk.letters.append(letter)
            if not talk.works:
                talk.works = True
                self._tasks.start_soon(self._hand_over_all, letter.conversation_key, talk)

    async def take_up(self, channel: str) -> None:
        """Begin with what another node, or we ourselves, left of that channel."""
        self.put(await self._inbox.waiting(channel))

    def drop(self, channel: str) -> None:
        """Leave what is not with the agent yet in the inbox; the turns that have begun are seen through."""
        for key, talk in list(self._talks.items()):
            if key.startswith(f"{channel}:"):
                talk.letters.clear()
                talk.scope.cancel()
                del self._talks[key]

    async def _hand_over_all(self, key: str, talk: _Talk) -> None:
        with talk.scope:
            await self._hand_over_each(key, talk)
        talk.works = False
        self._forget_if_done(key, talk)

    async def _hand_over_each(self, key: str, talk: _Talk) -> None:
        while talk.letters:
            letter = talk.letters.popleft()
            try:
                await self._hand_over(key, talk, letter)
            except DatabaseError as error:
                await self._wait_for_database(error)
                talk.letters.appendleft(letter)
            except Exception:  # The outermost edge of a message: the next start takes it up again.
                LOG.exception("message %s of %s could not be handed to the agent", letter.id, key)

    async def _hand_over(self, key: str, talk: _Talk, letter: Letter) -> None:
        place = letter.conversation or await self._inbox.place(letter)
        found = self._channels(letter.channel)
        settings = found[1].settings if found else None
        conversation = await self._chats.conversation(place, way=letter.channel, settings=settings)
        if command := command_in(letter.text):
            said = await self._obey(command, talk, conversation.id, letter)
            await self._answer(letter, said, key=f"command:{letter.channel}:{letter.key}")
            return
        whole = await self._said(letter)
        turn = None if whole is None else await self._send(conversation.id, letter, whole)
        if turn is None:
            return
        assert self._tasks is not None
        talk.turns += 1
        self._tasks.start_soon(self._see_through, key, talk, conversation.id, letter, turn)

    async def _said(self, letter: Letter) -> Said | None:
        """The message with its files; of those that are of no use the person is told, and None if nothing else is."""
        files = sort_files(await self._inbox.files(letter))
        refused = "\n".join(files.refused)
        if refused and not (letter.text or files.pictures or files.texts):
            await self._answer(letter, f"{_UNREADABLE}\n{refused}", key=f"files:{letter.channel}:{letter.key}")
            return None
        if refused:
            told = Message(text=f"{_UNREADABLE}\n{refused}", facts={**letter.context, "reply": True})
            key = f"files:{letter.channel}:{letter.key}"
            await self._deliveries.queue(f"{letter.channel}:{letter.chat}", told, key=key)
        text = f"{letter.text}\n\n[They were told that these files could not be read:\n{refused}]"
        return Said(
            text=text.strip() if refused else letter.text,
            author=letter.author,
            pictures=files.pictures,
            files=files.texts,
        )

    async def _send(self, conversation_id: str, letter: Letter, said: Said) -> Turn | None:
        """The turn of a message; None if the agent could not take it, which was answered instead."""
        channel = self._channels(letter.channel)
        when_busy = channel[1].when_busy if channel else "queue"
        waited = 0.0
        while True:
            try:
                return await self._chats.send(
                    conversation_id,
                    self._say_as(said),
                    when_busy=when_busy,
                    message_key=f"{letter.channel}:{letter.key}",
                )
            except DatabaseError:
                raise
            except SextonError as error:
                if isinstance(error, UsageError) or waited >= ASK_AGAIN_FOR:
                    await self._answer(letter, str(error), key=f"refused:{letter.channel}:{letter.key}")
                    return None
            waited += ASK_AGAIN_EVERY
            await self._clock.sleep(ASK_AGAIN_EVERY)

    async def _see_through(self, key: str, talk: _Talk, conversation_id: str, letter: Letter, turn: Turn) -> None:
        """Wait for the end of a turn while showing that it is under way, and answer."""
        watch = self._progress.watch(letter, turn.id)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_showing, letter)
                tasks.start_soon(self._follow, talk, conversation_id, letter, watch)
                text, pictures, key_of_answer = await self._end_of(turn, watch)
                tasks.cancel_scope.cancel()
            await self._answer(letter, text, files=pictures, key=key_of_answer)
        except Exception:  # The outermost edge of a turn's answer: the next start takes it up again.
            LOG.exception("message %s of %s could not be answered", letter.id, key)
        finally:
            watch.close()
            talk.turns -= 1
            self._forget_if_done(key, talk)

    async def _end_of(self, turn: Turn, watch: Watch) -> tuple[str | None, tuple[Attachment, ...], str]:
        """What is said at the end of a turn, with which pictures, and under which key."""
        while True:
            try:
                ended = await turn.wait()
                watch.end()
                made = await self._chats.pictures(ended.turn)
            except DatabaseError as error:
                await self._wait_for_database(error)
            except SextonError as error:  # Its conversation was removed, say.
                return str(error), (), f"turn:{turn.id}"
            else:
                pictures = tuple(
                    Attachment(
                        name=picture_name(one.name, one.media_type, number),
                        content_type=one.media_type,
                        content=one.data,
                    )
                    for number, one in enumerate(made, 1)
                )
                return _reply(ended, has_pictures=bool(pictures)), pictures, f"turn:{ended.turn}"

    async def _answer(self, letter: Letter, text: str | None, *, key: str, files: tuple[Attachment, ...] = ()) -> None:
        """Without a text (not an empty one) nothing is said."""
        facts = {**letter.context, "reply": True}
        message = None if text is None else Message(text=text, facts=facts, files=files)
        while True:
            try:
                await self._inbox.answer(letter, message, key=key, now=self._clock.now())
            except DatabaseError as error:
                await self._wait_for_database(error)
            else:
                break
        self._deliveries.ring()

    async def _wait_for_database(self, error: DatabaseError) -> None:
        LOG.warning("an answer waits for the database: %s", error.what)
        await self._clock.sleep(ASK_AGAIN_EVERY)

    async def _keep_showing(self, letter: Letter) -> None:
        """That somebody works on it, for as long as this runs."""
        try:
            while True:
                if found := self._channels(letter.channel):
                    await found[0].show_working(letter.chat, working=True)
                await self._clock.sleep(SHOW_WORKING_EVERY)
        finally:
            if found := self._channels(letter.channel):
                with anyio.move_on_after(2, shield=True):
                    await found[0].show_working(letter.chat, working=False)

    async def _follow(self, talk: _Talk, conversation_id: str, letter: Letter, watch: Watch) -> None:
        """Pass on what the turn asks."""
        stream: EventStream = self._chats.events(conversation_id)
        try:
            async for event in stream:
                document: Mapping[str, Any] = event.as_json()
                watch.hear(document)
                if document["type"] == "approval_asked" and document["approval"] not in talk.asked:
                    talk.asked.append(document["approval"])
                    said = Message(text=question_text(document), facts={**letter.context, "reply": True})
                    target = f"{letter.channel}:{letter.chat}"
                    await self._deliveries.queue(target, said, key=f"approval:{document['approval']}")
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def _obey(self, command: Command, talk: _Talk, conversation_id: str, letter: Letter) -> str:
        match command.word:
            case "stop":
                return "Stopped." if self._chats.stop(conversation_id) else "There was nothing to stop."
            case "new":
                await self._inbox.begin_anew(letter)
                return "We begin anew; what was said before stays in the history."
            case "yes" | "no":
                if not talk.asked:  # a turn that another node has to do asked it
                    talk.asked.extend(await self._chats.asked(conversation_id))
                return await self._decide(command, talk, by=f"{letter.channel}:{letter.sender}")
            case _:
                return help_text()

    async def _decide(self, command: Command, talk: _Talk, *, by: str) -> str:
        """Only what was asked in this very conversation can be answered here."""
        asked = [one for one in talk.asked if one.startswith(command.rest)] if command.rest else talk.asked[-1:]
        if len(asked) != 1:
            return "That was not asked here." if command.rest else "Nothing is asked here."
        try:
            await self._chats.approve(asked[0], yes=command.word == "yes", by=by)
        except SextonError as error:
            return error.what
        finally:
            talk.asked.remove(asked[0])
        return "It goes on." if command.word == "yes" else "It is told no."

    def _forget_if_done(self, key: str, talk: _Talk) -> None:
        if not (talk.works or talk.letters or talk.turns) and self._talks.get(key) is talk:
            del self._talks[key]


async def _run(progress: Progress, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await progress.run(task_status=task_status)


_UNREADABLE = "I cannot read this:"


def _reply(ended: TurnEnded, *, has_pictures: bool) -> str | None:
    """What is said at the end of a turn.  One that somebody stopped is answered by what stopped it."""
    if ended.state == "stopped":
        return None
    if ended.error is None:
        return ended.text or ("" if has_pictures else "(No answer.)")
    hint = f"\nNext: {ended.hint}" if ended.hint else ""
    said = f"{ended.text}\n\n" if ended.text else ""
    return f"{said}That did not work: {ended.error}{hint}"
