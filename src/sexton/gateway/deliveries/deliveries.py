"""Sends what waits in the outbox: one task per target, the oldest first."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar, final

import anyio
import anyio.abc

from sexton.clock import Clock
from sexton.database import DatabaseError
from sexton.errors import UsageError
from sexton.gateway.deliveries.delivery import Delivery, DeliveryState, Message
from sexton.gateway.deliveries.outbox import Lane, Outbox
from sexton.gateway.deliveries.parts import parts_of
from sexton.gateway.deliveries.patience import next_attempt
from sexton.gateway.deliveries.target import SendDelayed, SendFailed, Target
from sexton.journal import JSON, Journal

_T = TypeVar("_T")
LOG = logging.getLogger(__name__)
LONGEST_SLEEP = 15.0
RETRY_WRITES_EVERY = 2.0
# One part may take this long; a target's own limits are shorter.
SEND_SECONDS = 120.0
LEASE = timedelta(seconds=2 * SEND_SECONDS)
# What is under way when the gateway stops gets so many seconds to be finished.
AT_STOP_SECONDS = 5.0
KEPT = timedelta(days=30)
PRUNE_EVERY = 3600.0
# How long a delivery waits for a target that is not in the settings (any more).
WAIT_FOR_TARGET = 86_400.0
_TELLS_OF_NEWS = "run.ended"


class _Lost(Exception):
    """Somebody else has taken the delivery over while we were sending it."""


@final
class Deliveries:
    """The deliveries of one gateway.

    `owner` names this gateway and no other one: the same after a restart, or,
    with an outbox that several nodes share, its id among the nodes.  A node
    sends only to targets that it has (of channels, that it keeps), and while
    `may_send`; the others' are left to them.
    What happens is told to the journal, under the name of the target:
    `delivery.sent`, `delivery.delayed` (with `what`), `delivery.failed` (given
    up, or refused for good) and `delivery.cancelled`.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        clock: Clock,
        journal: Journal,
        owner: str,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_send = may_send
        self._elsewhere: set[str] = set()
        self._outbox = outbox
        self._clock = clock
        self._journal = journal
        self._owner = owner
        self._targets: dict[str, Target] = {}
        self._news = anyio.Event()
        self._lane_ended = anyio.Event()
        self._lanes: dict[str, anyio.CancelScope] = {}
        self._closing = False

    # Targets

    @property
    def targets(self) -> Mapping[str, Target]:
        return self._targets

    def add_target(self, name: str, target: Target, *, here: bool = True) -> None:
        """Send what is meant for `name` by this from now on; if not `here`, another node does."""
        self._targets[name] = target
        self.set_here(name, here=here)

    def set_here(self, name: str, *, here: bool) -> None:
        """Whether this node sends to that target."""
        (self._elsewhere.discard if here else self._elsewhere.add)(name)
        self.ring()

    def remove_target(self, name: str) -> Target | None:
        self._elsewhere.discard(name)
        return self._targets.pop(name, None)

    def check(self, written: str) -> None:
        """Raise `UsageError` if NAME or NAME:RECIPIENT cannot be sent to."""
        name, _, to = written.partition(":")
        target = self._targets.get(name)
        if target is None:
            raise UsageError(f"There is no target {name!r} to deliver to.", hint=self._advice(name))
        if why := target.refusal(to or None):
            raise UsageError(f"Nothing can be sent to {written!r}: {why}.")

    def _advice(self, name: str) -> str:
        if not self._targets:
            return "add a table [targets.NAME] or [channels.NAME] to sexton.toml"
        near = difflib.get_close_matches(name, list(self._targets), n=1, cutoff=0.5)
        listed = ", ".join(sorted(self._targets))
        return f"did you mean {near[0]!r}?" if near else f"there are: {listed}"

    # What others ask for

    async def send(self, target: str, text: str, *, key: str, title: str | None = None) -> Delivery:
        """Put a message into the outbox; comes back when it is on disk.  The same key again adds nothing.

        Raises `UsageError` if there is no such target, and `DatabaseError`.
        """
        self.check(target)
        return await self.queue(target, Message(text=text, title=title), key=key)

    async def queue(self, target: str, message: Message, *, key: str) -> Delivery:
        """As `send`, for a target that need not be there yet."""
        delivery = await self._outbox.add(target, message, key=key, now=self._clock.now())
        self.ring()
        return delivery

    async def hurry(self, name: str) -> None:
        """Try at once what waits for that target: it is there (again).  A receiver's Retry-After is waited out."""
        await self._outbox.hurry(name, now=self._clock.now())
        self.ring()

    async def retry(self, delivery_id: int) -> Delivery:
        delivery = await self._outbox.retry(delivery_id, now=self._clock.now())
        self.ring()
        return delivery

    async def cancel(self, delivery_id: int) -> Delivery:
        before = await self._outbox.delivery(delivery_id)
        delivery = await self._outbox.cancel(delivery_id, now=self._clock.now())
        if before.state is DeliveryState.WAITING and delivery.state is DeliveryState.CANCELLED:
            self._tell("cancelled", delivery)
        self.ring()
        return delivery

    async def delivery(self, delivery_id: int) -> Delivery:
        """Raises `UnknownDelivery`."""
        return await self._outbox.delivery(delivery_id)

    async def deliveries(
        self,
        *,
        target: str | None = None,
        states: Collection[DeliveryState] = (),
        job: str | None = None,
        run: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[Delivery, ...]:
        """Newest first; `before` is the id of the last one seen."""
        return await self._outbox.deliveries(target=target, states=states, job=job, run=run, limit=limit, before=before)

    async def counts(self) -> Mapping[DeliveryState, int]:
        return await self._outbox.counts()

    def ring(self) -> None:
        """Look into the outbox now."""
        self._news.set()

    async def aclose(self) -> None:
        """Let go of all targets."""
        while self._targets:
            _, target = self._targets.popitem()
            await target.aclose()

    # Sending

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; what is under way then gets a few seconds to be finished.

        Raises `DatabaseError` when the database fails at the start.
        """
        if not self._outbox.is_shared:
            await self._outbox.release(self._owner)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear_journal)
            tasks.start_soon(self._keep_pruning)
            task_status.started()
            try:
                await self._keep_looking(tasks)
            finally:
                self._close()

    def cut_off(self) -> None:
        """End what is under way at once: others may soon believe that we are dead, and send it."""
        for scope in self._lanes.values():
            scope.cancel()

    async def leave(self) -> None:
        """Begin nothing more, let what is under way be finished for a few seconds, and give back what is ours.

        To be awaited before the other nodes are told that we are gone.
        """
        self._close()
        while self._lanes:
            await self._lane_ended.wait()
        with suppress(DatabaseError):  # It is free as soon as we are gone.
            await self._outbox.release(self._owner)

    def _close(self) -> None:
        self._closing = True
        for scope in self._lanes.values():
            scope.deadline = anyio.current_time() + AT_STOP_SECONDS

    async def _keep_looking(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            self._news = anyio.Event()
            now = self._clock.now()
            lanes = await self._written(self._outbox.lanes, owner=self._owner, now=now)
            ours = {target: lane.due_at for target, lane in lanes.items() if self._is_ours(target, lane, now)}
            for target in (target for target, due_at in ours.items() if due_at <= now):
                self._serve(tasks, target)
            await self._wait(min((at for at in ours.values() if at > now), default=None))

    def _is_ours(self, target: str, lane: Lane, now: datetime) -> bool:
        """Of what is for a target of other nodes, only what nobody has sent in all its time: to tell that it failed."""
        name = target.partition(":")[0]
        if not self._outbox.is_shared or (name in self._targets and name not in self._elsewhere):
            return True
        known = self._targets.get(name)
        return now - lane.since >= timedelta(seconds=WAIT_FOR_TARGET if known is None else known.give_up_after)

    async def _wait(self, due_at: datetime | None) -> None:
        seconds = LONGEST_SLEEP
        if due_at is not None:
            seconds = min(seconds, max(0.0, (due_at - self._clock.now()).total_seconds()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ring_after, seconds)
            await self._news.wait()
            tasks.cancel_scope.cancel()

    async def _ring_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.ring()

    def _serve(self, tasks: anyio.abc.TaskGroup, target: str) -> None:
        if target not in self._lanes and not self._closing and self._may_send():
            self._lanes[target] = anyio.CancelScope(shield=True)
            tasks.start_soon(self._serve_lane, target)

    async def _serve_lane(self, target: str) -> None:
        """Send what is due to one target, one after the other."""
        try:
            with self._lanes[target]:
                while not self._closing and self._may_send():
                    delivery = await self._written(
                        self._outbox.claim, target, owner=self._owner, now=self._clock.now(), lease=LEASE
                    )
                    if delivery is None:
                        break
                    await self._attempt(delivery)
        except _Lost:
            LOG.warning("what was being sent to %s is another node's now", target)
        finally:
            del self._lanes[target]
            self._lane_ended.set()
            self._lane_ended = anyio.Event()
            self.ring()

    async def _attempt(self, delivery: Delivery) -> None:
        target = self._targets.get(delivery.name)
        if target is None:
            gone = f"There is no target {delivery.name!r} in the settings (any more)."
            error = str(SendDelayed(gone, hint=self._advice(delivery.name)))
            await self._put_off(delivery, error, after=None, give_up_after=WAIT_FOR_TARGET)
            return
        try:
            receipt = await self._send_parts(delivery, target)
        except _Lost:
            raise
        except SendFailed as error:
            await self._fail(delivery, str(error))
        except SendDelayed as error:
            await self._put_off(delivery, str(error), after=error.after, give_up_after=target.give_up_after)
        except Exception as error:  # The outermost edge of an attempt: a defect must not lose the delivery.
            LOG.exception("delivery %s to %s met a defect", delivery.id, delivery.target)
            told = f"{type(error).__name__}: {error}"
            await self._put_off(delivery, told, after=None, give_up_after=target.give_up_after)
        else:
            await self._end(delivery, DeliveryState.SENT, receipt=receipt)
            self._tell("sent", delivery, receipt=receipt)

    async def _send_parts(self, delivery: Delivery, target: Target) -> str | None:
        if why := target.refusal(delivery.to):
            raise SendFailed(f"Nothing can be sent to {delivery.target!r}: {why}.")
        receipt = None
        parts = parts_of(delivery, target.limits, await self._written(self._outbox.files, delivery.id))
        for number, part in enumerate(parts[delivery.parts_sent :], delivery.parts_sent + 1):
            try:
                with anyio.fail_after(SEND_SECONDS):
                    receipt = await target.send(part)
            except TimeoutError as error:
                raise SendDelayed(f"It was not sent within {SEND_SECONDS:g} s.") from error
            if number < len(parts):
                lease_until = self._clock.now() + LEASE
                if not await self._written(
                    self._outbox.note_part, delivery, parts_sent=number, lease_until=lease_until
                ):
                    raise _Lost
        return receipt

    async def _put_off(self, delivery: Delivery, error: str, *, after: float | None, give_up_after: float) -> None:
        now = self._clock.now()
        due_at = next_attempt(delivery, now=now, after=after, give_up_after=give_up_after)
        if due_at is None:
            await self._fail(delivery, f"Given up after {delivery.attempts} attempts. The last: {error}")
            return
        not_before = due_at if after else None
        await self._written(self._outbox.put_off, delivery, due_at=due_at, error=error, not_before=not_before)
        what, _, hint = error.partition("\nNext: ")
        pause = round((due_at - now).total_seconds(), 1)
        self._tell("delayed", delivery, what=what, hint=hint or None, retry_in=pause, attempts=delivery.attempts)

    async def _fail(self, delivery: Delivery, error: str) -> None:
        await self._end(delivery, DeliveryState.FAILED, error=error)
        what, _, hint = error.partition("\nNext: ")
        hint = hint or f"when its cause is gone: sexton deliveries retry {delivery.id}"
        self._tell("failed", delivery, what=what, hint=hint, attempts=delivery.attempts)

    async def _end(
        self, delivery: Delivery, state: DeliveryState, *, error: str | None = None, receipt: str | None = None
    ) -> None:
        await self._written(self._outbox.end, delivery, state, now=self._clock.now(), error=error, receipt=receipt)

    async def _written(self, work: Callable[..., Awaitable[_T]], *args: object, **kwargs: object) -> _T:
        """Ask the database as often as it takes: what was sent must not be forgotten for a full disk.

        The scheduler meets the same failure, and tells of it.
        """
        while True:
            try:
                return await work(*args, **kwargs)
            except DatabaseError as error:
                LOG.warning("the outbox waits for the database: %s", error.what)
                await self._clock.sleep(RETRY_WRITES_EVERY)

    # Around it

    async def _hear_journal(self) -> None:
        """The end of a run may have put something into the outbox."""
        async for event in self._journal.subscribe():
            if event.kind == _TELLS_OF_NEWS:
                self.ring()

    async def _keep_pruning(self) -> None:
        while True:
            with suppress(DatabaseError):  # Others tell of it; there is another hour.
                await self._outbox.prune(before=self._clock.now() - KEPT)
            await self._clock.sleep(PRUNE_EVERY)

    def _tell(self, what_happened: str, delivery: Delivery, **data: JSON) -> None:
        told: dict[str, JSON] = {"delivery": delivery.id, "target": delivery.target}
        told |= {"job": delivery.job, "run": delivery.run} if delivery.run else {}
        told |= {name: value for name, value in data.items() if value is not None}
        self._journal.append(f"delivery.{what_happened}", subject=delivery.name, **told)
