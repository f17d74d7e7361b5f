"""Telegram, by its real client library against a peer that behaves as the Bot API does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatting import PNG, ScriptedChats
from fake_clock import FakeClock
from peers.channel_runs import pass_time, running_channel, show_progress
from sexton.agent import Attachment
from sexton.clock import SystemClock
from sexton.gateway.channels import ShowsProgress, find_kind
from sexton.gateway.channels.telegram import TelegramOptions
from sexton.gateway.deliveries import Part, SendFailed
from telegram_peer import TOKEN, Refused, TelegramPeer, telegram_peer

pytestmark = pytest.mark.anyio


@pytest.fixture
def peer() -> Iterator[TelegramPeer]:
    with telegram_peer() as peer:
        yield peer


@pytest.fixture
def options(peer: TelegramPeer) -> TelegramOptions:
    return TelegramOptions(token=TOKEN, api=peer.url)


async def test_a_message_is_answered_while_typing_is_shown(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    chats = ScriptedChats(echo=False)
    async with running_channel(tmp_path, "telegram", options, allow=("7",), chats=chats) as bench:
        peer.write("hello")
        await bench.wait(lambda: len(chats.turns) == 1 and len(peer.actions) > 0)
        assert peer.actions[0]["action"] == "typing"
        chats.turns[0].end("hi there")
        await bench.wait(lambda: peer.texts == ["hi there"])
        (status,) = await bench.channels.statuses()
        assert status.account == "@sexton_bot"


async def test_a_long_turn_is_shown_in_one_message_that_is_changed_and_goes(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    chats, clock = ScriptedChats(echo=False), FakeClock()
    async with running_channel(tmp_path, "telegram", options, allow=("7",), chats=chats, clock=clock) as bench:
        peer.write("hello")
        await show_progress(
            bench,
            clock,
            "telegram:7",
            lambda: any("Working: " in text for text in peer.standing.values()),
            lambda: any("now `notes.search`" in text for text in peer.standing.values()),
        )
        assert len(peer.sent) == 1
        assert peer.sent[0]["disable_notification"] == "true"
        peer.refusals = [Refused(429, "Too Many Requests: retry after 1", retry_after=1)]
        chats.turns[0].end("done")
        await pass_time(bench, clock, lambda: list(peer.standing.values()) == ["done"])
        assert "s3cret" not in str(peer.sent)


async def test_a_message_that_telegram_does_not_delete_any_more_is_changed(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    channel = find_kind("telegram").make("telegram", options, SystemClock())
    assert isinstance(channel, ShowsProgress)
    async with running_channel(tmp_path, "telegram", options, channel=channel):
        shown = await channel.show_progress(Part(key="k", to="7", text="Working: 20 s"))
        await channel.change_progress("7", shown, "Working: 20 s")  # It is told that nothing changed.
        peer.keeps = True
        await channel.end_progress("7", shown, "Worked for 20 s.")
        assert list(peer.standing.values()) == ["Worked for 20 s."]
        peer.keeps = False
        await channel.end_progress("7", shown, "again")
        await channel.end_progress("7", shown, "gone already")
        assert peer.standing == {}
        with pytest.raises(SendFailed, match="not found"):
            await channel.change_progress("7", shown, "Working: 40 s")


async def test_an_update_is_confirmed_only_when_it_is_in_the_inbox_and_a_repeat_is_one_turn(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    chats = ScriptedChats()
    async with running_channel(tmp_path, "telegram", options, allow=("7",), chats=chats) as bench:
        update = peer.write("hello")
        await bench.wait(lambda: update + 1 in peer.offsets)
        assert peer.updates == []
        await bench.wait_sent("you said hello")
    second = peer.write("while you were away")
    async with running_channel(tmp_path, "telegram", options, allow=("7",), chats=chats) as bench:
        await bench.wait(lambda: second + 1 in peer.offsets)
        await bench.wait_sent("you said while you were away")
    assert chats.said == ["hello", "while you were away"]
    peer.offsets.clear()
    async with running_channel(tmp_path, "telegram", options, allow=("7",), chats=chats) as bench:
        await bench.wait(lambda: second + 1 in peer.offsets)  # It goes on from its own place.


async def test_a_flood_is_waited_out_and_order_is_kept(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    peer.refusals = [Refused(429, "Too Many Requests: retry after 1", retry_after=1)]
    async with running_channel(tmp_path, "telegram", options) as bench:
        for text in ("one", "two"):
            await bench.deliveries.send("telegram:7", text, key=text)
        await bench.wait(lambda: peer.texts == ["one", "two"])
        (delayed,) = [event for event in bench.journal.since(0) if event.kind == "delivery.delayed"]
        assert delayed.data["what"] == "Telegram wants us to wait."


async def test_long_answers_are_split_as_telegram_counts_and_longer_ones_are_files(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    async with running_channel(tmp_path, "telegram", options) as bench:
        smileys = "\N{GRINNING FACE}" * 5_000  # Each counts twice.
        await bench.deliveries.send("telegram:7", smileys, key="smileys")
        await bench.wait(lambda: "".join(peer.texts) == smileys)
        assert len(peer.sent) == 3
        await bench.deliveries.send("telegram:7", "word " * 10_000, key="words")
        await bench.wait(lambda: len(peer.files) == 1 and len(peer.sent) == 4)
        assert peer.files == [("message.txt", b"word " * 10_000)]
        assert peer.texts[-1].endswith("all of it is attached]")


async def test_pictures_and_files_go_to_the_agent_and_the_person_is_told_of_the_others(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    peer.stored = {"small": PNG, "large": PNG, "notes": b"milk\neggs"}
    async with running_channel(tmp_path, "telegram", options, allow=("7",)) as bench:
        sizes = [{"file_id": one, "file_unique_id": one, "width": 1, "height": 1} for one in ("small", "large")]
        peer.write("", caption="what is this?", photo=sizes)
        await bench.wait(lambda: peer.texts == ["you said what is this?"])
        notes = {"file_id": "notes", "file_unique_id": "n", "file_name": "list.txt", "mime_type": "text/plain"}
        peer.write("", document=notes)
        await bench.wait(lambda: len(peer.texts) == 2)
        big = {"file_id": "big", "file_unique_id": "b", "file_name": "film.mp4", "file_size": 1 << 30}
        peer.write("", document=big)
        await bench.wait(lambda: len(peer.texts) == 3)
        peer.write("", document=notes | {"file_id": "gone"})
        await bench.wait(lambda: len(peer.texts) == 4)
        seen, read = bench.chats.given
        assert [(one.media_type, one.data) for one in seen.pictures] == [("image/png", PNG)]
        assert [(one.name, one.text) for one in read.files] == [("list.txt", "milk\neggs")]
        assert peer.texts[2] == "I cannot read this:\nfilm.mp4: it has 1024 MiB, and 20 MiB is the most"
        assert "wrong file_id" in peer.texts[3].lower()


async def test_pictures_that_came_up_go_with_the_answer(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    chats = ScriptedChats(made={"t1": [Attachment("image/png", PNG), Attachment("image/png", PNG[:9], "tiny.png")]})
    async with running_channel(tmp_path, "telegram", options, chats=chats) as bench:
        peer.write("draw")
        await bench.wait(lambda: len(peer.files) == 1)
        assert peer.texts == ["you said draw"]
        assert peer.pictures == [("picture-1.png", PNG)]
        assert peer.files == [("tiny.png", PNG[:9])]  # Telegram takes it for no picture.


async def test_what_telegram_refuses_is_told(tmp_path: Path, peer: TelegramPeer, options: TelegramOptions) -> None:
    peer.refusals = [Refused(403, "Forbidden: bot was blocked by the user")]
    async with running_channel(tmp_path, "telegram", options) as bench:
        blocked = await bench.deliveries.send("telegram:7", "hello", key="1")
        nowhere = await bench.deliveries.send("telegram:8", "hello", key="2")
        await bench.wait(lambda: sum(event.kind == "delivery.failed" for event in bench.journal.since(0)) == 2)
        assert "blocked by the user" in str((await bench.deliveries.delivery(blocked.id)).error)
        assert "Chat not found" in str((await bench.deliveries.delivery(nowhere.id)).error)


async def test_in_a_group_only_what_is_said_to_the_bot_is_answered_there(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    async with running_channel(tmp_path, "telegram", options, allow=("7",)) as bench:
        mention: dict[str, Any] = {"entities": [{"type": "mention", "offset": 0, "length": 11}]}
        peer.write("@sexton_bot do it", sender=8, chat=-100, **mention)
        peer.write("just talking", chat=-100)
        asked = peer.write("@sexton_bot hello", chat=-100, **mention)
        await bench.wait(lambda: len(peer.sent) == 1)
        assert bench.chats.said == ["@sexton_bot hello"]
        assert str(asked) in str(peer.sent[0]["reply_parameters"])
        assert peer.sent[0]["chat_id"] == "-100"


async def test_a_stranger_is_told_once_and_let_in_by_the_owner(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    async with running_channel(tmp_path, "telegram", options, allow=()) as bench:
        peer.write("/start")
        peer.write("anybody?")
        await bench.wait(lambda: len(peer.sent) == 1)
        (person,) = await bench.channels.people("telegram")
        assert person.code is not None
        await bench.channels.approve("telegram", person.code, by="owner")
        peer.write("hello")
        await bench.wait(lambda: peer.texts[1:] == ["you said hello"])
        assert bench.chats.said == ["hello"]


async def test_a_token_that_is_none_and_a_second_reader_are_told(
    tmp_path: Path, peer: TelegramPeer, options: TelegramOptions
) -> None:
    wrong = options.model_copy(update={"token": "7:AAwrong"})
    async with running_channel(tmp_path, "telegram", wrong, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert status.error == "Telegram does not know this token."
        assert "AAwrong" not in repr(wrong)
    peer.has_rival = True
    async with running_channel(tmp_path, "telegram", options, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert status.error == "Somebody else reads the messages of this bot."
