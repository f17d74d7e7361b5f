"""Several nodes with the same channels: each is kept by one of them, and its messages and answers go with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatting import RULES, FakeChannel, ScriptedChats, message
from delivering import FakeTarget
from fake_clock import FakeClock, settle
from scheduling import open_database
from sexton.agent import ChatSettings, UserMessage
from sexton.agent.conversation_store import ConversationStore
from sexton.database import Database
from sexton.gateway.channels import ChannelClaims, ChannelDown, ChannelOptions, Channels, ChannelSetup, Inbox
from sexton.gateway.deliveries import Deliveries, Message, Outbox, SendDelayed
from sexton.journal import Journal
from sexton.scheduler import RunStore
from sexton.scheduler.gateways import Gateway

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]
NOW = datetime(2026, 11, 23, tzinfo=UTC)
SETUP = ChannelSetup(name="chat", kind="fake", options=ChannelOptions(), rules=RULES, names={"me": "room"})


async def join(database: Database, *names: str) -> None:
    for name in names:
        await RunStore(database).register(Gateway(id=name, name=name.upper(), process={}), now=NOW)


# Claims


async def test_a_channel_has_one_node_until_that_one_is_gone_or_gives_it_back(tmp_path: Path) -> None:
    async with open_database(tmp_path / "sexton.db") as database:
        await join(database, "a", "b")
        a, b = (ChannelClaims(database, node=name, name=name.upper()) for name in "ab")
        assert await a.take(["one", "two"], now=NOW) == {"one", "two"}
        assert await b.take(["one", "three"], now=NOW) == {"three"}
        assert {name: holder.node for name, holder in (await b.holders()).items()} == {
            "one": "A",
            "two": "A",
            "three": "B",
        }
        await b.release(["one"], now=NOW)
        assert await b.take(["one"], now=NOW) == frozenset(), "it was not b's to give back"
        await a.release(["one"], now=NOW)
        assert await b.take(["one", "two"], now=NOW) == {"one"}
        await RunStore(database).unregister("a", now=NOW)
        assert await a.take(["two"], now=NOW) == frozenset(), "who is not known gets nothing"
        assert await b.take(["one", "two"], now=NOW) == {"one", "two"}


async def test_a_drained_node_keeps_what_it_has_until_it_gives_it_back_and_gets_nothing_anew(tmp_path: Path) -> None:
    async with open_database(tmp_path / "sexton.db") as database:
        await join(database, "a")
        claims = ChannelClaims(database, node="a", name="A")
        await claims.take(["one"], now=NOW)
        await RunStore(database).set_drained("A", drained=True, by="me", now=NOW)
        assert await claims.take(["one", "two"], now=NOW) == {"one"}


async def test_what_a_node_reads_after_it_lost_the_channel_is_not_taken(tmp_path: Path) -> None:
    """It would move the place up to which the channel was read back."""
    async with open_database(tmp_path / "sexton.db") as database:
        await join(database, "a", "b")
        a, b = Inbox(database, node="a"), Inbox(database, node="b")
        await ChannelClaims(database, node="a", name="A").take(["chat"], now=NOW)
        await a.take("chat", [message("one")], cursor="1", rules=RULES, now=NOW)
        await RunStore(database).unregister("a", now=NOW)
        await ChannelClaims(database, node="b", name="B").take(["chat"], now=NOW)
        await b.take("chat", [message("two")], cursor="2", rules=RULES, now=NOW)
        with pytest.raises(ChannelDown, match="Another node"):
            await a.take("chat", [message("late")], cursor="1", rules=RULES, now=NOW)
        assert await b.cursor("chat") == "2"
        assert [letter.text for letter in await b.waiting("chat")] == ["one", "two"]


async def test_a_turn_of_a_dead_node_goes_to_the_one_that_keeps_its_channel(tmp_path: Path) -> None:
    async with open_database(tmp_path / "sexton.db") as database:
        await join(database, "a", "b", "c")
        a, b, c = (ConversationStore(database, owner=name) for name in "abc")
        await ChannelClaims(database, node="a", name="A").take(["chat"], now=NOW)
        talk = await a.open("chat:room", way="chat", settings=ChatSettings(), at=NOW)
        turn, _ = await a.add_turn(talk.id, UserMessage("hello"), key="1", at=NOW)
        await RunStore(database).unregister("a", now=NOW)
        assert await b.unfinished_turns() == (), "nobody keeps the channel yet"
        await ChannelClaims(database, node="c", name="C").take(["chat"], now=NOW)
        assert await b.unfinished_turns() == ()
        assert [row.id for row in await c.unfinished_turns()] == [turn.id]


# Channels


@dataclass
class Node:
    name: str
    channel: FakeChannel
    channels: Channels
    deliveries: Deliveries
    journal: Journal
    open: bool = True
    cut_off: bool = False
    gone: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def is_connected(self) -> bool:
        return self.channel.line is not None

    def kinds(self) -> list[str]:
        return [event.kind for event in self.journal.since(0)]

    async def state(self) -> tuple[str, str | None]:
        (status,) = await self.channels.statuses()
        return str(status.state), status.node


@asynccontextmanager
async def nodes(
    database: Database, clock: FakeClock, chats: ScriptedChats, count: int = 2
) -> AsyncIterator[list[Node]]:
    """Nodes `a`, `b`, … that have the same channel in their settings."""
    made = []
    async with anyio.create_task_group() as tasks:
        for name in "abc"[:count]:
            await join(database, name)
            made.append(await _start(tasks, database, clock, chats, name))
            await settle()
        yield made
        tasks.cancel_scope.cancel()


async def _start(
    tasks: anyio.abc.TaskGroup, database: Database, clock: FakeClock, chats: ScriptedChats, name: str
) -> Node:
    journal = Journal.open(clock=clock)
    deliveries = Deliveries(
        Outbox(database, is_shared=True),
        clock=clock,
        journal=journal,
        owner=name,
        may_send=lambda: not node.cut_off,
    )
    channels = Channels(
        Inbox(database, node=name),
        chats,
        deliveries,
        say_as=chats.say_as,
        clock=clock,
        journal=journal,
        claims=ChannelClaims(database, node=name, name=name.upper()),
        is_open=lambda: node.open and not node.cut_off,
    )
    node = Node(name, FakeChannel(), channels, deliveries, journal)
    channels.add(SETUP, node.channel)

    async def run(*, task_status: Any) -> None:
        with node.gone:
            async with anyio.create_task_group() as own:
                await own.start(_deliver, deliveries)
                await own.start(_run, channels)
                task_status.started()

    await tasks.start(run)
    return node


async def _run(channels: Channels, *, task_status: Any) -> None:
    await channels.run(task_status=task_status)


async def _deliver(deliveries: Deliveries, *, task_status: Any) -> None:
    await deliveries.run(task_status=task_status)


async def die(database: Database, node: Node) -> None:
    """As SIGKILL and the settlement by the others."""
    node.gone.cancel()
    await settle()
    await RunStore(database).unregister(node.name, now=NOW)


async def test_one_connects_and_another_goes_on_with_its_message_when_it_died(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats(echo=False)
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, b):
        assert (a.channel.connections, b.channel.connections) == (1, 0)
        assert [await node.state() for node in (a, b)] == [("connected", "A"), ("standby", "A")]
        assert a.channel.line is not None
        await a.channel.line.take([message("hello")], "17")
        await settle()
        assert chats.said == ["hello"]
        await clock.advance(20.0)
        assert b.channel.connections == 0
        await die(database, a)
        await clock.advance(6.0)
        assert b.channel.line is not None
        assert b.channel.line.cursor == "17"
        chats.turns[0].end("you said hello")
        await settle()
        assert (chats.said, b.channel.said, a.channel.said) == (["hello"], ["you said hello"], [])


async def test_a_node_that_takes_no_more_gives_its_channel_back_when_its_connection_has_ended(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats(echo=False)
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, b):
        assert a.channel.line is not None
        await a.channel.line.take([message("hello")], None)
        await settle()
        a.open = False
        await clock.advance(12.0)
        assert (a.is_connected, b.is_connected) == (False, True)
        assert a.kinds()[-1] == "channel.left"
        assert b.kinds()[:2] == ["channel.taken", "channel.connected"]
        chats.turns[0].end("done")  # on a, where it began
        await clock.advance(6.0)
        assert b.channel.said == ["done"], "both know of the turn, and one answer goes out"
        a.open, b.open = True, False
        await clock.advance(12.0)
        assert (a.is_connected, b.is_connected) == (True, False)
        assert await a.state() == ("connected", "A")


async def test_a_node_that_is_cut_off_ends_its_connection_at_once_and_what_it_sends(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats()
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, _):
        hook = FakeTarget(hold=anyio.Event())
        a.deliveries.add_target("hook", hook)
        await a.deliveries.send("hook", "news", key="1")
        await settle()
        assert len(hook.tried) == 1
        a.cut_off = True
        a.channels.cut_off()
        a.deliveries.cut_off()
        await settle()
        assert (a.is_connected, hook.sent) == (False, [])
        await clock.advance(20.0)
        assert (len(hook.tried), hook.sent) == (1, [])
        a.cut_off = False
        hook.hold = None
        await clock.advance(16.0)
        assert [part.text for part in hook.sent] == ["news"]


async def test_what_one_node_tells_of_its_channel_all_show(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats()
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, b):
        described = Gateway(id="a", name="A", process={}, offers={"channels": a.channels.told()})
        await RunStore(database).unregister("a", now=NOW)
        await RunStore(database).register(described, now=NOW)
        (status,) = await b.channels.statuses()
        assert (status.state, status.node, status.account) == ("connected", "A", "sexton@example.org")
        assert b.channels.told() == {}


# Deliveries


async def test_an_answer_goes_out_where_the_channel_is(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats()
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, b):
        await b.deliveries.send("chat:me", "from b", key="1")
        await clock.advance(6.0)
        assert (a.channel.said, b.channel.said) == (["from b"], [])


async def test_what_is_for_a_target_of_another_node_is_left_to_it_until_its_time_is_over(tmp_path: Path) -> None:
    clock, chats = FakeClock(), ScriptedChats()
    async with open_database(tmp_path / "sexton.db") as database, nodes(database, clock, chats) as (a, b):
        queued = await a.deliveries.queue("hook", Message(text="news"), key="1")
        clock.jump(3600.0)
        await clock.advance(16.0)
        assert (await a.deliveries.delivery(queued.id)).attempts == 0
        hook = FakeTarget()
        b.deliveries.add_target("hook", hook)
        await clock.advance(16.0)
        assert hook.texts == ["news"]
        lost = await a.deliveries.queue("nowhere", Message(text="lost"), key="1")
        clock.jump(86_500.0)
        await clock.advance(20.0)
        assert (await a.deliveries.delivery(lost.id)).state == "failed"


async def test_a_delivery_is_one_nodes_for_as_long_as_that_one_is_known_and_then_another_sends_it(
    tmp_path: Path,
) -> None:
    """Whatever the clocks say: another node's may be hours ahead."""
    async with open_database(tmp_path / "sexton.db") as database:
        await join(database, "a", "b")
        outbox, lease = Outbox(database, is_shared=True), timedelta(minutes=4)
        await outbox.add("hook", Message(text="x"), key="1", now=NOW)
        taken = await outbox.claim("hook", owner="a", now=NOW, lease=lease)
        assert taken is not None
        late = NOW + timedelta(hours=9)
        assert await outbox.lanes(owner="b", now=late) == {}
        assert await outbox.claim("hook", owner="b", now=late, lease=lease) is None
        await RunStore(database).unregister("a", now=NOW)
        assert list(await outbox.lanes(owner="b", now=NOW)) == ["hook"]
        assert await outbox.claim("hook", owner="a", now=NOW, lease=lease) is None, "who is not known gets nothing"
        again = await outbox.claim("hook", owner="b", now=NOW, lease=lease)
        assert again is not None
        assert not await outbox.note_part(taken, parts_sent=1, lease_until=late)
        await outbox.put_off(taken, due_at=late, error=str(SendDelayed("late")))
        now = await outbox.delivery(taken.id)
        assert (now.owner, now.due_at, now.attempts) == ("b", NOW, 2)
        assert await outbox.note_part(again, parts_sent=1, lease_until=late)
