"""How far a long turn is, shown on a chat platform: one message, changed in place, and never left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from chatting import ChatBench, FakeChannel, ProgressChannel, ScriptedChats, chatting, message
from fake_clock import FakeClock, settle
from sexton.gateway.channels.work import Work, spoken
from sexton.gateway.deliveries import SendDelayed, SendFailed

pytestmark = pytest.mark.anyio


def tell(chats: ScriptedChats, kind: str, /, *, turn: str = "t1", place: str = "chat:room", **facts: Any) -> None:
    chats.streams[place].put({"type": kind, "turn": turn, **facts})


def start(chats: ScriptedChats, **where: Any) -> None:
    tell(chats, "turn_started", **where)


def call(chats: ScriptedChats, name: str, **where: Any) -> None:
    facts: Any = {"call": name, "server": "notes", "tool": name, "arguments": {"password": "s3cret"}}
    tell(chats, "tool_call_started", **facts, **where)


async def ask(bench: ChatBench, text: str = "hello", chat: str = "room") -> None:
    """A message whose turn is at work."""
    await bench.hear(message(text, chat=chat))
    start(bench.chats, turn=bench.chats.by_key[f"chat:{text}"].id, place=f"chat:{chat}")
    await settle()


# What is decided


def work(*events: dict[str, Any], at: float = 0.0) -> Work:
    made = Work(turn="t").heard({"turn": "t", "type": "turn_started"}, at=at)
    for event in events:
        made = made.heard({"turn": "t", **event}, at=at)
    return made


def test_lines() -> None:
    search = {"type": "tool_call_started", "call": "1", "server": "notes", "tool": "search", "arguments": {"a": "b"}}
    odd = {**search, "call": "2", "tool": "@every`one <!here>"}
    ended = {"type": "tool_call_ended", "call": "1"}
    asked = {"type": "approval_asked", "approval": "a", "kind": "call"}
    told = {"type": "approval_answered", "approval": "a"}
    lines = [
        work().line(20.0),
        work(search).line(40.0),
        work(search, odd).line(80.0),
        work(search, ended).line(3_900.0),
        work(search, ended, asked).line(50.0),
        work({**asked, "kind": "elicitation"}).line(50.0),
        work(asked, told).line(50.0),
        work(search).last_line(61.0),
        work().last_line(60.0, interrupted=True),
    ]
    assert lines == [
        "Working: 20 s",
        "Working: 1 tool call so far, now `notes.search`, 40 s",
        "Working: 2 tool calls so far, now `notes.?every?one???here?` and 1 more, 1 min 20 s",
        "Working: 1 tool call so far, 1 h 5 min",
        "Working: 1 tool call so far, waits for your approval",
        "Working: waits for your answer",
        "Working: 50 s",
        "Worked for 1 min 1 s, 1 tool call.",
        "Interrupted after 1 min.",
    ]
    assert work({"type": "tool_call_started", "turn": "another"}) == work()
    assert spoken(-1.0) == "0 s"


def test_when_something_is_shown() -> None:
    asked = {"type": "approval_asked", "approval": "a", "kind": "call"}
    begins = [
        Work(turn="t").is_to_be_shown(99.0, after=20.0),
        work().is_to_be_shown(19.0, after=20.0),
        work().is_to_be_shown(20.0, after=20.0),
        work(asked).is_to_be_shown(99.0, after=20.0),
    ]
    assert begins == [False, False, True, False]
    quiet = [work().is_news(work(), at=at, shown_at=shown_at) for shown_at, at in [(20, 29), (20, 30), (200, 249)]]
    assert quiet == [False, True, False]
    assert work().is_news(work(), at=1_060.0, shown_at=1_000.0)
    assert work(asked).is_news(work(), at=210.0, shown_at=200.0)
    assert not work(asked).is_news(work(asked), at=999.0, shown_at=200.0)


# What is shown


async def test_a_long_turn_is_shown_in_one_message_that_goes_with_the_answer(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(19.0)
        assert channel.told == []
        await bench.clock.advance(3.0)
        call(chats, "search")
        await bench.clock.advance(12.0)
        tell(chats, "tool_call_ended", call="search")
        tell(chats, "approval_asked", approval="a1", kind="call", server="fs", tool="rm", question={})
        await bench.clock.advance(12.0)
        assert channel.notes == {"m1": "Working: 1 tool call so far, waits for your approval"}
        tell(chats, "approval_answered", approval="a1", state="yes", by="ada")
        chats.turns[0].end("done")
        await settle()
        await bench.clock.advance(1.0)
        assert channel.said[-1] == "done"
        assert channel.notes == {}
        first, second, third, last = channel.told
        assert first.startswith("room + Working: 2")
        assert second.startswith("room = Working: 1 tool call so far, now `notes.search`, 3")
        assert third == "room = Working: 1 tool call so far, waits for your approval"
        assert last.startswith("room - Worked for 4")
        assert await bench.inbox.progress.left("chat") == ()
        await bench.clock.advance(600.0)
        assert len(channel.told) == 4


async def test_nothing_is_shown_of_short_turns_of_those_that_wait_of_strangers_or_where_it_is_switched_off(
    tmp_path: Path,
) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await bench.hear(message("stranger", sender="eve", chat="eve"))
        await ask(bench, "short")
        await bench.hear(message("waits", chat="other"))
        await bench.clock.advance(15.0)
        chats.by_key["chat:short"].end("quick")
        await bench.clock.advance(3_600.0)
        assert channel.told == []
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel, progress=None) as bench:
        await ask(bench, "long")
        await bench.clock.advance(3_600.0)
        assert channel.told == []
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats, channel=FakeChannel()) as bench:
        await ask(bench, "on a platform without changes")
        await bench.clock.advance(3_600.0)
        chats.turns[-1].end("done")
        await settle()
        assert bench.channel.said[-1] == "done"


async def test_one_thing_at_a_time_is_done_on_a_channel_and_not_often(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        for number in range(5):
            await ask(bench, f"m{number}", chat=f"c{number}")
        for _ in range(10):
            await bench.clock.advance(12.0)
        assert len(channel.notes) == 5
        assert channel.most == 1
        assert len(channel.told) <= 120 // 6


async def test_a_turn_that_ended_while_others_were_shown_is_not_shown(tmp_path: Path) -> None:
    """The second waits for its place on the channel when it ends: what it would have said is never sent."""
    chats, channel = ScriptedChats(echo=False), ProgressChannel(gate=anyio.Event())
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench, "one", chat="c1")
        await ask(bench, "two", chat="c2")
        await bench.clock.advance(25.0)
        assert channel.held == 1
        chats.by_key["chat:two"].end("two is done")
        await settle()
        assert channel.said == ["two is done"]
        assert channel.gate is not None
        channel.gate.set()
        await bench.clock.advance(60.0)
        assert {line.split()[0] for line in channel.told} == {"c1"}
        assert len(await bench.inbox.progress.left("chat")) == 1


async def test_a_turn_that_ends_while_its_row_is_written_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        add, asked, go_on = bench.inbox.progress.add, anyio.Event(), anyio.Event()

        async def held(note: Any) -> None:
            await add(note)
            asked.set()
            await go_on.wait()

        monkeypatch.setattr(bench.inbox.progress, "add", held)
        await ask(bench)
        await bench.clock.advance(25.0)
        assert asked.is_set()
        chats.turns[0].end("done")
        await settle()
        assert channel.said == ["done"]
        go_on.set()
        await bench.clock.advance(60.0)
        assert channel.told == []
        assert await bench.inbox.progress.left("chat") == ()


async def test_a_message_that_is_being_sent_when_the_turn_ends_delays_nothing_and_is_taken_away(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel(gate=anyio.Event())
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(25.0)
        chats.turns[0].end("done")
        await settle()
        assert channel.said == ["done"]
        assert channel.gate is not None
        channel.gate.set()
        await bench.clock.advance(10.0)
        assert (len(channel.told), channel.notes) == (2, {})


# What fails


async def test_a_flood_is_waited_out_and_what_is_refused_is_left(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    channel = ProgressChannel(failing=[SendDelayed("Too many.", after=100.0)])
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(110.0)
        assert channel.told == []
        await bench.clock.advance(20.0)
        assert len(channel.told) == 1
        channel.failing = [SendFailed("It is gone.")]
        await bench.clock.advance(600.0)
        assert len(channel.told) == 1
        chats.turns[0].end("done")
        await bench.clock.advance(5.0)
        assert channel.said == ["done"]


async def test_what_cannot_be_taken_away_now_is_later(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(25.0)
        channel.failing = [SendDelayed("Not now."), SendDelayed("Nor now.", after=50.0)]
        chats.turns[0].end("done")
        await bench.clock.advance(40.0)
        assert (channel.said, len(channel.notes)) == (["done"], 1)
        await bench.clock.advance(60.0)
        assert channel.notes == {}
        assert await bench.inbox.progress.left("chat") == ()


@pytest.mark.parametrize("knows_repeats_for", [0.0, 3_600.0])
async def test_a_message_of_which_nobody_knows_whether_it_was_sent_is_never_two(
    tmp_path: Path, knows_repeats_for: float
) -> None:
    chats = ScriptedChats(echo=False)
    channel = ProgressChannel(knows_repeats_for=knows_repeats_for, after_it=[SendDelayed("The connection broke.")])
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(60.0)
        assert len(channel.notes) == 1
        chats.turns[0].end("done")
        await bench.clock.advance(5.0)
        assert len(channel.notes) == (0 if knows_repeats_for else 1)
        assert await bench.inbox.progress.left("chat") == ()


# Crashes and stops


@pytest.mark.usefixtures("each_database")
async def test_what_a_crash_left_standing_is_taken_away_by_the_next_start(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(25.0)
        assert len(channel.notes) == 1
    channel.failing = [SendDelayed("Not yet.")]
    async with chatting(tmp_path, chats=chats, channel=channel) as again:
        assert len(channel.notes) == 1
        await again.clock.advance(6.0)
        assert channel.notes == {}
        assert channel.told[-1] == "room - Interrupted by a restart."
        assert await again.inbox.progress.left("chat") == ()
        start(chats)
        await settle()
        await again.clock.advance(25.0)
        channel.down.set()  # What is shown now is not what a crash left.
        await again.clock.advance(10.0)
        assert len(channel.notes) == 1


@pytest.mark.parametrize("knows_repeats_for", [0.0, 3_600.0])
async def test_a_crash_while_it_is_sent_is_settled_where_the_platform_knows_repeats(
    tmp_path: Path, knows_repeats_for: float
) -> None:
    chats, clock = ScriptedChats(echo=False), FakeClock()
    channel = ProgressChannel(knows_repeats_for=knows_repeats_for)
    async with chatting(tmp_path, chats=chats, channel=channel, clock=clock) as bench:

        async def never(key: str, message: str) -> None:
            await anyio.sleep_forever()

        bench.inbox.progress.sent = never  # type: ignore[method-assign]
        await ask(bench)
        await bench.clock.advance(25.0)
        assert len(channel.notes) == 1
    async with chatting(tmp_path, chats=chats, channel=channel, clock=clock) as again:
        assert len(channel.notes) == (0 if knows_repeats_for else 1)
        assert await again.inbox.progress.left("chat") == ()


async def test_a_stop_takes_away_what_is_shown(tmp_path: Path) -> None:
    chats, channel = ScriptedChats(echo=False), ProgressChannel()
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await ask(bench)
        await bench.clock.advance(25.0)
        await bench.channels.take_down()
        assert channel.notes == {}
        assert channel.told[-1].startswith("room - Interrupted after 2")
        assert channel.said == []
