"""Chats of several gateways on one database: each turn is one gateway's to do, and moves when that one is gone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from agent.chat_bench import agent_config, chat_bench
from databases import database_at
from scripted_model import ScriptedModel, say
from sexton.agent import ChatSettings, UserMessage
from sexton.agent.conversation import TurnState
from sexton.agent.conversation_store import ConversationElsewhere, ConversationStore, TurnElsewhere
from sexton.database import Database
from sexton.scheduler import RunStore
from sexton.scheduler.gateways import Gateway
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


async def end(store: ConversationStore, turn: str) -> None:
    await store.end_turn(turn, TurnState.DONE, text="", usage={}, error=None, hint=None, partial="", at=NOW)


async def test_a_conversation_is_at_one_node_until_it_has_answered(tmp_path: Path) -> None:
    async with Database.open(database_at(tmp_path / "sexton.db")) as database:
        nodes = RunStore(database)
        for name in ("a", "b"):
            await nodes.register(Gateway(id=name, name=name, process={}), now=NOW)
        a, b = ConversationStore(database, owner="a"), ConversationStore(database, owner="b")
        chat = await a.open("test:1", way="test", settings=ChatSettings(), at=NOW)
        turn, _ = await a.add_turn(chat.id, UserMessage("hello"), key="1", at=NOW)
        with pytest.raises(ConversationElsewhere, match="'a' is at work"):
            await b.add_turn(chat.id, UserMessage("and now?"), key="2", at=NOW)
        assert (await b.add_turn(chat.id, UserMessage("hello"), key="1", at=NOW))[0].id == turn.id
        assert await b.unfinished_turns() == ()
        await a.begin_turn(turn.id, at=NOW)
        await end(a, turn.id)
        assert (await b.add_turn(chat.id, UserMessage("and now?"), key="2", at=NOW))[1]


async def test_the_turns_of_a_node_that_is_gone_move_once_and_it_cannot_end_them_any_more(tmp_path: Path) -> None:
    async with Database.open(database_at(tmp_path / "sexton.db")) as database:
        nodes = RunStore(database)
        for name in ("a", "b", "c"):
            await nodes.register(Gateway(id=name, name=name, process={}), now=NOW)
        a, b, c = (ConversationStore(database, owner=name) for name in "abc")
        chat = await a.open("test:1", way="test", settings=ChatSettings(), at=NOW)
        turn, _ = await a.add_turn(chat.id, UserMessage("hello"), key=None, at=NOW)
        await a.begin_turn(turn.id, at=NOW)
        await nodes.unregister("a", now=NOW)
        assert [row.id for row in await b.unfinished_turns()] == [turn.id]
        assert await c.unfinished_turns() == ()
        with pytest.raises(TurnElsewhere):
            await end(a, turn.id)
        with pytest.raises(TurnElsewhere):
            await a.begin_turn(turn.id, at=NOW)
        row, again = await b.begin_turn(turn.id, at=NOW)
        assert (row.attempt, again) == (2, True)
        await end(b, turn.id)
        assert (await a.turn(turn.id)).state is TurnState.DONE


async def test_a_turn_that_is_cut_off_is_left_and_goes_on_if_it_is_still_ours(
    tmp_path: Path, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sexton.agent.chats.RETRY_WRITES_EVERY", 0.05)
    model.will(say("never ", "said", hold=1), say("Here I am."))
    async with chat_bench(tmp_path, agent_config(model), owner="a") as bench:
        await RunStore(bench.database).register(Gateway(id="a", name="a", process={}), now=NOW)
        chat = await bench.chat()
        turn = await bench.chats.send(chat.id, UserMessage("Are you there?"))
        await wait_until(lambda: model.held == 1)
        bench.chats.cut_off()
        with anyio.fail_after(PATIENCE):
            ended = await turn.wait()
        assert (ended.state, ended.text) == ("done", "Here I am.")
        assert (await ConversationStore(bench.database).turn(turn.id)).attempt == 2
        model.let_go()
