"""Discord, by its real client library, against a peer that behaves as its gateway and REST API do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import discord.http
import pytest
import yarl
from discord.gateway import DiscordWebSocket

from chatting import PNG, ScriptedChats
from discord_peer import ADA, BOT, DIRECT, EVE, ROOM, TOKEN, DiscordPeer, discord_peer, flood
from fake_clock import FakeClock
from peers.channel_runs import pass_time, running_channel, show_progress
from sexton.agent import Attachment
from sexton.gateway.channels.discord import DiscordOptions

pytestmark = pytest.mark.anyio
OPTIONS = DiscordOptions(token=TOKEN)
US = f"<@{BOT['id']}>"


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DiscordPeer]:
    async with discord_peer() as peer:
        monkeypatch.setattr(discord.http.Route, "BASE", f"{peer.url}/api")
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(f"{peer.url}/gateway"))
        yield peer


async def test_a_message_is_answered_while_typing_is_shown(tmp_path: Path, peer: DiscordPeer) -> None:
    chats = ScriptedChats(echo=False)
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",), chats=chats) as bench:
        await peer.write("hello")
        await bench.wait(lambda: len(chats.turns) == 1 and peer.typing[:1] == [DIRECT])
        chats.turns[0].end("hi there")
        await bench.wait(lambda: peer.texts == ["hi there"])
        (status,) = await bench.channels.statuses()
        assert status.account is not None
        assert status.account.startswith("sexton")


async def test_a_long_turn_is_shown_in_one_message_that_is_changed_and_goes(tmp_path: Path, peer: DiscordPeer) -> None:
    chats, clock = ScriptedChats(echo=False), FakeClock()
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",), chats=chats, clock=clock) as bench:
        await peer.write("hello")
        peer.loses_answers = 1  # It is sent again, and is still one.
        await show_progress(
            bench,
            clock,
            f"discord:{DIRECT}",
            lambda: any("Working: " in text for text in peer.standing.values()),
            lambda: any("now `notes.search`" in text for text in peer.standing.values()),
        )
        assert len(peer.sent) == 1
        assert peer.sent[0]["flags"] & 1 << 12  # without a sound
        chats.turns[0].end("done")
        await pass_time(bench, clock, lambda: list(peer.standing.values()) == ["done"])


async def test_a_connection_that_broke_is_resumed_and_a_repeat_is_one_turn(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",)) as bench:
        first = await peer.write("hello")
        await bench.wait_sent("you said hello")
        await peer.break_connections()
        await peer.write("in between")
        await bench.wait_sent("you said in between")
        await bench.wait(lambda: peer.identified == 1 and peer.resumed >= 1)
        await peer.tell(first)
        await peer.write("again")
        await bench.wait_sent("you said again")
        assert bench.chats.said == ["hello", "in between", "again"]
        assert not bench.has("channel.down")


async def test_what_was_said_while_no_gateway_ran_is_answered(tmp_path: Path, peer: DiscordPeer) -> None:
    chats = ScriptedChats()
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",), chats=chats) as bench:
        await peer.write("first")
        await peer.write(f"{US} in the room", chat=ROOM)
        await bench.wait_sent("you said in the room")
    await peer.write("second", told=False)
    await peer.write("just talking", chat=ROOM, told=False)
    await peer.write(f"{US} third", chat=ROOM, told=False)
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",), chats=chats) as bench:
        await bench.wait_sent("you said second")
        await bench.wait_sent("you said third")
    assert chats.said == ["first", "in the room", "second", "third"]


async def test_floods_are_waited_out_the_long_ones_by_the_outbox(tmp_path: Path, peer: DiscordPeer) -> None:
    peer.refusals = [flood(0.05)]
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        await bench.deliveries.send(f"discord:{DIRECT}", "one", key="one")
        await bench.wait(lambda: peer.texts == ["one"])
        assert not bench.has("delivery.delayed")
        peer.refusals = [flood(3_600.0)]
        two = await bench.deliveries.send(f"discord:{DIRECT}", "two", key="two")
        await bench.wait(lambda: bench.has("delivery.delayed"))
        assert (await bench.deliveries.delivery(two.id)).error == "Discord wants us to wait."
        (delayed,) = [event for event in bench.journal.since(0) if event.kind == "delivery.delayed"]
        assert delayed.data["retry_in"] == pytest.approx(3_600.0, abs=60)


async def test_a_repeat_with_the_same_key_arrives_once(tmp_path: Path, peer: DiscordPeer) -> None:
    peer.loses_answers = 1
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        await bench.deliveries.send(f"discord:{DIRECT}", "hello", key="1")
        await bench.wait_sent("hello")
        assert bench.has("delivery.delayed")
        assert peer.texts == ["hello"]


async def test_in_a_room_only_what_mentions_us_is_answered_there(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",)) as bench:
        await peer.write(f"{US} let me in", chat=ROOM, sender=EVE)
        await peer.write("just talking", chat=ROOM)
        asked = await peer.write(f"{US} tell <@8> hello", chat=ROOM, mentions=[BOT, EVE])
        await bench.wait(lambda: len(peer.sent) == 1)
        assert bench.chats.said == ["tell @Eve hello"]
        assert peer.sent[0]["channel"] == ROOM
        assert str(peer.sent[0]["message_reference"]["message_id"]) == asked["id"]
        assert peer.sent[0]["allowed_mentions"] == {"parse": []}


async def test_programs_get_no_answer(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        await peer.write("I am a bot", sender={**EVE, "bot": True})
        await peer.write("hello")
        await bench.wait(lambda: peer.texts == ["you said hello"])


async def test_long_answers_are_split_and_longer_ones_are_files_also_for_people(
    tmp_path: Path, peer: DiscordPeer
) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        await bench.deliveries.send(f"discord:{ROOM}", "word " * 1_000, key="words")
        await bench.wait(lambda: len(peer.sent) == 3)
        assert " ".join(peer.texts).split() == ["word"] * 1_000
        await bench.deliveries.send("discord:@7", "word " * 10_000, key="many")
        await bench.wait(lambda: len(peer.sent) == 4)
        assert peer.files == [("message.txt", b"word " * 10_000)]
        assert (peer.sent[-1]["channel"], peer.texts[-1][-24:]) == (DIRECT, "; all of it is attached]")


async def test_pictures_and_files_go_both_ways(tmp_path: Path, peer: DiscordPeer) -> None:
    chats = ScriptedChats(made={"t1": [Attachment("image/png", PNG)]})
    async with running_channel(tmp_path, "discord", OPTIONS, allow=("7",), chats=chats) as bench:
        shared = [peer.share("cat.png", "image/png", PNG), peer.share("list.txt", "text/plain", b"milk")]
        gone = {**peer.share("gone.txt", "text/plain", b""), "url": f"{peer.url}/cdn/nowhere"}
        await peer.write("look", attachments=[*shared, gone])
        await bench.wait(lambda: len(peer.sent) == 3)
        (said,) = chats.given
        assert [one.data for one in said.pictures] == [PNG]
        assert [(one.name, one.text) for one in said.files] == [("list.txt", "milk")]
        assert peer.texts[0].startswith("I cannot read this:\ngone.txt: Discord does not hand it over: 404")
        assert peer.files == [("picture-1.png", PNG)]


async def test_what_discord_refuses_is_told(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        nowhere = await bench.deliveries.send("discord:5", "hello", key="1")
        nobody = await bench.deliveries.send("discord:@5", "hello", key="2")
        await bench.wait(lambda: sum(event.kind == "delivery.failed" for event in bench.journal.since(0)) == 2)
        assert "Unknown Channel" in str((await bench.deliveries.delivery(nowhere.id)).error)
        assert "Unknown User" in str((await bench.deliveries.delivery(nobody.id)).error)


async def test_a_token_that_is_none_is_told(tmp_path: Path, peer: DiscordPeer) -> None:
    wrong = DiscordOptions(token="wrong")
    async with running_channel(tmp_path, "discord", wrong, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert (status.error, status.hint) == ("Discord does not know this token.", "look at token in its settings")
        assert "wrong" not in repr(wrong)


async def test_intents_that_are_not_granted_are_told(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS) as bench:
        await peer.break_connections(4014)
        await bench.wait(lambda: bench.has("channel.down"))
        (down,) = [event for event in bench.journal.since(0) if event.kind == "channel.down"]
        assert down.data["what"] == "Discord does not let this bot have the intents that it asks for."


async def test_a_stranger_is_told_once_and_let_in_by_the_owner(tmp_path: Path, peer: DiscordPeer) -> None:
    async with running_channel(tmp_path, "discord", OPTIONS, allow=()) as bench:
        await peer.write("let me in")
        await peer.write("please")
        await bench.wait(lambda: len(peer.sent) == 1)
        (person,) = await bench.channels.people("discord")
        assert (person.sender, person.author) == (ADA["id"], "Ada")
        await bench.channels.approve("discord", "7", by="owner")
        await peer.write("hello")
        await bench.wait(lambda: peer.texts[1:] == ["you said hello"])
