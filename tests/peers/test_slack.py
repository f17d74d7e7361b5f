"""Slack, by its real Web API client, against a peer that behaves as Slack does in socket mode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatting import PNG, ScriptedChats
from fake_clock import FakeClock
from peers.channel_runs import pass_time, running_channel, show_progress
from sexton.agent import Attachment
from sexton.clock import SystemClock
from sexton.gateway.channels import ShowsProgress, find_kind
from sexton.gateway.channels.bookmarks import MOST, Bookmarks
from sexton.gateway.channels.slack import SlackOptions
from sexton.gateway.channels.slack_text import escaped, plain
from sexton.gateway.deliveries import Part, SendFailed
from slack_peer import ADA, APP_TOKEN, BOT, BOT_TOKEN, DIRECT, ROOM, SlackPeer, slack_peer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def peer() -> AsyncIterator[SlackPeer]:
    async with slack_peer() as peer:
        yield peer


@pytest.fixture
def options(peer: SlackPeer) -> SlackOptions:
    return SlackOptions(bot_token=BOT_TOKEN, app_token=APP_TOKEN, api=f"{peer.url}/api/")


async def test_a_message_is_answered_and_its_envelope_acknowledged(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options, allow=(ADA,)) as bench:
        await peer.write("is 1 &lt; 2 &amp; <https://example.org|here>?")
        await bench.wait(lambda: len(peer.sent) == 1 and not peer.pending)
        assert bench.chats.said == ["is 1 < 2 & here (https://example.org)?"]
        assert peer.texts == ["you said is 1 &lt; 2 &amp; here (https://example.org)?"]
        assert peer.sent[0]["channel"] == DIRECT
        (status,) = await bench.channels.statuses()
        assert status.account == "@sexton in Ours"


async def test_a_long_turn_is_shown_in_its_thread_in_one_message_that_is_changed_and_goes(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    chats, clock = ScriptedChats(echo=False), FakeClock()
    async with running_channel(tmp_path, "slack", options, allow=(ADA,), chats=chats, clock=clock) as bench:
        asked = await peer.write(f"<@{BOT}> hello", chat=ROOM)
        peer.refusals = [(429, "ratelimited", {"Retry-After": "1"})]
        await show_progress(
            bench,
            clock,
            f"slack:{ROOM}/{asked['ts']}",
            lambda: any("Working: " in text for text in peer.standing.values()),
            lambda: any("now `notes.search`" in text for text in peer.standing.values()),
        )
        assert [one["thread_ts"] for one in peer.sent] == [asked["ts"]]
        chats.turns[0].end("done")
        await pass_time(bench, clock, lambda: list(peer.standing.values()) == ["done"])


async def test_a_message_that_may_not_be_deleted_is_changed(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    channel = find_kind("slack").make("slack", options, SystemClock())
    assert isinstance(channel, ShowsProgress)
    shown = await channel.show_progress(Part(key="k", to=DIRECT, text="Working: 20 s"))
    peer.keeps = True
    await channel.end_progress(DIRECT, shown, "Worked for 20 s.")
    assert list(peer.standing.values()) == ["Worked for 20 s."]
    peer.keeps = False
    await channel.end_progress(DIRECT, shown, "again")
    await channel.end_progress(DIRECT, shown, "gone already")
    assert peer.standing == {}
    with pytest.raises(SendFailed, match="message_not_found"):
        await channel.change_progress(DIRECT, shown, "Working: 40 s")


async def test_the_same_message_by_several_envelopes_and_sockets_is_one_turn(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options, allow=(ADA,)) as bench:
        event = await peer.write("hello")
        await peer.tell(event)
        await bench.wait_sent("you said hello")
        await peer.sockets[-1].send_json({"type": "disconnect", "reason": "refresh_requested"})
        await bench.wait(lambda: peer.opened == 2)
        await peer.tell(event)
        await peer.write("again")
        await bench.wait_sent("you said again")
        assert bench.chats.said == ["hello", "again"]
        assert not bench.has("channel.down")


async def test_what_was_said_while_we_were_away_is_answered(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    chats = ScriptedChats()
    async with running_channel(tmp_path, "slack", options, allow=(ADA,), chats=chats) as bench:
        await peer.write("first")
        await bench.wait_sent("you said first")
    await peer.write("second")  # It waits for an acknowledgement.
    peer.loses = True
    await peer.write("third")
    peer.loses = False
    async with running_channel(tmp_path, "slack", options, allow=(ADA,), chats=chats) as bench:
        await bench.wait_sent("you said third")
        await bench.wait(lambda: not peer.pending)
    assert chats.said == ["first", "second", "third"]


async def test_a_flood_is_waited_out_and_order_is_kept(tmp_path: Path, peer: SlackPeer, options: SlackOptions) -> None:
    peer.refusals = [(429, "ratelimited", {"Retry-After": "1"})]
    async with running_channel(tmp_path, "slack", options) as bench:
        for text in ("one", "two"):
            await bench.deliveries.send(f"slack:{DIRECT}", text, key=text)
        await bench.wait(lambda: peer.texts == ["one", "two"])
        (delayed,) = [event for event in bench.journal.since(0) if event.kind == "delivery.delayed"]
        assert delayed.data["what"] == "Slack wants us to wait."


async def test_in_a_channel_what_mentions_us_is_answered_in_its_thread(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options, allow=(ADA,)) as bench:
        await peer.write("just talking", chat=ROOM)
        await peer.write(f"<@{BOT}> let me in", chat=ROOM, sender="U0EVE")
        asked = await peer.write(f"<@{BOT}> hello", chat=ROOM)
        await peer.tell({**asked, "type": "app_mention"})  # Slack tells of it twice.
        await bench.wait(lambda: len(peer.sent) == 1 and not peer.pending)
        await peer.write(f"and <@{BOT}|sexton>?", chat=ROOM, thread_ts=asked["ts"])
        await bench.wait(lambda: len(peer.sent) == 2)
        assert bench.chats.said == ["hello", "and ?"]
        assert [one["thread_ts"] for one in peer.sent] == [asked["ts"]] * 2
        assert len(set(bench.chats.places.values())) == 1


async def test_programs_changes_and_ourselves_get_no_answer(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options) as bench:
        await peer.write("I am a bot", bot_id="B1")
        await peer.write("changed", subtype="message_changed")
        await peer.write("mine", sender=BOT)
        await peer.write("hello")
        await bench.wait(lambda: peer.texts == ["you said hello"])


async def test_long_answers_are_split_and_longer_ones_are_files_also_for_people(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options) as bench:
        await bench.deliveries.send(f"slack:{ROOM}", "&" * 3_000, key="ampersands")  # Each is written as five.
        await bench.wait(lambda: "".join(peer.texts) == "&amp;" * 3_000)
        assert len(peer.sent) == 4
        await bench.deliveries.send(f"slack:{ADA}", "word " * 10_000, key="words")
        await bench.wait(lambda: len(peer.sent) == 5)
        (file,) = peer.files
        assert (file["name"], file["content"], file["channel_id"]) == ("message.txt", b"word " * 10_000, DIRECT)
        assert peer.texts[-1].endswith("all of it is attached]")


async def test_pictures_and_files_go_both_ways(tmp_path: Path, peer: SlackPeer, options: SlackOptions) -> None:
    chats = ScriptedChats(made={"t1": [Attachment("image/png", PNG)]})
    async with running_channel(tmp_path, "slack", options, allow=(ADA,), chats=chats) as bench:
        files = [peer.share("cat.png", "image/png", PNG), peer.share("list.txt", "text/plain", b"milk")]
        huge = {"name": "film.mp4", "mimetype": "video/mp4", "size": 1 << 30}
        await peer.write("look", subtype="file_share", files=[*files, huge])
        await bench.wait(lambda: len(peer.files) == 1 and len(peer.sent) == 2)
        (said,) = chats.given
        assert [one.data for one in said.pictures] == [PNG]
        assert [(one.name, one.text) for one in said.files] == [("list.txt", "milk")]
        assert peer.texts[0] == "I cannot read this:\nfilm.mp4: it has 1024 MiB, and 20 MiB is the most"
        assert [(one["name"], one["content"]) for one in peer.files] == [("picture-1.png", PNG)]


async def test_what_slack_refuses_is_told(tmp_path: Path, peer: SlackPeer, options: SlackOptions) -> None:
    async with running_channel(tmp_path, "slack", options) as bench:
        nowhere = await bench.deliveries.send("slack:C0NOWHERE", "hello", key="1")
        await bench.wait(lambda: bench.has("delivery.failed"))
        assert "channel_not_found" in str((await bench.deliveries.delivery(nowhere.id)).error)
    wrong = options.model_copy(update={"app_token": "xapp-wrong"})
    async with running_channel(tmp_path, "slack", wrong, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert (status.error, status.hint) == (
            "Slack answered invalid_auth.",
            "look at bot_token and app_token in its settings",
        )
        assert "xapp-wrong" not in repr(wrong)


async def test_a_stranger_is_told_once_and_let_in_by_the_owner(
    tmp_path: Path, peer: SlackPeer, options: SlackOptions
) -> None:
    async with running_channel(tmp_path, "slack", options, allow=()) as bench:
        await peer.write("let me in")
        await peer.write("please")
        await bench.wait(lambda: len(peer.sent) == 1 and not peer.pending)
        (person,) = await bench.channels.people("slack")
        assert (person.sender, person.author) == (ADA, "Ada")
        await bench.channels.approve("slack", ADA, by="owner")
        await peer.write("hello")
        await bench.wait(lambda: peer.texts[1:] == ["you said hello"])


def test_texts_are_read_as_people_read_them() -> None:
    said = "<@U1|sexton>, tell <@U2|bob> in <#C1|all>: <mailto:a@b.c|a@b.c> <!here> &lt;b&gt;"
    assert plain(said, own="U1") == "tell @bob in #all: a@b.c (a@b.c) @here <b>"
    assert plain(escaped("a < b & c > d"), own="U1") == "a < b & c > d"


def test_bookmarks_are_kept_for_the_chats_that_were_heard_last() -> None:
    marks = Bookmarks.read(None)
    for number in range(MOST + 1):
        marks = marks.moved(f"c{number}", "1")
    marks = marks.moved("c5", "2")
    assert Bookmarks.read(marks.written()) == marks
    assert len(marks.places) == MOST
    assert ("c0" in marks.places, list(marks.places.items())[-1]) == (False, ("c5", "2"))
    assert Bookmarks.read("17") == Bookmarks.read("no JSON") == Bookmarks()
