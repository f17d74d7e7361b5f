"""Chats: conversations in which one turn at a time is under way.

`Chats` is what every way to chat uses.  A message is in the database before
`send` returns; its turn is run even if the gateway is killed in between, and
one that was cut off goes on after the restart from the last completed message.
The same message key is the same turn.
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias, final

import anyio
import anyio.abc

from sexton.agent.approval import Approvals, PendingApproval
from sexton.agent.budget import CHARACTERS_PER_TOKEN, Usage
from sexton.agent.conversation import (
    ChatSettings,
    Conversation,
    ConversationRecord,
    Found,
    TurnRow,
    TurnState,
    usage_of,
)
from sexton.agent.conversation_store import ConversationStore, TurnElsewhere
from sexton.agent.events import TextDelta, TextWithdrawn, TurnEnded, TurnEvent, TurnStarted
from sexton.agent.messages import Attachment, CallRecord, Message, Role, UserMessage
from sexton.agent.model_config import AgentConfig
from sexton.agent.result_marks import mark_untrusted
from sexton.agent.tool_answer import cut
from sexton.agent.toolbox import OwnTool, ToolSource, read_on
from sexton.agent.turn import Agent, TurnPlan, TurnResult
from sexton.agent.turn_feed import EventStream, TurnFeed
from sexton.clock import Clock
from sexton.database import Database, DatabaseError
from sexton.errors import SextonError, UsageError
from sexton.journal import JSON, Journal

LOG = logging.getLogger(__name__)

WhenBusy: TypeAlias = Literal["queue", "interrupt", "steer", "refuse"]

MOST_ATTEMPTS: Final = 3
"""A turn that was cut off so often by the end of its gateway is not tried again."""

KEPT_WHOLE: Final = 6
"""Messages at the end of a conversation that a summary never replaces."""


MOST_PICTURES: Final = 10
"""Of one turn, for those to whom its answer is sent."""

RETRY_WRITES_EVERY: Final = 5.0
"""Seconds until a turn is tried again that the database could not write down."""

TAKE_OVER_EVERY: Final = 5.0
"""Seconds between two looks for what other gateways left, where several share the database."""

MANY_LANES: Final = 256
"""From so many on, those in which nothing happens and that nobody follows are forgotten."""

_CALL = re.compile(r"/call\s+([\w-]+)\.(\S+)\s*(.*)", re.DOTALL)


OwnToolsOf: TypeAlias = Callable[[Conversation], tuple[OwnTool, ...]]
"""Makes Sexton's own tools for a chat; the daemon hands over one that knows the other parts."""


class ConversationBusy(UsageError):
    """A turn is under way, and the sender wanted to be refused then."""


@final
class Turn:
    """A message that was sent, and what becomes of it."""

    def __init__(self, turn_id: str, chats: Chats) -> None:
        self.id = turn_id
        self._chats = chats

    async def wait(self) -> TurnEnded:
        """Return how it ended.  A message that was taken in by another turn ends as that one does."""
        return await self._chats.wait_turn(self.id)


class _Abandoned(Exception):
    """This gateway cannot say that it lives, or is about to leave: it does not go on with the turn now."""


@dataclass(slots=True)
class _Running:
    """The turn of a lane that is under way."""

    row: TurnRow
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    steering: list[str] = field(default_factory=list)
    stopped: bool = False
    abandoned: bool = False
    partial: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class _Lane:
    """One conversation with something to do, or with somebody who follows it."""

    feed: TurnFeed = field(default_factory=TurnFeed)
    waiting: deque[str] = field(default_factory=deque)
    running: _Running | None = None
    works: bool = False

    @property
    def is_busy(self) -> bool:
        return self.running is not None or bool(self.waiting)

    @property
    def is_needed(self) -> bool:
        return self.works or self.is_busy or self.feed.is_followed


@final
class Chats:
    """All conversations of one gateway.  `run` owns every turn and must be running; `begin` lets them start."""

    def __init__(
        self,
        database: Database,
        agent: Agent,
        *,
        clock: Clock,
        journal: Journal,
        own_tools: OwnToolsOf | None = None,
        owner: str | None = None,
        may_take_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = ConversationStore(database, owner=owner)
        self._is_shared = owner is not None
        self._may_take_over = may_take_over
        self._agent = agent
        self._clock = clock
        self._journal = journal
        self._own_tools: OwnToolsOf = own_tools or (lambda _: ())
        self._lanes: dict[str, _Lane] = {}
        self._over: dict[str, anyio.Event] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._begun = False
        self._closing = False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Turns that are under way then are left as they are in the database; the next start goes on with them.
        """
        if not self._is_shared:  # else those of other gateways are among them; time closes ours
            for holders in ("run:", "api:"):  # nobody waits for these any more
                await self._agent.approvals.void(holder_prefix=holders)
        await self._agent.files.forget_old()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                task_status.started()
                if self._is_shared:
                    await self._keep_taking_over()
                await anyio.sleep_forever()
        finally:
            self._closing = True
            for lane in self._lanes.values():
                lane.feed.end()
            with anyio.CancelScope(shield=True):
                await self._agent.aclose()

    async def resume(self) -> None:
        """Queue what the last gateway left, or others that are gone: messages that wait, and turns that were cut off.

        To be awaited before any way in is open, so that nothing of now gets in before it.  What is ours already is
        queued anew by the first call only, or if there is one gateway.
        """
        for row in await self._store.unfinished_turns():
            self._enqueue(row.conversation, row.id)

    async def _keep_taking_over(self) -> None:
        """What a gateway that is gone had to do moves to one that lives."""
        while True:
            await self._clock.sleep(TAKE_OVER_EVERY)
            if not (self._begun and self._may_take_over()) or self._closing:
                continue
            try:
                await self.resume()
            except DatabaseError as error:
                LOG.warning("the chats of other nodes were not looked for: %s", error.what)

    def cut_off(self) -> None:
        """Leave every turn under way as it is in the database, for another gateway to go on with, or for us later."""
        for lane in self._lanes.values():
            if lane.running is not None:
                lane.running.abandoned = True
                lane.running.scope.cancel()

    def leave(self) -> None:
        """Begin nothing more, and `cut_off` what is under way."""
        self._closing = True
        self.cut_off()

    def begin(self) -> None:
        """Work on what waits, and from now on on each message as it comes.  Until then they are only kept."""
        self._begun = True
        for conversation_id, lane in self._lanes.items():
            self._start(conversation_id, lane)

    async def drain(self, seconds: float) -> None:
        """Take no more messages, and give the turns under way that long to end."""
        self._closing = True
        with anyio.move_on_after(seconds):
            for turn in [lane.running.row.id for lane in self._lanes.values() if lane.running]:
                await self._over.setdefault(turn, anyio.Event()).wait()

    # Conversations

    async def conversation(self, key: str, *, way: str, settings: ChatSettings | None = None) -> Conversation:
        """The conversation of that key, made on its first use; settings that are given replace its own."""
        return await self._store.open(key, way=way, settings=settings, at=self._clock.now())

    async def find(self, conversation_id: str) -> Conversation:
        """Raises UnknownConversation."""
        return await self._store.find(conversation_id)

    async def list(
        self, *, limit: int = 50, before: datetime | None = None, way: str | None = None
    ) -> tuple[Conversation, ...]:
        """The ones that changed last first."""
        return await self._store.listed(limit=limit, before=before, way=way)

    async def search(self, words: str, *, limit: int = 50) -> tuple[Found, ...]:
        """Messages that hold all of the words, best first."""
        return await self._store.search(words, limit=limit)

    async def show(self, conversation_id: str) -> ConversationRecord:
        """A conversation with all that was said in it.  Raises UnknownConversation."""
        return await self._store.record(conversation_id)

    async def export(self, conversation_id: str, *, form: Literal["json", "markdown"] = "json") -> str:
        """The whole conversation as one text, images included in JSON.  Raises UnknownConversation."""
        record = await self.show(conversation_id)
        if form == "markdown":
            return record.as_markdown()
        return json.dumps(record.as_json(with_data=True), ensure_ascii=False, indent=2)

    async def delete(self, conversation_id: str) -> None:
        """Stop what is under way in it, and remove it with all its files.  Raises UnknownConversation."""
        found = await self.find(conversation_id)
        if lane := self._lanes.get(conversation_id):
            lane.waiting.clear()
            await self._stop_and_wait(lane)
            lane.feed.end()
            self._lanes.pop(conversation_id, None)
        await self._store.remove(conversation_id)
        await self._agent.files.forget(_holder(found))

    async def retry(
        self,
        conversation_id: str,
        number: int,
        *,
        text: str | None = None,
        keep: Collection[int] | None = None,
        more: tuple[Attachment, ...] = (),
    ) -> Turn:
        """Put aside the user's message of that number and all that followed, and send it again, perhaps reworded.

        `keep` are the places of those of its images that stay (None: all), and `more` are added to them.  What is
        under way is stopped first.  Raises UnknownConversation, UnknownMessage.
        """
        if lane := self._lanes.get(conversation_id):
            await self._stop_and_wait(lane)
        old = await self._store.replace_from(conversation_id, number)
        kept = tuple(image for place, image in enumerate(old.images) if keep is None or place in keep)
        said = UserMessage(old.text if text is None else text, (*kept, *more), old.author)
        return await self.send(conversation_id, said)

    # Turns

    async def send(
        self,
        conversation_id: str,
        message: UserMessage,
        *,
        when_busy: WhenBusy = "queue",
        message_key: str | None = None,
    ) -> Turn:
        """Send a message; its turn is in the database when this returns, and will be run.

        `when_busy` says what happens while another turn is under way: `queue`
        waits for its end, `interrupt` stops it, `steer` gives the message to it
        at its next step, `refuse` raises ConversationBusy.  The same
        `message_key` twice is one turn.  Raises UnknownConversation.
        """
        self._require_open()
        lane = self._lanes.get(conversation_id)
        if when_busy == "refuse" and lane is not None and lane.is_busy and message_key is None:
            raise _busy()
        message = await self._with_files(conversation_id, message, key=message_key)
        row, is_new = await self._store.add_turn(conversation_id, message, key=message_key, at=self._clock.now())
        if not is_new:
            return Turn(row.id, self)
        self._place(conversation_id, row.id, when_busy)
        return Turn(row.id, self)

    async def _with_files(self, conversation_id: str, said: UserMessage, *, key: str | None) -> UserMessage:
        """The message with the beginnings of its files as text, and the way to the rest."""
        if not said.files:
            return said
        holder = _holder(await self.find(conversation_id))
        told: list[str] = [said.text]
        for place, (name, text) in enumerate(said.files):
            head, is_cut = cut(text, self.config.result_limit)
            told.append(f"[They sent the file {name}:]\n{mark_untrusted(head, source='file')}")
            if is_cut:
                kept = await self._agent.files.keep(holder, text, key=None if key is None else f"{key}/{place}")
                told.append(
                    f"[This is the beginning, {len(head)} of {len(text)} characters; {read_on(kept, len(head))}.]"
                )
        return replace(said, text="\n\n".join(filter(None, told)), files=())

    async def pictures(self, turn_id: str) -> tuple[Attachment, ...]:
        """The pictures that came up in a turn: the model's own, and those of its tools' results."""
        return await self._store.pictures(turn_id, most=MOST_PICTURES)

    def stop(self, conversation_id: str) -> bool:
        """Stop the turn under way: its request is aborted and its calls are cancelled.  False if there is none."""
        lane = self._lanes.get(conversation_id)
        if lane is None or lane.running is None or lane.running.stopped:
            return False
        lane.running.stopped = True
        lane.running.scope.cancel()
        return True

    def events(self, conversation_id: str) -> EventStream:
        """Follow a conversation from now on; the turn under way is told from its beginning."""
        return self._lane(conversation_id).feed.follow()

    async def wait_turn(self, turn_id: str) -> TurnEnded:
        """Return how a turn ended, also one of an earlier life of the gateway."""
        while True:
            over = self._over.setdefault(turn_id, anyio.Event())
            row = await self._store.turn(turn_id)
            if not row.state.is_over:
                with anyio.move_on_after(TAKE_OVER_EVERY if self._is_shared else float("inf")):
                    await over.wait()
                continue
            self._is_over(turn_id)  # wakes whoever else waits
            if not row.merged_into:
                return _ended(row)
            turn_id = row.merged_into

    # Approvals

    async def approve(
        self, approval_id: str, *, yes: bool, by: str, content: Mapping[str, JSON] | None = None
    ) -> PendingApproval:
        """Answer a question.  Raises UnknownApproval, ApprovalOver."""
        return await self.approvals.answer(approval_id, yes=yes, by=by, content=content)

    async def asked(self, conversation_id: str) -> tuple[str, ...]:
        """The questions of a conversation that wait for an answer, whichever node asks, the oldest first."""
        holder = f"chat:{conversation_id}"
        waiting = await self.approvals.listed()
        return tuple(each.id for each in reversed(waiting) if each.question.holder == holder)

    @property
    def approvals(self) -> Approvals:
        return self._agent.approvals

    @property
    def config(self) -> AgentConfig:
        """What is configured of models and limits, now."""
        return self._agent.config

    def require_model(self) -> None:
        """Raises NoModel, which says what to put where, if nothing could answer."""
        self._agent.require_model()

    # Inside: one lane per conversation

    def _lane(self, conversation_id: str) -> _Lane:
        if len(self._lanes) >= MANY_LANES:
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.is_needed}
        return self._lanes.setdefault(conversation_id, _Lane())

    def _place(self, conversation_id: str, turn_id: str, when_busy: WhenBusy) -> None:
        lane = self._lane(conversation_id)
        if when_busy == "steer" and lane.running is not None:
            lane.running.steering.append(turn_id)
        if when_busy == "interrupt":
            self.stop(conversation_id)
            self._enqueue(conversation_id, turn_id, first=True)
        else:
            self._enqueue(conversation_id, turn_id)

    def _enqueue(self, conversation_id: str, turn_id: str, *, first: bool = False) -> None:
        lane = self._lane(conversation_id)
        (lane.waiting.appendleft if first else lane.waiting.append)(turn_id)
        self._start(conversation_id, lane)

    def _start(self, conversation_id: str, lane: _Lane) -> None:
        if lane.waiting and not lane.works and self._begun and self._tasks is not None:
            lane.works = True
            self._tasks.start_soon(self._work, conversation_id, lane)

    async def _work(self, conversation_id: str, lane: _Lane) -> None:
        """Run the turns of one conversation, one after the other, until none waits."""
        try:
            while lane.waiting and not self._closing:
                turn_id = lane.waiting.popleft()
                try:
                    await self._run_turn(lane, turn_id)
                except TurnElsewhere:
                    lane.running = None
                except _Abandoned:
                    lane.waiting.appendleft(turn_id)
                    lane.running = None
                    await self._clock.sleep(RETRY_WRITES_EVERY)
                except DatabaseError as error:
                    LOG.error("turn %s could not be written down: %s", turn_id, error)  # noqa: TRY400 - it says all
                    lane.waiting.appendleft(turn_id)
                    lane.running = None
                    await self._clock.sleep(RETRY_WRITES_EVERY)
                else:
                    lane.running = None
                    self._is_over(turn_id)
        finally:
            lane.works, lane.running = False, None
        if not lane.is_needed:
            self._lanes.pop(conversation_id, None)

    async def _run_turn(self, lane: _Lane, turn_id: str) -> None:
        row, again = await self._store.begin_turn(turn_id, at=self._clock.now())
        lane.running = running = _Running(row)
        found = await self._store.find(row.conversation)
        lane.feed.tell(TurnStarted(turn=row.id, text=row.said.text, author=row.said.author))
        self._journal.append("turn.started", subject=found.key, turn=row.id, conversation=row.conversation)
        record = _Record(self._store, lane, running, clock=self._clock, on_merged=self._is_over)
        ended = await self._outcome(found, running, record, again=again)
        if running.abandoned:
            raise _Abandoned
        await self._end(found, lane, running, ended)

    async def _outcome(self, found: Conversation, running: _Running, record: _Record, *, again: bool) -> TurnEnded:
        """Answer, and say how that ended; raises only the cancellation of the whole gateway."""
        row, began = running.row, self._clock.monotonic()
        if row.attempt > MOST_ATTEMPTS:
            what = f"The gateway ended {MOST_ATTEMPTS} times while it worked on this message; it is not tried again."
            return TurnEnded(turn=row.id, state=str(TurnState.FAILED), text="", error=what)
        result: TurnResult | None = None
        with running.scope:
            try:
                result = await self._answer(found, row, record, again=again)
            except SextonError as error:
                return self._failed(running, error.what, error.hint, began)
            # The outermost edge of a turn: whatever it raises is its failure, logged with its traceback.
            except Exception as error:
                LOG.exception("turn %s of %s raised", row.id, found.key)
                cause = _leaf(error)
                if isinstance(cause, SextonError):
                    return self._failed(running, cause.what, cause.hint, began)
                return self._failed(running, f"The turn met an error of ours: {type(cause).__name__}.", None, began)
        if result is None:
            usage = replace(running.usage, seconds=self._clock.monotonic() - began)
            return TurnEnded(turn=row.id, state=str(TurnState.STOPPED), text=running.partial, usage=usage)
        return TurnEnded(turn=row.id, state=str(TurnState.DONE), text=result.text, usage=result.usage)

    def _failed(self, running: _Running, what: str, hint: str | None, began: float) -> TurnEnded:
        usage = replace(running.usage, seconds=self._clock.monotonic() - began)
        state = str(TurnState.FAILED)
        return TurnEnded(turn=running.row.id, state=state, text=running.partial, usage=usage, error=what, hint=hint)

    async def _answer(self, found: Conversation, row: TurnRow, record: _Record, *, again: bool) -> TurnResult:
        source = self._source(found, row)
        if (asked := _CALL.fullmatch(row.said.text.strip())) and not again:
            said = await self._agent.call(source, asked[1], asked[2], _arguments(asked[3]), record)
            return TurnResult(text=said, usage=Usage(calls=1))
        self._agent.require_model(found.settings.models)
        history = await self._visible(found)
        if history[-1].role is Role.ASSISTANT and not history[-1].calls:
            return TurnResult(text=history[-1].text, usage=Usage())  # the answer was complete before the restart
        plan = TurnPlan(
            tools=source,
            history=history,
            models=found.settings.models,
            instructions=found.settings.instructions,
            budget=found.settings.budget or self.config.budget,
        )
        return await self._agent.run(plan, record)

    def _source(self, found: Conversation, row: TurnRow) -> ToolSource:
        settings, config = found.settings, self.config
        servers = settings.servers if settings.servers is not None else config.chat_servers
        known = self._agent.known_servers()
        return ToolSource(
            holder=_holder(found),
            turn=row.id,
            servers=tuple(name for name in (known if servers is None else servers) if name in known),
            rules=settings.tools,
            approvals=settings.approvals or config.approvals,
            own=self._own_tools(found),
        )

    async def _visible(self, found: Conversation) -> tuple[Message, ...]:
        """What the model sees: all, or a summary of what was first and all that came after it."""
        history = await self._store.history(found.id, after=found.summary_upto)
        summary = found.summary
        chain = self._agent.require_model(found.settings.models)
        limit = min(model.context_window for model in chain) * self.config.compact_above
        if _tokens(history) > limit and (old := _to_compact(history)):
            summary = await self._agent.summarise(old, before=summary, models=found.settings.models)
            await self._store.set_summary(found.id, summary, old[-1].number)
            history = history[len(old) :]
        if not summary:
            return history
        told = Message(role=Role.USER, text=f"[Summary of the conversation so far: {summary}]")
        return (told, *history)

    async def _end(self, found: Conversation, lane: _Lane, running: _Running, ended: TurnEnded) -> None:
        with anyio.CancelScope(shield=True):
            await self.approvals.void(turn=ended.turn)
            await self._store.end_turn(
                ended.turn,
                TurnState(ended.state),
                text=ended.text,
                usage=ended.usage.as_json(),
                error=ended.error,
                hint=ended.hint,
                partial=running.partial,
                at=self._clock.now(),
            )
        lane.feed.tell(ended)
        self._journal.append(
            "turn.ended",
            subject=found.key,
            turn=ended.turn,
            conversation=found.id,
            state=ended.state,
            error=ended.error,
            usage=ended.usage.as_json(),
        )

    def _is_over(self, turn_id: str) -> None:
        if event := self._over.pop(turn_id, None):
            event.set()

    async def _stop_and_wait(self, lane: _Lane) -> None:
        if lane.running is None:
            return
        turn = lane.running.row.id
        over = self._over.setdefault(turn, anyio.Event())
        lane.running.stopped = True
        lane.running.scope.cancel()
        await over.wait()

    def _require_open(self) -> None:
        if self._closing or self._tasks is None:
            raise SextonError("The gateway is stopping; the message was not taken.", hint="send it again later")


@final
class _Record:
    """Writes a turn of a conversation down, and tells those who follow it."""

    def __init__(
        self,
        store: ConversationStore,
        lane: _Lane,
        running: _Running,
        *,
        clock: Clock,
        on_merged: Callable[[str], None],
    ) -> None:
        self._store = store
        self._on_merged = on_merged
        self._lane = lane
        self._running = running
        self._clock = clock

    async def add_reply(self, message: Message) -> Message:
        row = self._running.row
        whole = replace(message, turn=row.id, at=self._clock.now())
        with anyio.CancelScope(shield=True):
            kept = await self._store.add_message(row.conversation, whole)
        self._running.partial = ""
        return kept

    async def call_changed(self, message: Message, call: CallRecord) -> None:
        with anyio.CancelScope(shield=True):
            await self._store.change_call(self._running.row.conversation, message.number, call)

    async def take_steering(self) -> tuple[UserMessage, ...]:
        taken: list[UserMessage] = []
        while self._running.steering:
            turn_id = self._running.steering.pop(0)
            if turn_id in self._lane.waiting:
                self._lane.waiting.remove(turn_id)
                taken.append(await self._store.merge_turn(turn_id, self._running.row.id, at=self._clock.now()))
                self._on_merged(turn_id)
        return tuple(taken)

    def tell(self, event: TurnEvent) -> None:
        if isinstance(event, TextDelta):
            self._running.partial += event.text
        elif isinstance(event, TextWithdrawn):
            self._running.partial = self._running.partial[: -event.characters or None]
        self._lane.feed.tell(event)

    def used(self, usage: Usage) -> None:
        self._running.usage = usage


def _holder(found: Conversation) -> str:
    return f"chat:{found.id}"


def _busy() -> ConversationBusy:
    return ConversationBusy("The conversation is busy with another message.", hint="wait for its end, or stop it")


def _ended(row: TurnRow) -> TurnEnded:
    return TurnEnded(
        turn=row.id,
        state=str(row.state),
        text=row.text,
        usage=usage_of(row.usage),
        error=row.error,
        hint=row.hint,
    )


def _arguments(written: str) -> Mapping[str, JSON]:
    try:
        value = json.loads(written or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(
            f"The arguments are not JSON: {error.msg} (column {error.colno}).",
            hint='write /call server.tool {"key": "value"}',
        ) from error
    if not isinstance(value, dict):
        raise UsageError("The arguments are not a JSON object.", hint='write /call server.tool {"key": "value"}')
    return value


def _tokens(history: tuple[Message, ...]) -> float:
    return sum(_size(message) for message in history) / CHARACTERS_PER_TOKEN


def _size(message: Message) -> int:
    calls = sum(len(call.result) + len(str(call.arguments)) for call in message.calls)
    return len(message.text) + calls + 4_000 * len(message.images)


def _to_compact(history: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages that a summary may replace: all but the last ones, and up to one that a user's message follows."""
    for place in range(len(history) - KEPT_WHOLE, 0, -1):
        if history[place].role is Role.USER:
            return history[:place]
    return ()


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
