"""The outbox: nothing is lost, nothing is out of order, nothing is tried for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection

from delivering import FakeTarget, delivering
from fake_clock import FakeClock, settle
from scheduling import Work, every, open_database, running
from sexton.database import Database
from sexton.errors import UsageError
from sexton.gateway.deliveries import (
    Deliveries,
    DeliveryState,
    Message,
    Outbox,
    SendDelayed,
    SendFailed,
    TextLimits,
    UnknownDelivery,
    queue_run,
)
from sexton.journal import Journal
from sexton.scheduler import DeliverOn, Job, Outcome, Perform, Run, RunContext, RunFailed, RunState, RunStore
from sexton.scheduler.rows import RunEnd

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]

HELLO = Message(text="hello")


# One target


async def test_a_message_is_sent_at_once_and_told(tmp_path: Path) -> None:
    async with delivering(tmp_path) as bench:
        delivery = await bench.send("hello", "chat:me")
        assert [(part.to, part.text, part.key) for part in bench.target.sent] == [("me", "hello", "hello:chat:me")]
        found = await bench.deliveries.delivery(delivery.id)
        assert (found.state, found.attempts, found.receipt) == (DeliveryState.SENT, 1, "receipt-1")
        (event,) = bench.events("sent")
        assert (event.subject, event.data["target"]) == ("chat", "chat:me")


async def test_the_same_key_is_sent_once(tmp_path: Path) -> None:
    async with delivering(tmp_path) as bench:
        first = await bench.send("hello", key="k")
        second = await bench.send("something else", key="k")
        assert first.id == second.id
        assert bench.target.texts == ["hello"]
        await bench.send("to another", "chat:me", key="k")
        assert bench.target.texts == ["hello", "to another"]


async def test_a_target_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    async with delivering(tmp_path) as bench:
        with pytest.raises(UsageError, match="no target 'chta'") as caught:
            await bench.deliveries.send("chta:me", "hello", key="k")
        assert caught.value.hint == "did you mean 'chat'?"
        with pytest.raises(UsageError, match="nobody is called 'nobody'"):
            await bench.deliveries.send("chat:nobody", "hello", key="k")
        with pytest.raises(UnknownDelivery):
            await bench.deliveries.delivery(1)


# Failures


async def test_a_delay_is_waited_out_with_growing_pauses_and_those_behind_it_wait(tmp_path: Path) -> None:
    target = FakeTarget(answers=[SendDelayed("busy"), SendDelayed("busy"), None])
    async with delivering(tmp_path, target=target) as bench:
        await bench.send("first")
        await bench.send("second")
        assert len(target.tried) == 1
        await bench.clock.advance(1.4)
        assert len(target.tried) == 1
        await bench.clock.advance(1.2)
        assert len(target.tried) == 2
        assert target.sent == []
        await bench.clock.advance(5.1)
        assert target.texts == ["first", "second"]
        assert [event.data["what"] for event in bench.events("delayed")] == ["busy", "busy"]


async def test_a_retry_after_is_waited_out_and_another_recipient_does_not_wait(tmp_path: Path) -> None:
    target = FakeTarget(answers=[SendDelayed("too many", after=90.0)])
    async with delivering(tmp_path, target=target) as bench:
        await bench.send("slow down", "chat:a")
        await bench.send("hello", "chat:b")
        assert target.texts == ["hello"]
        await bench.clock.advance(89.0)
        assert target.texts == ["hello"]
        await bench.clock.advance(1.5)
        assert target.texts == ["hello", "slow down"]


async def test_a_refusal_is_final_and_the_next_goes_on(tmp_path: Path) -> None:
    target = FakeTarget(answers=[SendFailed("no such room")])
    async with delivering(tmp_path, target=target) as bench:
        refused, taken = await bench.send("one"), await bench.send("two")
        assert (await bench.state(refused), await bench.state(taken)) == ("failed", "sent")
        (event,) = bench.events("failed")
        assert event.data["what"] == "no such room"
        assert event.data["hint"] == f"when its cause is gone: sexton deliveries retry {refused.id}"


async def test_it_is_given_up_after_the_targets_patience_and_can_be_put_back(tmp_path: Path) -> None:
    target = FakeTarget(answers=[SendDelayed("busy")] * 100, give_up_after=600.0)
    async with delivering(tmp_path, target=target) as bench:
        delivery = await bench.send()
        await bench.clock.advance(599.0)
        assert await bench.state(delivery) == "waiting"
        await bench.clock.advance(2.0)
        found = await bench.deliveries.delivery(delivery.id)
        assert found.state is DeliveryState.FAILED
        assert found.error == f"Given up after {found.attempts} attempts. The last: busy"
        target.answers.clear()
        await bench.deliveries.retry(delivery.id)
        await settle()
        assert await bench.state(delivery) == "sent"


async def test_a_defect_of_a_target_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = FakeTarget(answers=[KeyError("oops")])
    async with delivering(tmp_path, target=target) as bench:
        delivery = await bench.send()
        assert "KeyError" in str((await bench.deliveries.delivery(delivery.id)).error)
        assert "met a defect" in caplog.text
        await bench.clock.advance(5.0)
        assert await bench.state(delivery) == "sent"


async def test_what_is_meant_for_a_target_that_went_waits_until_it_is_back(tmp_path: Path) -> None:
    async with delivering(tmp_path) as bench:
        bench.deliveries.remove_target("chat")
        await bench.deliveries._outbox.add("chat", HELLO, key="k", now=bench.clock.now())
        bench.deliveries.ring()
        await settle()
        (event,) = bench.events("delayed")
        assert event.data["what"] == "There is no target 'chat' in the settings (any more)."
        bench.deliveries.add_target("chat", bench.target)
        await bench.clock.advance(5.0)
        assert bench.target.texts == ["hello"]


async def test_a_cancelled_one_is_not_sent_and_lets_the_next_go(tmp_path: Path) -> None:
    target = FakeTarget(answers=[SendDelayed("busy")])
    async with delivering(tmp_path, target=target) as bench:
        first = await bench.send("first")
        await bench.send("second")
        await bench.deliveries.cancel(first.id)
        await settle()
        assert target.texts == ["second"]
        assert await bench.state(first) == "cancelled"
        assert len(bench.events("cancelled")) == 1
        await bench.deliveries.cancel(first.id)
        assert len(bench.events("cancelled")) == 1


async def test_one_that_is_cancelled_while_it_is_sent_counts_as_what_it_became(tmp_path: Path) -> None:
    target = FakeTarget(hold=anyio.Event())
    async with delivering(tmp_path, target=target) as bench:
        delivery = await bench.send()
        await bench.deliveries.cancel(delivery.id)
        assert target.hold is not None
        target.hold.set()
        await settle()
        assert await bench.state(delivery) == "sent"


async def test_a_text_in_parts_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    target = FakeTarget(limits=TextLimits(most=10), answers=[None, SendDelayed("busy")])
    async with delivering(tmp_path, target=target) as bench:
        await bench.send("one two\n\nthree\n\nfour five")
        assert target.texts == ["one two"]
        await bench.clock.advance(3.0)
        assert target.texts == ["one two", "three", "four five"]
        assert [part.key[-2:] for part in target.tried] == [":1", ":2", ":2", ":3"]


# Crashes


async def test_what_was_cut_off_is_sent_again_with_the_same_key_by_the_next_start(tmp_path: Path) -> None:
    hung = FakeTarget(hold=anyio.Event())
    clock = FakeClock()
    async with open_database(tmp_path / "sexton.db") as database:
        outbox = Outbox(database)
        first = Deliveries(outbox, clock=clock, journal=Journal.open(clock=clock), owner="here")
        first.add_target("chat", hung)
        delivery = await first.send("chat", "hello", key="k")
        # What a SIGKILL leaves: the row is claimed, and nobody is there to end it.

        claimed = await outbox.claim("chat", owner="here", now=clock.now(), lease=timedelta(hours=1))
        assert claimed is not None
    async with delivering(tmp_path, clock=clock, owner="somebody else") as other:
        await other.clock.advance(60.0)
        assert other.target.sent == []
    async with delivering(tmp_path, clock=clock) as again:
        assert [part.key for part in again.target.sent] == ["k:chat"]
        assert (await again.deliveries.delivery(delivery.id)).attempts == 2


async def test_another_gateway_takes_it_over_when_the_lease_is_over(tmp_path: Path) -> None:

    clock = FakeClock()
    async with open_database(tmp_path / "sexton.db") as database:
        outbox = Outbox(database)
        await outbox.add("chat", HELLO, key="k", now=clock.now())
        await outbox.claim("chat", owner="dead", now=clock.now(), lease=timedelta(seconds=100))
        assert await outbox.claim("chat", owner="here", now=clock.now(), lease=timedelta(seconds=100)) is None
    async with delivering(tmp_path, clock=clock) as bench:
        await bench.clock.advance(99.0)
        assert bench.target.sent == []
        await bench.clock.advance(2.0)
        assert bench.target.texts == ["hello"]


async def test_a_stop_lets_what_is_under_way_arrive_and_begins_nothing_more(tmp_path: Path) -> None:
    target = FakeTarget(hold=anyio.Event())
    async with delivering(tmp_path, target=target) as bench:
        first = await bench.send("first")
        second = await bench.send("second")
        bench.cancel()
        with anyio.CancelScope(shield=True):
            await settle()
            assert target.hold is not None
            target.hold.set()
            await settle()
            assert target.texts == ["first"]
            assert await bench.state(first) == "sent"
            assert await bench.state(second) == "waiting"


# Runs


async def ended(tmp_path: Path, job: Job, perform: Perform) -> list[tuple[str, str | None, str]]:
    """What the outbox has after one run: target, title, text."""
    async with running(tmp_path, jobs=(job,), perform=perform) as bench:
        await bench.scheduler.run_now(job.name)
        await bench.clock.advance(30.0)
        found = await Outbox(bench.database).deliveries(limit=100)
        return [(one.target, one.message.title, one.message.text) for one in reversed(found)]


async def fails(context: RunContext) -> Outcome:
    raise RunFailed("The tool said no.", output="half of it")


async def says(context: RunContext) -> Outcome:
    return Outcome(output="all is well\n")


async def says_nothing(context: RunContext) -> Outcome:
    return Outcome()


@pytest.mark.parametrize(
    ("wish", "perform", "told"),
    [
        ("always", says, "all is well"),
        ("always", says_nothing, "(It said nothing.)"),
        ("always", fails, "The tool said no.\n\nIt had said:\nhalf of it"),
        ("output", says, "all is well"),
        ("output", says_nothing, None),
        ("output", fails, "The tool said no.\n\nIt had said:\nhalf of it"),
        ("success", says, "all is well"),
        ("success", fails, None),
        ("failure", says, None),
        ("failure", fails, "The tool said no.\n\nIt had said:\nhalf of it"),
    ],
)
async def test_the_end_of_a_run_is_told_to_who_wants_to_know(
    tmp_path: Path, wish: str, perform: Perform, told: str | None
) -> None:
    job = Job(name="brief", deliver=("hook", "chat:me"), deliver_on=DeliverOn(wish))
    found = await ended(tmp_path, job, perform)
    assert [text for _, _, text in found] == ([] if told is None else [told, told])
    assert [target for target, _, _ in found] == ([] if told is None else ["hook", "chat:me"])


async def test_only_the_last_attempt_is_told(tmp_path: Path) -> None:
    job = Job(name="brief", deliver=("hook",), retries=2)
    (told,) = await ended(tmp_path, job, fails)
    assert told[1] == "brief failed after 0.0 s"


async def test_the_row_and_the_end_of_the_run_are_one_transaction(tmp_path: Path) -> None:
    """Whichever of the two cannot be written, neither is."""

    class Crash(Exception):
        pass

    def crash(connection: Connection, job: Job, run: Run, output: str | None) -> None:
        queue_run(connection, job, run, output)
        raise Crash

    work = Work(hold=True)
    async with running(tmp_path, jobs=(Job(name="brief", deliver=("hook",)),), work=work) as bench:
        run = await bench.scheduler.run_now("brief")
        await bench.clock.advance(1.0)
        (task,) = bench.scheduler._tasks.values()
        end = RunEnd(state=RunState.RAN, at=bench.clock.now(), output="done")
        with pytest.raises(Crash):
            await RunStore(bench.database, at_end=crash).finish(task.claim, end)
        assert (await bench.scheduler.run_record(run.id)).run.state is RunState.RUNNING
        assert await Outbox(bench.database).deliveries(limit=10) == ()
        await work.let_end(0)
        assert (await bench.scheduler.run_record(run.id)).run.state is RunState.RAN
        assert len(await Outbox(bench.database).deliveries(limit=10)) == 1


async def test_a_run_that_a_crash_cut_off_is_told_with_what_it_had_said(tmp_path: Path) -> None:
    async def talks(context: RunContext) -> Outcome:
        context.output_so_far = lambda: "so far so good"
        context.progress("working")
        await anyio.Event().wait()
        return Outcome()

    job = Job(name="brief", deliver=("hook",))
    clock = FakeClock()
    async with open_database(tmp_path / "sexton.db") as database:

        @asynccontextmanager
        async def shared(_: Path) -> AsyncIterator[Database]:
            yield database

        async with running(tmp_path, jobs=(job,), perform=talks, clock=clock, database=shared) as bench:
            await bench.scheduler.run_now("brief")
            await bench.clock.advance(3.0)
            store = RunStore(database, at_end=queue_run)  # As the next gateway does, which finds this one gone.
            for gateway in await store.gateways():
                await store.settle_dead(gateway, now=clock.now())
        (told,) = await Outbox(database).deliveries(limit=10)
    assert told.message.title == "brief interrupted after 3.0 s"
    assert told.message.text == "the gateway ended while it ran\n\nIt had said:\nso far so good"


async def test_the_end_of_a_run_rings(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(30, deliver=("chat",)),)) as bench, anyio.create_task_group() as tasks:
        deliveries = Deliveries(Outbox(bench.database), clock=bench.clock, journal=bench.journal, owner="here")
        target = FakeTarget()
        deliveries.add_target("chat", target)
        tasks.start_soon(deliveries.run)
        await bench.clock.advance(30.0)
        assert target.texts == ["tick ran\n\ndid tick"]
        tasks.cancel_scope.cancel()


async def test_old_ends_are_forgotten_and_what_waits_is_not(tmp_path: Path) -> None:
    target = FakeTarget(answers=[None, SendDelayed("busy", after=40 * 86_400.0)], give_up_after=100 * 86_400.0)
    async with delivering(tmp_path, target=target) as bench:
        await bench.send("sent")
        await bench.send("waits")
        bench.clock.jump(31 * 86_400.0)
        await bench.clock.advance(3_600.0)
        assert [one.message.text for one in await bench.deliveries.deliveries()] == ["waits"]
