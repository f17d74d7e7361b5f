"""Chats: one turn at a time, messages that queue, steer, interrupt or are refused, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent.chat_bench import ChatBench, agent_config, chat_bench, raw_server, until_end
from databases import database_at
from scripted_model import ScriptedModel, call, say
from sexton.agent import (
    Approval,
    ApprovalAsked,
    ApprovalOver,
    Attachment,
    CallState,
    ConversationBusy,
    Steered,
    TextDelta,
    ToolCallStarted,
    Turn,
    UnknownConversation,
    UserMessage,
)
from sexton.agent.conversation_store import ConversationStore
from sexton.database import Database
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left", "each_database")]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


async def held(bench: ChatBench, model: ScriptedModel, text: str = "first") -> tuple[str, Turn]:
    """A turn that waits for the model in the middle of its words."""
    found = await bench.chat()
    turn = await bench.chats.send(found.id, UserMessage(text))
    await wait_until(lambda: model.held == 1, seconds=60)
    return found.id, turn


async def test_messages_queue_and_are_answered_in_order(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("one", hold=0), say("two"), say("three"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, first = await held(bench, model)
        later = [await bench.chats.send(conversation, UserMessage(text)) for text in ("second", "third")]
        model.let_go()
        assert [(await turn.wait()).text for turn in (first, *later)] == ["one", "two", "three"]
        texts = [message.text for message in (await bench.chats.show(conversation)).messages]
        assert texts == ["first", "one", "second", "two", "third", "three"]


async def test_an_interrupting_message_stops_the_turn_and_goes_first(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("never ", "said", hold=1), say("now"), say("later"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, first = await held(bench, model)
        queued = await bench.chats.send(conversation, UserMessage("queued"))
        urgent = await bench.chats.send(conversation, UserMessage("urgent"), when_busy="interrupt")
        assert (await first.wait()).state == "stopped"
        assert ((await urgent.wait()).text, (await queued.wait()).text) == ("now", "later")


async def test_a_steering_message_joins_the_turn_under_way(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="working"), say("done as steered"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        found = await bench.chat()
        stream = bench.chats.events(found.id)
        turn = await bench.chats.send(found.id, UserMessage("work"))
        async for event in stream:
            if isinstance(event, ToolCallStarted):
                break
        steering = await bench.chats.send(found.id, UserMessage("but quickly"), when_busy="steer")
        seen = await until_end(stream, turn.id)
        assert [event.text for event in seen if isinstance(event, Steered)] == ["but quickly"]
        assert (await steering.wait()) == (await turn.wait())
        assert model.told("user") == ["work", "but quickly"]
        roles = [(message.role, message.text) for message in (await bench.chats.show(found.id)).messages]
        assert roles == [("user", "work"), ("assistant", ""), ("user", "but quickly"), ("assistant", "done as steered")]


async def test_a_steering_message_that_comes_at_the_very_end_is_still_answered(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.will(say("the end", hold=0), say("and more"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, turn = await held(bench, model)
        steering = await bench.chats.send(conversation, UserMessage("wait"), when_busy="steer")
        model.let_go()
        assert (await steering.wait()).text == "and more"
        assert (await turn.wait()).text == "and more"


async def test_a_message_can_ask_to_be_refused(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("one", hold=0))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, first = await held(bench, model)
        with pytest.raises(ConversationBusy):
            await bench.chats.send(conversation, UserMessage("me too"), when_busy="refuse")
        model.let_go()
        assert (await first.wait()).text == "one"


async def test_the_same_key_is_the_same_turn(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("once"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        found = await bench.chat()
        turns = [
            await bench.chats.send(found.id, UserMessage("hello"), message_key="update-7", when_busy="refuse")
            for _ in range(3)
        ]
        assert {(await turn.wait()).text for turn in turns} == {"once"}
        again = await bench.chats.send(found.id, UserMessage("hello"), message_key="update-7")
        assert (again.id, (await again.wait()).text) == (turns[0].id, "once")
    assert len(model.requests) == 1


async def test_conversations_do_not_wait_for_one_another(tmp_path: Path, model: ScriptedModel) -> None:
    model.answer = lambda body: say("slow", hold=0) if "slow" in str(body["messages"]) else say("quick")
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        _, slow = await held(bench, model, "slow")
        assert (await bench.ask("hello", key="test:2")).text == "quick"
        model.let_go()
        assert (await slow.wait()).text == "slow"


async def test_who_comes_late_hears_the_turn_from_its_beginning(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("a long ", "answer", hold=1))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, turn = await held(bench, model)
        async for event in bench.chats.events(conversation):
            if isinstance(event, TextDelta):
                break
        late = bench.chats.events(conversation)
        model.let_go()
        seen = await until_end(late, turn.id)
        assert "".join(event.text for event in seen if isinstance(event, TextDelta)) == "a long answer"


async def test_edit_and_retry_puts_the_rest_aside(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("four"), say("five"), say("six"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        await bench.ask("two and two")
        await bench.ask("and one?")
        found = await bench.chat()
        turn = await bench.chats.retry(found.id, 1, text="three and three")
        assert (await turn.wait()).text == "six"
        assert model.told("user") == ["three and three"]
        assert [m.text for m in (await bench.chats.show(found.id)).messages] == ["three and three", "six"]


async def test_conversations_are_listed_searched_exported_and_deleted(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("Amsterdam lies on the Amstel"), say("Rome lies on the Tiber"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        await bench.ask("which river has Amsterdam?", key="test:1")
        await bench.ask("and Rome?", key="test:2")
        listed = await bench.chats.list()
        assert [each.title for each in listed] == ["and Rome?", "which river has Amsterdam?"]
        [hit] = await bench.chats.search("amstel lies")
        assert (hit.conversation, hit.role, "«Amstel»" in hit.excerpt) == (listed[1].id, "assistant", True)
        assert await bench.chats.search('"; DROP TABLE') == ()
        assert "Rome lies on the Tiber" in await bench.chats.export(listed[0].id)
        assert await bench.chats.export(listed[0].id, form="markdown") == (
            "# and Rome?\n\n## user\n\nand Rome?\n\n## assistant\n\nRome lies on the Tiber\n"
        )
        await bench.chats.delete(listed[1].id)
        assert await bench.chats.search("amstel") == ()
        with pytest.raises(UnknownConversation):
            await bench.chats.show(listed[1].id)


async def test_texts_of_people_are_given_to_the_model_which_can_read_on(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("I see"))
    async with chat_bench(tmp_path, replace(agent_config(model), result_limit=500)) as bench:
        found = await bench.chat()
        files = (("short.txt", "milk"), ("long.txt", "x" * 600 + "the end"))
        said = UserMessage("look", files=files)
        turn = await bench.chats.send(found.id, said, message_key="k")
        await turn.wait()
        again = await bench.chats.send(found.id, said, message_key="k")
        assert again.id == turn.id
        told = (await bench.chats.show(found.id)).messages[0].text
        assert told.startswith(
            'look\n\n[They sent the file short.txt:]\n<tool-result from="file">\nmilk\n</tool-result>'
        )
        assert "[This is the beginning, 500 of 607 characters; go on with sexton__read_result(file=" in told
        name = told.rpartition('file="')[2].partition('"')[0]
        read = await bench.agent.files.read(f"chat:{found.id}", name, offset=600, length=100)
        assert read == ("the end", 607)
        assert await bench.chats.pictures(turn.id) == ()


async def test_images_go_to_the_model_and_come_back_from_tools(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("a pixel"), say("still a pixel"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        found = await bench.chat()
        image = Attachment("image/png", PIXEL, "pixel.png")
        turn = await bench.chats.send(found.id, UserMessage("what is it?", (image,)))
        assert (await turn.wait()).text == "a pixel"
        assert "data:image/png;base64," in str(model.told("user")[0])
        await bench.ask("sure?")
        assert "data:image/png;base64," in str(model.told("user")[0])
        [said, *_] = (await bench.chats.show(found.id)).messages
        assert said.images == (image,)
        assert await bench.chats.pictures(turn.id) == ()  # what people sent is not sent back


async def test_a_long_conversation_is_summarised_for_the_model_and_kept_whole(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.answer = lambda body: say("the gist") if "Summarise" in str(body["messages"][0]) else say("ok " * 30)
    async with chat_bench(tmp_path, agent_config(model, compact_above=0.003)) as bench:
        for number in range(6):
            await bench.ask(f"message {number} " + "word " * 60)
        found = await bench.chat()
        assert (found.summary, found.summary_upto > 0) == ("the gist", True)
        assert len((await bench.chats.show(found.id)).messages) == 12
        assert "[Summary of the conversation so far: the gist]" in model.told("user")
        assert "message 0" not in str(model.requests[-1])


# Approvals


async def test_a_call_waits_for_a_person(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="hi"), say("it said hi"), call("raw__echo", text="ho"), say("not allowed"))
    config = agent_config(model, approvals=Approval.DESTRUCTIVE)
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        for yes, state in ((True, "done"), (False, "denied")):
            found = await bench.chat()
            stream = bench.chats.events(found.id)
            turn = await bench.chats.send(found.id, UserMessage("call it"))
            async for event in stream:
                if isinstance(event, ApprovalAsked):
                    break
            [asked] = await bench.chats.approvals.listed()
            assert (asked.id, asked.question.tool) == (event.approval, "echo")  # type: ignore[union-attr]
            assert bench.pool.status()[0].calls == 0 or not yes
            await bench.chats.approve(asked.id, yes=yes, by="me")
            with pytest.raises(ApprovalOver):
                await bench.chats.approve(asked.id, yes=True, by="me")
            assert (await turn.wait()).state == "done"
            assert (await bench.chats.show(found.id)).messages[-2].calls[0].state == state
        assert "refused" in model.told("tool")[-1]


async def test_nobody_s_answer_in_time_is_no(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="hi"), say("nobody was there"))
    config = agent_config(model, approvals=Approval.ALWAYS, approval_timeout=0.05)
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        ended = await bench.ask("call it")
        assert (ended.state, ended.text) == ("done", "nobody was there")
        [asked] = await bench.chats.approvals.listed(pending_only=False)
        assert asked.state == "expired"


async def test_stopping_a_turn_that_waits_for_a_person_closes_the_question(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.will(call("raw__echo", text="hi"))
    async with chat_bench(tmp_path, agent_config(model, approvals=Approval.ALWAYS), raw_server(tmp_path)) as bench:
        found = await bench.chat()
        turn = await bench.chats.send(found.id, UserMessage("call it"))

        async def is_asked() -> bool:
            return bool(await bench.chats.approvals.listed())

        await wait_until(is_asked)
        assert bench.chats.stop(found.id)
        assert (await turn.wait()).state == "stopped"
        assert [each.state for each in await bench.chats.approvals.listed(pending_only=False)] == ["void"]


# Restarts


async def test_what_was_under_way_and_what_waited_goes_on_after_a_restart(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("never ", "said", hold=1))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, first = await held(bench, model)
        later = await bench.chats.send(conversation, UserMessage("second"))
    model.will(say("said after all"), say("and this"))
    model.let_go()
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        with anyio.fail_after(PATIENCE):
            assert (await bench.chats.wait_turn(first.id)).text == "said after all"
            assert (await bench.chats.wait_turn(later.id)).text == "and this"
        texts = [message.text for message in (await bench.chats.show(conversation)).messages]
        assert texts == ["first", "said after all", "second", "and this"]


async def test_a_message_of_now_comes_after_what_was_left_and_nothing_runs_twice(
    tmp_path: Path, model: ScriptedModel
) -> None:
    """Between the recall of what was left and the first turn, a way in is open already."""
    model.will(say("never ", "said", hold=1))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        conversation, first = await held(bench, model)
    model.will(say("said after all"), say("and this"))
    model.let_go()
    async with chat_bench(tmp_path, agent_config(model), begun=False) as bench:
        later = await bench.chats.send(conversation, UserMessage("second"))
        asked_before = len(model.requests)
        bench.chats.begin()
        with anyio.fail_after(PATIENCE):
            assert (await bench.chats.wait_turn(first.id)).text == "said after all"
            assert (await later.wait()).text == "and this"
        texts = [message.text for message in (await bench.chats.show(conversation)).messages]
        assert texts == ["first", "said after all", "second", "and this"]
        assert (asked_before, len(model.requests)) == (1, 3)


async def test_an_approval_outlives_a_restart_and_the_call_is_made_once(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="hi"))
    config = agent_config(model, approvals=Approval.ALWAYS)
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        found = await bench.chat()
        turn = await bench.chats.send(found.id, UserMessage("call it"))

        async def is_asked() -> bool:
            return bool(await bench.chats.approvals.listed())

        await wait_until(is_asked)
        [asked] = await bench.chats.approvals.listed()
    model.will(say("it said hi"))
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        [again] = await bench.chats.approvals.listed()
        assert again.id == asked.id
        await bench.chats.approve(asked.id, yes=True, by="me")
        with anyio.fail_after(PATIENCE):
            ended = await bench.chats.wait_turn(turn.id)
        assert (ended.state, ended.text) == ("done", "it said hi")
        assert bench.pool.status()[0].calls == 1
        assert len(model.requests) == 2


async def test_a_call_that_was_under_way_is_not_made_again(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__hang"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        found = await bench.chat()
        turn = await bench.chats.send(found.id, UserMessage("call it"))
        await wait_until(lambda: bench.pool.status()[0].calls == 1)
    async with Database.open(
        database_at(tmp_path / "sexton.db")
    ) as database:  # as a SIGKILL leaves it: nobody wrote down the end
        store = ConversationStore(database)
        [_, asked] = await store.history(found.id)
        started = replace(asked.calls[0], state=CallState.STARTED, result="")
        await store.change_call(found.id, asked.number, started)
    model.will(say("I will look first"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        with anyio.fail_after(PATIENCE):
            assert (await bench.chats.wait_turn(turn.id)).text == "I will look first"
        assert bench.pool.status()[0].calls == 0
        assert "Nobody knows whether it had its effect" in model.told("tool")[0]
