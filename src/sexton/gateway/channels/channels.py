"""All channels of one gateway: connected, connected again after a pause, and never in the gateway's way."""

from __future__ import annotations

import enum
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.database import DatabaseError
from sexton.errors import SextonError, UsageError
from sexton.gateway.channels.access import CODE_LIVES, Standing
from sexton.gateway.channels.channel import Channel, ChannelDown, Incoming, Line
from sexton.gateway.channels.channel_target import ChannelTarget
from sexton.gateway.channels.chats import Chats, SayAs
from sexton.gateway.channels.claims import ChannelClaims, Holder
from sexton.gateway.channels.desk import Desk
from sexton.gateway.channels.inbox import Inbox, Person
from sexton.gateway.channels.kind import find_kind
from sexton.gateway.channels.progress import Progress
from sexton.gateway.channels.setup import ChannelSetup
from sexton.gateway.deliveries import Deliveries
from sexton.journal import JSON, Journal

LOG = logging.getLogger(__name__)
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
# A connection that held for so long was a good one: the next pause is a short one again.
GOOD_AFTER = 60.0
ANSWERED_ARE_KEPT = timedelta(days=30)
PRUNE_EVERY = 3600.0
# Seconds between two looks for channels that no node keeps; whether we may keep any is looked at every second.
LOOK_EVERY = 5
# How long a connection may take to end before we are asked again to give its channel back.
ENDS_WITHIN = 30.0


class ChannelState(enum.StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DOWN = "down"
    STANDBY = "standby"
    """No node has told yet that it keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatus:
    """How one channel is doing; `waiting` are messages without an answer.

    `node` keeps it, where several share the database.  Of another node's we know what that one told with its last beat.
    """

    name: str
    kind: str
    state: ChannelState
    account: str | None
    since: datetime
    error: str | None
    hint: str | None
    retry_at: datetime | None
    waiting: int
    people: int
    node: str | None = None


@dataclass(slots=True, kw_only=True)
class _Kept:
    """A channel that is configured, and how it is doing.

    `ours`: this node keeps it.  `hold` is around its connections while it is, and `let_go` set when they have ended.
    """

    setup: ChannelSetup
    channel: Channel
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)
    ours: bool
    news: anyio.Event = field(default_factory=anyio.Event)
    hold: anyio.CancelScope | None = None
    let_go: anyio.Event = field(default_factory=anyio.Event)
    state: ChannelState = ChannelState.CONNECTING
    account: str | None = None
    since: datetime
    error: str | None = None
    hint: str | None = None
    retry_at: datetime | None = None
    failures: int = 0


@final
class Channels:
    """See the module.

    The journal is told, under a channel's name: `channel.connected`,
    `channel.down` (with `what` and `retry_in`), `channel.stranger`,
    `channel.paired`, `channel.approved`, `channel.refused`, and where several
    nodes share the database `channel.taken` and `channel.left`.

    `claims` says which channels this node keeps (None: all), `is_open` whether
    it may keep any.
    """

    def __init__(
        self,
        inbox: Inbox,
        chats: Chats,
        deliveries: Deliveries,
        *,
        say_as: SayAs,
        clock: Clock,
        journal: Journal,
        claims: ChannelClaims | None = None,
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        self._chats = chats
        self._claims = claims
        self._is_open = is_open
        self._may_be_claimed: set[str] = set()
        self._cuts = 0
        self._inbox = inbox
        self._deliveries = deliveries
        self._clock = clock
        self._journal = journal
        self._kept: dict[str, _Kept] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._progress = Progress(inbox.progress, deliveries, channels=self._find, clock=clock)
        self._desk = Desk(inbox, chats, deliveries, self._progress, say_as=say_as, channels=self._find, clock=clock)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep what is configured connected, until cancelled."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._run_desk)
            if self._claims is not None:
                tasks.start_soon(self._keep_claiming, self._claims)
            tasks.start_soon(self._keep_pruning)
            self._tasks = tasks
            for kept in self._kept.values():
                tasks.start_soon(self._keep, kept)
            task_status.started()
            await anyio.sleep_forever()

    async def _run_desk(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        await self._desk.run(is_alone=self._claims is None, task_status=task_status)

    async def take_down(self) -> None:
        """Take away what is only shown of turns, since the gateway stops; `run` is still running."""
        await self._progress.take_down()

    async def configure(self, setups: Mapping[str, ChannelSetup]) -> None:
        """Make these the channels; what did not change stays connected.  Raises UsageError if one cannot be made."""
        changed = [setup for setup in setups.values() if not self._is_kept(setup)]
        made = [(setup, find_kind(setup.kind).make(setup.name, setup.options, self._clock)) for setup in changed]
        gone = [name for name in self._kept if name not in setups or not self._is_kept(setups[name])]
        for name in gone:
            await self._let_go(name)
            if self._claims is not None and name not in setups:
                await self._forget(self._claims, name)
        for setup, channel in made:
            self.add(setup, channel)

    def add(self, setup: ChannelSetup, channel: Channel) -> None:
        """Keep this one connected as well."""
        kept = self._kept[setup.name] = _Kept(
            setup=setup, channel=channel, since=self._clock.now(), ours=self._claims is None
        )
        self._deliveries.add_target(setup.name, ChannelTarget(channel, setup), here=kept.ours)
        if self._tasks is not None:
            self._tasks.start_soon(self._keep, kept)

    def _is_kept(self, setup: ChannelSetup) -> bool:
        kept = self._kept.get(setup.name)
        return kept is not None and kept.setup == setup

    async def _let_go(self, name: str) -> None:
        kept = self._kept.pop(name)
        self._deliveries.remove_target(name)
        kept.scope.cancel()
        if self._tasks is not None:
            await kept.over.wait()
        await kept.channel.aclose()

    def _find(self, name: str) -> tuple[Channel, ChannelSetup] | None:
        kept = self._kept.get(name)
        return None if kept is None else (kept.channel, kept.setup)

    # Asked for by the API

    async def statuses(self) -> tuple[ChannelStatus, ...]:
        """Every channel, by name."""
        waiting = await self._inbox.counts()
        people = await self._inbox.people()
        holders = {} if self._claims is None else await self._claims.holders()
        return tuple(
            ChannelStatus(
                name=name,
                kind=kept.setup.kind,
                **_how_it_is(kept, holders.get(name)),
                waiting=waiting.get(name, 0),
                people=len(kept.setup.rules.allow)
                + sum(person.channel == name and person.standing is Standing.ALLOWED for person in people),
            )
            for name, kept in sorted(self._kept.items())
        )

    async def people(self, name: str) -> tuple[Person, ...]:
        """Those who wrote and are not in the settings.  Raises UsageError."""
        self._require(name)
        return await self._inbox.people(name)

    async def approve(self, name: str, who: str, *, by: str) -> Person:
        """Let in whoever was told that code, or has that id."""
        return await self._set_standing(name, who, Standing.ALLOWED, by=by)

    async def refuse(self, name: str, who: str, *, by: str) -> Person:
        """Answer that person no more, in any way."""
        return await self._set_standing(name, who, Standing.REFUSED, by=by)

    async def forget(self, name: str, sender: str) -> None:
        """Take back what was decided about that person.  Raises UsageError if nothing was."""
        self._require(name)
        if not await self._inbox.forget(name, sender):
            raise UsageError(
                f"Nothing is known of {sender!r} on {name!r}.", hint=f"see who is: sexton channels people {name}"
            )

    async def make_code(self, name: str, *, by: str) -> tuple[str, datetime]:
        """A code that lets in the first who sends it to that channel, and until when."""
        self._require(name)
        now = self._clock.now()
        return await self._inbox.make_code(name, by=by, now=now), now + CODE_LIVES

    async def _set_standing(self, name: str, who: str, standing: Standing, *, by: str) -> Person:
        self._require(name)
        person = await self._inbox.set_standing(name, who, standing, by=by, now=self._clock.now())
        word = "approved" if standing is Standing.ALLOWED else "refused"
        self._journal.append(f"channel.{word}", subject=name, sender=person.sender, by=by)
        return person

    def _require(self, name: str) -> None:
        if name not in self._kept:
            there = ", ".join(sorted(self._kept))
            raise UsageError(
                f"There is no channel {name!r}.",
                hint=f"there are: {there}" if there else "add a table [channels.NAME] to sexton.toml",
            )

    # Which are ours, where several nodes share the database

    def told(self) -> dict[str, JSON]:
        """What the other nodes are to know of the channels that this one keeps, by name."""
        return {
            name: {"state": str(kept.state), "account": kept.account, "error": kept.error, "hint": kept.hint}
            for name, kept in self._kept.items()
            if self._claims is not None and kept.ours
        }

    def cut_off(self) -> None:
        """End every connection at once: another node may soon believe that we are dead, and connect itself."""
        if self._claims is not None:
            self._cuts += 1
            for kept in self._kept.values():
                self._set_ours(kept, ours=False)

    async def _keep_claiming(self, claims: ChannelClaims) -> None:
        while True:
            was_open = self._is_open()
            try:
                await (self._claim(claims) if was_open else self._give_back(claims))
            except DatabaseError as error:  # The scheduler meets the same failure, and tells of it.
                LOG.warning("who keeps which channel is not known: %s", error.what)
            for _ in range(LOOK_EVERY):
                await self._clock.sleep(1.0)
                if self._is_open() is not was_open:
                    break

    async def _claim(self, claims: ChannelClaims) -> None:
        names, cuts = tuple(self._kept), self._cuts
        if not names:
            return
        self._may_be_claimed.update(names)  # also if the answer is lost
        ours = await claims.take(names, now=self._clock.now())
        if cuts != self._cuts or not self._is_open():
            return  # What was true when it was asked need not be so any more.
        self._may_be_claimed = set(ours)
        for name in names:
            if (kept := self._kept.get(name)) is not None:
                self._set_ours(kept, ours=name in ours)
        if ours:
            self._deliveries.ring()  # another node may have put something into the outbox

    async def _give_back(self, claims: ChannelClaims) -> None:
        """Not before our connections have ended."""
        if not self._may_be_claimed:
            return
        for kept in self._kept.values():
            self._set_ours(kept, ours=False)
        with anyio.move_on_after(ENDS_WITHIN) as patience:
            for kept in list(self._kept.values()):
                if kept.hold is not None:
                    await kept.let_go.wait()
        if not patience.cancelled_caught:
            await claims.release(self._may_be_claimed, now=self._clock.now())
            self._may_be_claimed.clear()

    async def _forget(self, claims: ChannelClaims, name: str) -> None:
        try:
            await claims.forget(name)
        except DatabaseError as error:  # Until this node leaves, it counts as ours.
            LOG.warning("channel %s was not given back: %s", name, error.what)

    def _set_ours(self, kept: _Kept, *, ours: bool) -> None:
        if kept.ours is ours:
            return
        kept.ours = ours
        kept.news.set()
        if not ours and kept.hold is not None:
            kept.hold.cancel()
        self._deliveries.set_here(kept.setup.name, here=ours)
        self._journal.append("channel.taken" if ours else "channel.left", subject=kept.setup.name)

    # Connections

    async def _keep(self, kept: _Kept) -> None:
        """Connect, and connect again, while the channel is ours."""
        try:
            with kept.scope:
                while True:
                    while not kept.ours:
                        kept.news = anyio.Event()
                        await kept.news.wait()
                    await self._hold(kept)
        finally:
            kept.over.set()

    async def _hold(self, kept: _Kept) -> None:
        """Until it is not ours any more."""
        kept.let_go = anyio.Event()
        try:
            with anyio.CancelScope() as kept.hold:
                if self._claims is not None:
                    await self._take_up(kept)
                while True:
                    began = self._clock.monotonic()
                    await self._connect(kept)
                    if kept.account is not None and self._clock.monotonic() - began >= GOOD_AFTER:
                        kept.failures = 0
                    await self._clock.sleep(self._note_down(kept))
        finally:
            kept.hold = None
            if self._claims is not None:
                self._desk.drop(kept.setup.name)
            kept.let_go.set()

    async def _take_up(self, kept: _Kept) -> None:
        """First the turns that a dead node left, so that no message overtakes them."""
        while True:
            try:
                await self._chats.resume()
                return await self._desk.take_up(kept.setup.name)
            except DatabaseError as error:
                LOG.warning("what waits on %s was not looked for: %s", kept.setup.name, error.what)
                await self._clock.sleep(FIRST_PAUSE)

    async def _connect(self, kept: _Kept) -> None:
        """One connection, to its end, which is noted."""
        kept.state, kept.account, kept.retry_at = ChannelState.CONNECTING, None, None
        try:
            line = Line(
                cursor=await self._inbox.cursor(kept.setup.name),
                take=lambda messages, cursor: self._take(kept, messages, cursor),
                connected=lambda account: self._note_connected(kept, account),
                knows=lambda sender: self._knows(kept.setup, sender),
            )
            await kept.channel.run(line)
            kept.error, kept.hint = "The connection ended.", None
        except SextonError as error:
            kept.error, kept.hint = error.what, error.hint
        except Exception as error:  # The outermost edge of a connection: a defect of one channel is its own.
            LOG.exception("channel %s met a defect", kept.setup.name)
            kept.error, kept.hint = f"{type(error).__name__}: {error}", "please report it; the traceback is in the log"

    async def _knows(self, setup: ChannelSetup, sender: str) -> bool:
        return setup.rules.admits(sender) or await self._inbox.standing(setup.name, sender) is Standing.ALLOWED

    def _note_connected(self, kept: _Kept, account: str) -> None:
        kept.state, kept.account, kept.since = ChannelState.CONNECTED, account, self._clock.now()
        kept.error = kept.hint = None
        self._journal.append("channel.connected", subject=kept.setup.name, account=account)
        if self._tasks is not None:
            self._tasks.start_soon(self._hurry, kept.setup.name)

    async def _hurry(self, name: str) -> None:
        try:
            await self._deliveries.hurry(name)
            await self._progress.settle(name)
        except DatabaseError as error:  # They go out when their pause is over.
            LOG.warning("what waits for %s was not hurried: %s", name, error.what)

    def _note_down(self, kept: _Kept) -> float:
        """How long to wait, in seconds; varied by a quarter, the same for the same failure."""
        kept.failures += 1
        doubled = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(kept.failures - 1, 20))
        share = hashlib.sha256(f"{kept.setup.name}:{kept.failures}".encode()).digest()[0] / 256
        pause = doubled * (0.75 + share / 2)
        was = kept.state
        now = self._clock.now()
        kept.state, kept.retry_at = ChannelState.DOWN, now + timedelta(seconds=pause)
        kept.since = now if was is not ChannelState.DOWN else kept.since
        told: dict[str, JSON] = {"what": kept.error or "", "retry_in": round(pause, 1)}
        if kept.hint:
            told["hint"] = kept.hint
        self._journal.append("channel.down", subject=kept.setup.name, **told)
        return pause

    async def _take(self, kept: _Kept, messages: Sequence[Incoming], cursor: str | None) -> None:
        try:
            taken = await self._inbox.take(
                kept.setup.name, messages, cursor=cursor, rules=kept.setup.rules, now=self._clock.now()
            )
        except DatabaseError as error:
            raise ChannelDown(f"What came in cannot be kept: {error.what}", hint=error.hint) from error
        self._desk.put(taken.letters)
        self._tell_people("stranger", kept, taken.strangers)
        self._tell_people("paired", kept, taken.paired)

    def _tell_people(self, word: str, kept: _Kept, senders: Iterable[str]) -> None:
        for sender in senders:
            self._journal.append(f"channel.{word}", subject=kept.setup.name, sender=sender)
            self._deliveries.ring()

    async def _keep_pruning(self) -> None:
        while True:
            try:
                await self._inbox.prune(before=self._clock.now() - ANSWERED_ARE_KEPT)
            except DatabaseError as error:
                LOG.warning("old messages are kept: %s", error.what)
            await self._clock.sleep(PRUNE_EVERY)


def _how_it_is(kept: _Kept, holder: Holder | None) -> dict[str, Any]:
    """What we know ourselves of a channel that is ours; else what its node told."""
    if kept.ours:
        known = {"state": kept.state, "account": kept.account, "error": kept.error, "hint": kept.hint}
        retry_at = kept.retry_at
    else:
        told: Mapping[str, Any] = {} if holder is None else holder.told
        state = ChannelState(told["state"]) if "state" in told else ChannelState.STANDBY
        known = {"state": state, **{key: told.get(key) for key in ("account", "error", "hint")}}
        retry_at = None
    return {**known, "since": kept.since, "retry_at": retry_at, "node": None if holder is None else holder.node}
