"""What comes in is answered once; strangers get nowhere; a platform that is down stops nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from chatting import PNG, FakeChannel, FakeConversation, ScriptedChats, chatting, message
from databases import everything_at
from fake_clock import FakeClock, settle
from scheduling import open_database
from sexton.agent import Attachment, ChatSettings
from sexton.database import inbox_file
from sexton.errors import SextonError, UsageError
from sexton.gateway.channels import AccessRules, Inbox, IncomingFile, Standing
from sexton.gateway.channels.access import Facts, Verdict, code_in, judge, new_code
from sexton.gateway.channels.commands import command_in
from sexton.gateway.channels.files import sort_files
from sexton.gateway.deliveries import TextLimits

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]


# Messages


async def test_a_message_is_answered_where_it_was_said(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(message("hello", context={"subject": "x"}))
        (part,) = bench.channel.sent
        assert (part.text, part.to) == ("you said hello", "room")
        assert part.facts == {"subject": "x", "reply": True}
        assert bench.chats.places == {"t1": "chat:room"}
        assert bench.channel.working[0] == ("room", True)
        assert bench.channel.working[-1] == ("room", False)


async def test_a_chat_may_do_what_the_settings_of_its_channel_say(tmp_path: Path) -> None:
    async with chatting(tmp_path, settings=ChatSettings(servers=("files",))) as bench:
        await bench.hear(message("hello"))
        assert bench.chats.settings == [ChatSettings(servers=("files",))]


async def test_the_same_update_twice_is_one_turn(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(message("hello", key="1"))
        await bench.hear(message("hello", key="1"), message("again", key="2"))
        assert bench.chats.said == ["hello", "again"]
        assert bench.channel.said == ["you said hello", "you said again"]


async def test_the_place_of_a_channel_is_kept_with_what_it_read(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        assert bench.channel.line is not None
        assert bench.channel.line.cursor is None
        await bench.hear(message("hello"), cursor="17")
    async with chatting(tmp_path) as again:
        assert again.channel.line is not None
        assert again.channel.line.cursor == "17"


async def test_messages_of_one_chat_reach_the_agent_in_order_and_as_the_chat_wants(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats, when_busy="interrupt") as bench:
        await bench.hear(message("one"), message("two"), message("elsewhere", chat="other"))
        assert [said for said in chats.said if said != "elsewhere"] == ["one", "two"]
        assert chats.asked_how == ["interrupt"] * 3
        chats.by_key["chat:one"].end(state="stopped")
        chats.by_key["chat:two"].end("done with two")
        await settle()
        assert bench.channel.said == ["done with two"]


async def test_messages_that_became_one_turn_get_one_answer(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats, when_busy="steer") as bench:
        await bench.hear(message("one"), message("and also two"))
        first, second = chats.turns
        second.id = first.id  # As the real one ends a message that was taken in by another turn.
        first.end("both")
        second.end("both")
        await settle()
        assert bench.channel.said == ["both"]
        assert await bench.inbox.waiting() == ()


async def test_a_turn_that_failed_says_why_and_what_to_do(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"))
        chats.turns[0].end(state="failed", error="No model is configured.", hint="add [models.main]")
        await settle()
        assert bench.channel.said == ["That did not work: No model is configured.\nNext: add [models.main]"]


async def test_an_agent_that_cannot_take_it_now_is_asked_again(tmp_path: Path) -> None:
    chats = ScriptedChats(failing=[SextonError("not now"), SextonError("not now")])
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"))
        assert bench.channel.said == []
        await bench.clock.advance(11.0)
        assert bench.channel.said == ["you said hello"]


async def test_one_that_never_will_is_told(tmp_path: Path) -> None:
    chats = ScriptedChats(failing=[UsageError("The message is too long.")])
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"))
        assert bench.channel.said == ["The message is too long."]


# Crashes


async def test_what_a_crash_left_without_an_answer_is_answered_once_by_the_next_start(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"))
        assert len(chats.turns) == 1
    chats.turns[0].end("at last")  # The real one goes on with it after the restart.
    async with chatting(tmp_path, chats=chats) as again:
        assert again.channel.said == ["at last"]
        assert chats.said == ["hello"]
        await again.hear(message("hello"))
    async with chatting(tmp_path, chats=chats) as third:
        assert third.channel.said == []
        assert len(await third.all_deliveries()) == 1


async def test_an_answer_that_was_written_and_not_sent_is_sent_by_the_next_start(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"))
        bench.channel.down.set()
        await settle()
        chats.turns[0].end("done")
        await settle()
        assert bench.channel.said == []
        assert await bench.inbox.waiting() == ()
    async with chatting(tmp_path, chats=chats) as again:
        assert again.channel.said == ["done"]


async def test_a_message_that_was_handed_over_stays_in_its_conversation(tmp_path: Path) -> None:
    """`/new` came after it; the next start must not make it a second turn in the new conversation."""
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("old"), message("/new"), message("fresh"))
        assert chats.places == {"t1": "chat:room", "t2": "chat:room#1"}
    places: list[str] = []

    class Watching(ScriptedChats):
        async def conversation(self, key: str, *, way: str, settings: Any = None) -> FakeConversation:
            places.append(key)
            return await super().conversation(key, way=way)

    async with chatting(tmp_path, chats=Watching(by_key=chats.by_key)):
        assert places == ["chat:room", "chat:room#1"]


# Files


async def test_a_file_survives_a_crash_before_its_turn_and_is_gone_after_the_answer(tmp_path: Path) -> None:
    chats = ScriptedChats(failing=[SextonError("not now")])
    files = (
        IncomingFile(name="cat", content=PNG),
        IncomingFile(name="list", content="milk \N{GRINNING FACE}".encode()),
        IncomingFile(name="late.txt", why="it was lost"),
    )
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("look", files=files))
        assert chats.said == []
        assert bench.channel.said == ["I cannot read this:\nlate.txt: it was lost"]
    async with chatting(tmp_path, chats=chats) as again:
        (answer,) = again.channel.sent
        assert answer.text.startswith("you said look")
        said = chats.given[-1]
        assert [(one.media_type, one.data) for one in said.pictures] == [("image/png", PNG)]
        assert [one.text for one in said.files] == ["milk \N{GRINNING FACE}"]
        async with open_database(tmp_path / "sexton.db") as database:
            rows = await database.read(lambda connection: connection.execute(select(inbox_file)).all())
        assert rows == []


async def test_what_is_only_of_no_use_makes_no_turn(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(message("", key="1", files=(IncomingFile(name="a.zip", content=b"PK\0\0"),)))
        assert bench.chats.turns == []
        assert bench.channel.said == [
            "I cannot read this:\na.zip: it is neither a picture nor text (application/octet-stream)"
        ]
        assert await bench.inbox.waiting() == ()


async def test_pictures_of_a_turn_survive_a_crash_before_they_are_sent(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False, made={"t1": [Attachment("image/png", PNG)]})
    channel = FakeChannel(limits=TextLimits(attaches=True))
    async with chatting(tmp_path, chats=chats, channel=channel) as bench:
        await bench.hear(message("draw"))
        bench.channel.down.set()
        await settle()
        chats.turns[0].end("")
        await settle()
        assert bench.channel.sent == []
    channel = FakeChannel(limits=TextLimits(attaches=True))
    async with chatting(tmp_path, chats=chats, channel=channel) as again:
        (part,) = again.channel.sent
        assert part.text == ""
        assert [(one.name, one.content) for one in part.attachments] == [("picture-1.png", PNG)]
        (delivery,) = await again.all_deliveries()
        assert await again.deliveries._outbox.files(delivery.id) == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_of_some_kind(content: bytes) -> None:
    found = sort_files([IncomingFile(name="x", content=content)])
    assert len(found.pictures) + len(found.texts) + len(found.refused) == 1


def test_files_are_known_by_what_they_hold() -> None:
    files = [
        IncomingFile(name="a", content=b"\xff\xd8\xff\xe0"),
        IncomingFile(name="b", content=b"RIFF\0\0\0\0WEBPVP8 "),
        IncomingFile(name="c", content="\ufeffhi".encode("utf-16")),
        IncomingFile(name="d", content=PNG + bytes(10 << 20)),
        IncomingFile(name="e", content=bytes((20 << 20) + 1)),
        *(IncomingFile(name="f", content=b"x") for _ in range(6)),
    ]
    found = sort_files(files)
    assert [one.media_type for one in found.pictures] == ["image/jpeg", "image/webp"]
    assert [one.name for one in found.texts] == ["c", *"fffff"]
    assert list(found.refused) == [
        "d: it has 10 MiB, and 10 MiB is the most for a picture",
        "e: it has 20 MiB, and 20 MiB is the most",
        "f: it is one of more than 10 files",
    ]


# What a person can type


def test_commands() -> None:
    found = [
        command_in(text) for text in ("/stop", " !YES 0199 ", "/new@my_bot", "/stop it now please", "stop", "/call")
    ]
    assert [(one.word, one.rest) if one else None for one in found] == [
        ("stop", ""),
        ("yes", "0199"),
        ("new", ""),
        None,
        None,
        None,
    ]


async def test_stop_reaches_a_turn_that_is_under_way(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats) as bench:
        await bench.hear(message("hello"), message("/stop"))
        assert chats.stopped == ["chat:room"]
        assert bench.channel.said == ["Stopped."]
        chats.turns[0].end(state="stopped")
        await settle()
        assert bench.channel.said == ["Stopped."]


async def test_what_the_turn_asks_is_asked_here_and_answered_only_from_here(tmp_path: Path) -> None:
    chats = ScriptedChats(echo=False)
    async with chatting(tmp_path, chats=chats, rules=AccessRules(allow=frozenset("*"))) as bench:
        await bench.hear(message("remove it"))
        asked = {"type": "approval_asked", "approval": "abcdef0123", "server": "fs", "tool": "rm", "question": {"a": 1}}
        chats.streams["chat:room"].put(asked)
        await settle()
        assert bench.channel.said == ['May I call fs.rm?\n{"a": 1}\n\nAnswer /yes abcdef01 or /no abcdef01']
        await bench.hear(message("/yes abcdef01", chat="other", sender="eve"))
        assert chats.approved == []
        await bench.hear(message("/yes"))
        assert chats.approved == [("abcdef0123", True, "chat:ada")]
        await bench.hear(message("/yes", key="again"))
        assert len(chats.approved) == 1


# Strangers


async def test_a_stranger_is_told_once_and_nothing_of_what_they_said_is_kept(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        for text in ("let me in", "please", "or else"):
            await bench.hear(message(text, sender="eve", chat="eve"))
        assert bench.chats.said == []
        (said,) = bench.channel.said
        assert said.startswith("I talk only to people whom my owner has let in.")
        (person,) = await bench.channels.people("chat")
        assert (person.sender, person.standing) == ("eve", Standing.WAITING)
        assert person.code is not None
        assert f"sexton channels approve chat {person.code}" in said
        assert [event.data["sender"] for event in bench.events("stranger")] == ["eve"]
    assert b"or else" not in everything_at(tmp_path / "sexton.db")


async def test_strangers_can_be_left_without_an_answer(tmp_path: Path) -> None:
    async with chatting(tmp_path, rules=AccessRules(tell_strangers=False)) as bench:
        await bench.hear(message("let me in", sender="eve"))
        assert (bench.chats.said, bench.channel.said) == ([], [])


async def test_many_strangers_get_few_answers(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(*(message("hi", key=str(one), sender=f"eve{one}", chat=f"eve{one}") for one in range(30)))
        assert len(bench.channel.said) == 10
        await bench.clock.advance(3_601.0)
        await bench.hear(message("hi", key="later", sender="late", chat="late"))
        assert len(bench.channel.said) == 11


async def test_the_owner_lets_a_stranger_in_by_the_code_they_were_told(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(message("let me in", sender="eve"))
        (person,) = await bench.channels.people("chat")
        assert person.code is not None
        let_in = await bench.channels.approve("chat", person.code.lower(), by="owner")
        assert let_in.sender == "eve"
        await bench.hear(message("hello", sender="eve"))
        assert bench.chats.said == ["hello"]
        await bench.channels.refuse("chat", "eve", by="owner")
        await bench.hear(message("still there?", sender="eve"))
        assert bench.chats.said == ["hello"]
        await bench.channels.forget("chat", "eve")
        assert await bench.channels.people("chat") == ()


async def test_a_code_that_nobody_was_told_or_that_is_over_lets_nobody_in(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        await bench.hear(message("let me in", sender="eve"))
        (person,) = await bench.channels.people("chat")
        assert person.code is not None
        with pytest.raises(UsageError, match="was told the code"):
            await bench.channels.approve("chat", "AAAA-AAAA", by="owner")
        await bench.clock.advance(3_601.0)
        with pytest.raises(UsageError, match="more than an hour ago"):
            await bench.channels.approve("chat", person.code, by="owner")
        with pytest.raises(UsageError, match="no channel 'chta'"):
            await bench.channels.approve("chta", "eve", by="owner")


async def test_the_owners_code_lets_in_the_first_who_sends_it(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        code, _ = await bench.channels.make_code("chat", by="owner")
        await bench.hear(message(code.lower().replace("-", " "), sender="bob", chat="bob"))
        assert bench.channel.said == ["You are let in. What can I do for you?"]
        await bench.hear(message(code, key="second", sender="eve", chat="eve"))
        await bench.hear(message("hello", sender="bob", chat="bob"))
        assert bench.chats.said == ["hello"]
        people = {person.sender: person.standing for person in await bench.channels.people("chat")}
        assert people == {"bob": Standing.ALLOWED, "eve": Standing.WAITING}
    assert code.encode() not in everything_at(tmp_path / "sexton.db")


async def test_codes_cannot_be_guessed(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        code, _ = await bench.channels.make_code("chat", by="owner")
        for number in range(5):
            await bench.hear(message(new_code(), key=str(number), sender="eve"))
        await bench.hear(message(code, sender="eve"))
        assert [person.standing for person in await bench.channels.people("chat")] == [Standing.WAITING]
        await bench.clock.advance(3_500.0)
        await bench.hear(message(code, key="in time, by somebody else", sender="bob"))
        assert len(bench.events("paired")) == 1


def test_what_is_said_in_a_room_is_for_us_only_if_it_is_said_to_us() -> None:
    rules = AccessRules(allow=frozenset({"ada"}))
    nobody = Facts(standing=None)
    verdicts = [
        judge(rules, sender, nobody, to_us=to_us, direct=direct)
        for sender, to_us, direct in [
            ("Ada", True, False),
            ("ada", False, False),
            ("eve", True, False),
            ("eve", True, True),
        ]
    ]
    assert verdicts == [Verdict.TAKE, Verdict.IGNORE, Verdict.IGNORE, Verdict.TELL]


def test_codes_are_read_however_they_are_typed() -> None:
    assert code_in(" k7qm2p4x ") == code_in("K7QM-2P4X") == code_in("/pair K7QM 2P4X") == "K7QM-2P4X"
    assert code_in("hello you") is None
    assert code_in("K7QM-2P4") is None


# Connections


async def test_a_channel_that_is_down_is_connected_again_with_growing_pauses(tmp_path: Path) -> None:
    channel = FakeChannel(refuses=3)
    async with chatting(tmp_path, channel=channel) as bench:
        (status,) = await bench.channels.statuses()
        assert (status.state, status.error, status.hint) == ("down", "The server is not there.", "wait")
        assert status.retry_at is not None
        await bench.clock.advance(2.5)
        assert channel.connections == 2
        await bench.clock.advance(16.0)
        assert channel.connections == 4
        (status,) = await bench.channels.statuses()
        assert (status.state, status.account, status.error) == ("connected", "sexton@example.org", None)
        pauses = [event.data["retry_in"] for event in bench.events("down")]
        assert pauses == sorted(pauses)  # type: ignore[type-var]


async def test_what_waited_for_a_connection_is_sent_as_soon_as_there_is_one(tmp_path: Path) -> None:
    channel = FakeChannel(refuses=5)
    async with chatting(tmp_path, channel=channel) as bench:
        delivery = await bench.deliveries.send("chat:me", "hello", key="k")
        while channel.line is None:
            await bench.clock.advance(1.0)
        await settle()
        assert [(part.to, part.text) for part in channel.sent] == [("room", "hello")]
        assert (await bench.deliveries.delivery(delivery.id)).state == "sent"


async def test_a_connection_does_not_hurry_what_the_receiver_wants_to_wait(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        bench.channel.wants = [600.0]
        await bench.deliveries.send("chat:room", "later", key="1")
        await settle()
        bench.channel.down.set()
        await bench.clock.advance(5.0)
        assert bench.channel.connections == 2
        assert bench.channel.line is not None
        assert bench.channel.said == []
        await bench.clock.advance(590.0)
        assert bench.channel.said == []
        await bench.clock.advance(10.0)
        assert bench.channel.said == ["later"]


async def test_a_target_without_a_recipient_needs_a_home(tmp_path: Path) -> None:
    async with chatting(tmp_path) as bench:
        with pytest.raises(UsageError, match="a recipient must be named"):
            await bench.deliveries.send("chat", "hello", key="k")


async def test_what_came_in_that_cannot_be_kept_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sexton.database import DatabaseError, Failure
    from sexton.gateway.channels import ChannelDown

    async with chatting(tmp_path) as bench:

        async def full(*_: object, **__: object) -> None:
            raise DatabaseError(Failure.FULL, "The disk is full.", hint="free space")

        monkeypatch.setattr(bench.inbox, "take", full)
        with pytest.raises(ChannelDown, match="cannot be kept"):
            await bench.hear(message("hello"))


async def test_old_answers_are_forgotten_and_their_texts_before(tmp_path: Path) -> None:
    clock = FakeClock()
    async with chatting(tmp_path, clock=clock) as bench:
        await bench.hear(message("a secret word"))
        clock.jump(timedelta(days=31).total_seconds())
        await clock.advance(3_601.0)
        await bench.hear(message("a secret word"))
        assert len(bench.chats.said) == 1  # The agent knows the key still.
    async with open_database(tmp_path / "sexton.db") as database:
        assert await Inbox(database).waiting() == ()
