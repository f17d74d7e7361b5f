"""Shows on chat platforms how far a long turn is: one message, changed in place, and gone with the turn.

Nothing here is needed for an answer: it runs beside it, and what fails is
logged.  On one channel one of these messages is sent or changed at a time, and
not often, so that what the platform lets us send is left for answers.  What a
gateway that was killed left standing is taken away by the next one.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.database import DatabaseError
from sexton.gateway.channels.channel import Channel, ShowsProgress
from sexton.gateway.channels.inbox import Letter
from sexton.gateway.channels.progress_notes import ProgressNote, ProgressNotes
from sexton.gateway.channels.setup import ChannelSetup
from sexton.gateway.channels.work import Work
from sexton.gateway.deliveries import Deliveries, DeliveryState, Part, SendDelayed, SendFailed

LOG = logging.getLogger(__name__)
LOOK_EVERY = 2.0
# Between two of these messages on one channel; half of what Telegram lets a bot say in a group.
GAP = 6.0
# How long a message stays after the end of its turn, while the answer is being sent.
WAIT_FOR_ANSWER = 30.0
FIRST_RETRY = 5.0
LONGEST_RETRY = 300.0
# When the gateway stops.
AT_STOP_SECONDS = 3.0


@final
@dataclass(slots=True, kw_only=True)
class Watch:
    """What is told of a turn by those who follow it: its events, its end, and that its answer is written."""

    work: Work
    clock: Clock
    over: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    interrupted: bool = False

    def hear(self, event: Mapping[str, Any]) -> None:
        self.work = self.work.heard(event, at=self.clock.monotonic())

    def end(self) -> None:
        """From here on nothing more is said of it."""
        self.over.set()

    def close(self) -> None:
        """The message can go."""
        self.over.set()
        self.answered.set()

    def interrupt(self) -> None:
        """The gateway stops."""
        self.interrupted = self.interrupted or not self.over.is_set()
        self.close()


@dataclass(slots=True)
class _Lane:
    """What is said of all turns of one channel: one thing at a time, and nothing before `free_at`."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    free_at: float = 0.0


@final
class Progress:
    """See the module.  `channels` gives the channel and its setup by name, while it is there."""

    def __init__(
        self,
        notes: ProgressNotes,
        deliveries: Deliveries,
        *,
        channels: Callable[[str], tuple[Channel, ChannelSetup] | None],
        clock: Clock,
    ) -> None:
        self._notes = notes
        self._deliveries = deliveries
        self._channels = channels
        self._clock = clock
        self._lanes: dict[str, _Lane] = defaultdict(_Lane)
        self._ours: set[str] = set()
        """The keys of what this gateway cares for."""
        self._watches: list[Watch] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own what is shown, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def watch(self, letter: Letter, turn_id: str) -> Watch:
        """Show how far that turn is, once it has been at work for long; nothing where the channel cannot."""
        watch = Watch(work=Work(turn=turn_id), clock=self._clock)
        found = self._channels(letter.channel)
        if self._tasks is None or found is None or found[1].progress is None or not isinstance(found[0], ShowsProgress):
            return watch
        self._watches.append(watch)
        self._tasks.start_soon(self._show, letter, watch, found[1].progress)
        return watch

    async def settle(self, channel: str) -> None:
        """Take away what another gateway left there.  Raises `DatabaseError`."""
        for note in await self._notes.left(channel):
            if note.key not in self._ours and self._tasks is not None:
                self._ours.add(note.key)
                self._tasks.start_soon(self._settle, note)

    async def take_down(self) -> None:
        """Take away all that is shown, since the gateway stops; in a few seconds, the next start does the rest."""
        for watch in tuple(self._watches):
            watch.interrupt()
        with anyio.move_on_after(AT_STOP_SECONDS):
            while self._watches:  # noqa: ASYNC110 - each ends in a task of its own
                await anyio.sleep(0.02)

    # One turn

    async def _show(self, letter: Letter, watch: Watch, after: float) -> None:
        note = ProgressNote(
            key=uuid.uuid4().hex,
            channel=letter.channel,
            chat=letter.chat,
            context=letter.context,
            created_at=self._clock.now(),
        )
        self._ours.add(note.key)
        try:
            if (begun := await self._begin(note, watch, after)) is not None:
                await self._keep_changing(begun, watch)
                await self._wait_answer(letter, watch)
                at = self._clock.monotonic()
                await self._take_away(begun, watch.work.last_line(at, interrupted=watch.interrupted))
        except DatabaseError as error:
            LOG.warning("how far turn %s is was not shown: %s", watch.work.turn, error.what)
        except Exception:  # The outermost edge of what nobody waits for; the row of it is there for the next start.
            LOG.exception("how far turn %s is could not be shown", watch.work.turn)
        finally:
            self._watches.remove(watch)
            self._ours.discard(note.key)

    async def _begin(self, note: ProgressNote, watch: Watch, after: float) -> ProgressNote | None:
        """The note once it was sent, or could have been; None if it was not, and never will be."""
        is_written = maybe_sent = False
        while not watch.over.is_set():
            await self._pause(min(LOOK_EVERY, after), watch.over)
            if not watch.work.is_to_be_shown(self._clock.monotonic(), after=after):
                continue
            async with self._lane(note.channel, watch) as lane:
                if not is_written:
                    note = replace(note, created_at=self._clock.now())
                    await self._notes.add(note)
                    is_written = True
                if watch.over.is_set():
                    break
                try:
                    return await self._send(note, watch.work.line(self._clock.monotonic()))
                except SendFailed as error:
                    LOG.info("%s does not take how far a turn is: %s", note.channel, error.what)
                    break
                except SendDelayed as error:
                    self._note_delay(lane, note, error)
                    maybe_sent = maybe_sent or error.after is None
                    if maybe_sent and not self._knows_repeats(note):
                        break  # Nobody can tell whether it is there: a second one would be worse than none.
        if maybe_sent and self._knows_repeats(note):
            return note
        if is_written:
            await self._notes.forget(note.key)
        return None

    async def _keep_changing(self, note: ProgressNote, watch: Watch) -> None:
        shown, shown_at = watch.work, self._clock.monotonic()
        while not watch.over.is_set():
            await self._pause(LOOK_EVERY, watch.over)
            if not watch.work.is_news(shown, at=self._clock.monotonic(), shown_at=shown_at):
                continue
            async with self._lane(note.channel, watch) as lane:
                if watch.over.is_set() or note.message is None:
                    return
                shown, shown_at = watch.work, self._clock.monotonic()
                try:
                    await self._channel(note).change_progress(note.chat, note.message, shown.line(shown_at))
                except SendFailed as error:  # Somebody removed it, say.
                    LOG.info("%s does not take how far a turn is: %s", note.channel, error.what)
                    await watch.over.wait()
                except SendDelayed as error:
                    self._note_delay(lane, note, error)

    async def _wait_answer(self, letter: Letter, watch: Watch) -> None:
        """Until the answer is sent: this message may not be what it has to wait for."""
        await watch.answered.wait()
        until = self._clock.monotonic() + WAIT_FOR_ANSWER
        target, waiting = f"{letter.channel}:{letter.chat}", {DeliveryState.WAITING}
        while not watch.interrupted and self._clock.monotonic() < until:
            if not await self._deliveries.deliveries(target=target, states=waiting, limit=1):
                return
            await self._clock.sleep(1.0)

    # Its message

    async def _send(self, note: ProgressNote, text: str) -> ProgressNote:
        part = Part(key=f"progress:{note.key}", to=note.chat, text=text, facts=note.context)
        message = await self._channel(note).show_progress(part)
        await self._notes.sent(note.key, message)
        return replace(note, message=message)

    async def _settle(self, note: ProgressNote) -> None:
        try:
            await self._take_away(note, "Interrupted by a restart.")
        except DatabaseError as error:
            LOG.warning("a message on %s is not known to be gone: %s", note.channel, error.what)
        except Exception:  # As above.
            LOG.exception("a message on %s could not be taken away", note.channel)
        finally:
            self._ours.discard(note.key)

    async def _take_away(self, note: ProgressNote, text: str) -> None:
        """Until it is gone, or the platform says that it never will be."""
        pause = FIRST_RETRY
        while True:
            asked_to_wait = 0.0
            try:
                async with self._lanes[note.channel].lock:
                    await self._end(note, text)
                break
            except SendFailed as error:
                LOG.info("a message on %s could not be taken away: %s", note.channel, error.what)
                break
            except SendDelayed as error:
                LOG.debug("a message on %s is not taken away yet: %s", note.channel, error.what)
                asked_to_wait = error.after or 0.0
            await self._clock.sleep(max(pause, asked_to_wait))
            pause = min(LONGEST_RETRY, 2 * pause)
        await self._notes.forget(note.key)

    async def _end(self, note: ProgressNote, text: str) -> None:
        if note.message is None and self._knows_repeats(note):
            note = await self._send(note, text)
        if note.message is not None:
            await self._channel(note).end_progress(note.chat, note.message, text)

    def _channel(self, note: ProgressNote) -> ShowsProgress:
        found = self._channels(note.channel)
        if found is None or not isinstance(found[0], ShowsProgress):
            raise SendDelayed("The channel is not there.")
        return found[0]

    def _knows_repeats(self, note: ProgressNote) -> bool:
        """Whether sending it again, now, sends nothing new."""
        known_for = self._channel(note).knows_repeats_for
        return 0 < (self._clock.now() - note.created_at).total_seconds() + 1 <= known_for

    # Patience

    @asynccontextmanager
    async def _lane(self, channel: str, watch: Watch) -> AsyncIterator[_Lane]:
        """The channel for one message, once it may have one."""
        lane = self._lanes[channel]
        async with lane.lock:
            await self._pause(lane.free_at - self._clock.monotonic(), watch.over)
            try:
                yield lane
            finally:
                lane.free_at = max(lane.free_at, self._clock.monotonic() + GAP)

    def _note_delay(self, lane: _Lane, note: ProgressNote, error: SendDelayed) -> None:
        LOG.debug("how far a turn is waits for %s: %s", note.channel, error.what)
        lane.free_at = max(lane.free_at, self._clock.monotonic() + (error.after or 0.0))

    async def _pause(self, seconds: float, over: anyio.Event) -> None:
        """Sleep, but not beyond that event."""
        if seconds <= 0:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_after, over, tasks.cancel_scope)
            await self._clock.sleep(seconds)
            tasks.cancel_scope.cancel()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
