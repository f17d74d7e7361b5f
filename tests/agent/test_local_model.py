"""A real model on this machine: a very small one, so what it says is nonsense, and what becomes of it is the test."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from agent.chat_bench import ChatBench, chat_bench, model_config, raw_server, until_end
from fake_clock import FakeClock, settle
from scripted_model import ScriptedModel, say
from sexton.agent import (
    LOCAL_URL,
    AgentConfig,
    Approval,
    Budget,
    ModelChanged,
    ModelConfig,
    ModelRelay,
    TextDelta,
    ToolCallStarted,
    ToolRules,
    UserMessage,
)
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.journal import Journal
from sexton.local_models import LocalModel, LocalModelFailed, LocalModels, ModelServer
from small_model import ended_by_itself
from system.gateway_process import parent_of
from waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left"), pytest.mark.timeout(300)]
SECONDS = 120.0
"""For what takes a second on a quiet machine."""
TWO_STEPS = Budget(max_steps=2)
"""A model of this size would call its tools for ever."""


def local(file: Path | str, **settings: Any) -> LocalModel:
    return LocalModel(**{"name": "small", "file": file, "context": 1_024, "threads": 1, **settings})


def config_of(model: LocalModel, **settings: Any) -> ModelConfig:
    given: dict[str, Any] = {"provider": "local", "model": str(model.file), "base_url": LOCAL_URL, "timeout": SECONDS}
    more = {"max_output_tokens": 24, "temperature": 0.0, "context_window": model.context, "retries": 0}
    return ModelConfig(name=model.name, local=model, **{**given, **more, **settings})


def agent_of(*models: ModelConfig, **settings: Any) -> AgentConfig:
    given: dict[str, Any] = {"models": {model.name: model for model in models}, "approvals": Approval.NEVER}
    return AgentConfig(**{**given, "chain": tuple(model.name for model in models), **settings})


@asynccontextmanager
async def local_models(folder: Path, clock: Any = None) -> AsyncIterator[tuple[LocalModels, Containment]]:
    """The service alone; at its end nothing of it is left."""
    async with Containment.open(folder / "state") as containment, anyio.create_task_group() as tasks:
        clock = clock or SystemClock()
        models = LocalModels(containment, data_dir=folder / "data", clock=clock, journal=Journal.open(None))
        await tasks.start(models.run)
        with anyio.fail_after(2 * SECONDS):
            yield models, containment
        tasks.cancel_scope.cancel()
    assert containment.trees() == ()


async def is_busy(server: ModelServer) -> bool:
    """Whether it writes an answer."""
    async with httpx2.AsyncClient(timeout=SECONDS) as http:
        slots = (await http.get(f"{server.url}/slots", headers={"authorization": f"Bearer {server.key}"})).json()
    return any(slot["is_processing"] for slot in slots)


async def test_a_turn_starts_the_server_that_it_needs_and_counts_its_tokens(tmp_path: Path, small_model: Path) -> None:
    model = local(small_model)
    async with chat_bench(tmp_path, agent_of(config_of(model), budget=TWO_STEPS), seconds=250) as bench:
        with anyio.fail_after(SECONDS):
            found = await bench.chat(may=())
            stream = bench.chats.events(found.id)
            turn = await bench.chats.send(found.id, UserMessage("What is the capital of France?"))
            ended = await turn.wait()
        await stream.aclose()
        assert ended_by_itself(ended.state, ended.error), ended
        if ended.state == "done":
            assert ended.text
            assert ended.usage.models == ("small",)
            assert ended.usage.input_tokens > 20
            assert 0 < ended.usage.output_tokens <= 24 * ended.usage.steps
        [tree] = [tree for tree in bench.trees() if tree.owner == "model:small"]
        assert tree.name == "small"
        assert list(bench.local_models.holders().values()) == [()]
        told = [event.kind for event in bench.journal.since(0) if event.subject == "small"]
        assert told[0] == "model.started"


async def test_stopping_a_turn_ends_the_work_at_the_server(tmp_path: Path, small_model: Path) -> None:
    model = local(small_model)
    chatty = config_of(model, max_output_tokens=900)
    async with chat_bench(tmp_path, agent_of(chatty), seconds=250) as bench, held(bench, model) as server:
        found = await bench.chat(may=())
        turn = await bench.chats.send(found.id, UserMessage("Tell me a very long story about a river."))
        await wait_until(lambda: is_busy(server), seconds=SECONDS)
        bench.chats.stop(found.id)
        ended = await turn.wait()
        # It may have had nothing more to say.
        assert ended.state == "stopped" or ended_by_itself(ended.state, ended.error), ended
        await wait_until(lambda: not_(is_busy(server)), seconds=SECONDS)
        assert list(bench.local_models.holders().values()) == [("test",)]


async def not_(condition: Any) -> bool:
    return not await condition


@asynccontextmanager
async def held(bench: ChatBench, model: LocalModel) -> AsyncIterator[ModelServer]:
    with anyio.fail_after(SECONDS):
        async with bench.local_models.lease(model, holder="test") as server:
            yield server


async def test_a_turn_is_told_when_its_server_dies_and_the_next_gets_a_new_one(
    tmp_path: Path, small_model: Path
) -> None:
    model = local(small_model)
    async with chat_bench(tmp_path, agent_of(config_of(model), budget=TWO_STEPS), seconds=250) as bench:
        found = await bench.chat(may=())
        async with held(bench, model) as server:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)  # so that the turn waits for its first word until we are ready
            turn = await bench.chats.send(found.id, UserMessage("hello"))
            await wait_until(lambda: len(bench.local_models.holders().get(server.pid or 0, ())) == 2, seconds=SECONDS)
            os.kill(server.pid, signal.SIGKILL)
            ended = await turn.wait()
            assert ended.state == "failed"
            assert "The server of model 'small' was ended by SIGKILL" in str(ended.error)
        again = await (await bench.chats.send(found.id, UserMessage("hello"))).wait()
        assert ended_by_itself(again.state, again.error), again
        told = [event.kind for event in bench.journal.since(0) if event.subject == "small"]
        assert told == ["model.started", "model.died", "model.started"]


@pytest.mark.parametrize("whom", ["server", "keeper", "warden"])
async def test_a_turn_asks_again_when_its_server_is_killed_or_falls_with_the_warden(
    tmp_path: Path, small_model: Path, whom: str
) -> None:
    model = local(small_model)
    config = agent_of(config_of(model, retries=5), budget=TWO_STEPS)
    async with chat_bench(tmp_path, config, seconds=280) as bench:
        found = await bench.chat(may=())
        async with held(bench, model) as server:
            pid = server.pid
            assert pid is not None
            [tree] = bench.trees()
            assert tree.keeper_pid is not None
            pids = {"server": pid, "keeper": tree.keeper_pid, "warden": parent_of(tree.keeper_pid)}
            os.kill(pid, signal.SIGSTOP)  # so that the turn waits for its first word until we are ready
            turn = await bench.chats.send(found.id, UserMessage("hello"))
            await wait_until(lambda: len(bench.local_models.holders().get(pid, ())) == 2, seconds=SECONDS)
            os.kill(pids[whom], signal.SIGKILL)
            ended = await turn.wait()
        assert ended_by_itself(ended.state, ended.error), ended
        await wait_until(lambda: not Path(f"/proc/{pid}").exists(), seconds=SECONDS)
        again = await (await bench.chats.send(found.id, UserMessage("hello"))).wait()
        assert ended_by_itself(again.state, again.error), again
        told = [event.kind for event in bench.journal.since(0) if event.subject == "small"]
        assert told == ["model.started", "model.died", "model.started"]


async def test_what_will_not_pass_is_not_tried_again(tmp_path: Path, small_model: Path) -> None:
    slow = config_of(local(small_model), retries=5, timeout=3.0)
    lost = config_of(local(tmp_path / "lost.gguf", name="lost"), retries=5)
    async with local_models(tmp_path) as (models, _), models.lease(local(small_model), holder="test") as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        for config, said in ((lost, "is not there"), (slow, "said nothing for 3 s")):
            answer = await ModelRelay(models).ask(config, b'{"messages": [{"role": "user", "content": "hello"}]}')
            assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
            assert said in str(await wait_json(answer))
            await answer.aclose()


async def test_every_answer_is_a_call_of_a_tool_that_there_is_or_a_reply(tmp_path: Path, small_model: Path) -> None:
    """The grammar, not the model, sees to it: whatever a model of this size writes can be used."""
    model = local(small_model, context=2_048)
    config = agent_of(config_of(model, max_output_tokens=80), budget=TWO_STEPS)
    async with chat_bench(tmp_path, config, raw_server(tmp_path), seconds=280) as bench:
        found = await bench.chat(may=(), tools=ToolRules(allow=("echo",)))
        stream = bench.chats.events(found.id)
        turn = await bench.chats.send(found.id, UserMessage("Use the tool echo with the text hello."))
        seen = await until_end(stream, turn.id)
        ended = await turn.wait()
        assert ended_by_itself(ended.state, ended.error), ended
        assert {event.tool for event in seen if isinstance(event, ToolCallStarted)} <= {"echo", "read_result"}
        assert "action" not in "".join(event.text for event in seen if isinstance(event, TextDelta))


async def test_a_program_of_openai_can_ask_it_to_call_a_tool(tmp_path: Path, small_model: Path) -> None:
    tool = {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What time is it?"}],
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "required",
    }
    async with local_models(tmp_path) as (models, _):
        relay = ModelRelay(models)
        answer = await relay.ask(
            config_of(local(small_model), max_output_tokens=300), httpx2.Request("POST", "http://x", json=body).read()
        )
        assert answer.status == 200
        document = await wait_json(answer)
        await answer.aclose()
        [call] = document["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "now"
        assert re.fullmatch(r'\{("zone": "(UTC|CET)")?\}', call["function"]["arguments"])
        assert document["model"] == "small"
        assert set(models.holders().values()) == {()}
        await relay.aclose()


async def wait_json(answer: Any) -> Any:
    import json

    return json.loads(await answer.read())


async def test_the_next_model_of_the_chain_answers_when_the_file_is_not_there(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.will(say("I am here."))
    config = agent_of(config_of(local("qwen2.5-coder-1.5b")), model_config(model))
    async with chat_bench(tmp_path, config) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.text) == ("done", "I am here.")
        assert [event.model for event in bench.told(ModelChanged)] == ["main"]


async def test_a_model_that_was_not_pulled_says_how_to_pull_it(tmp_path: Path) -> None:
    async with chat_bench(tmp_path, agent_of(config_of(local("qwen2.5-coder-1.5b")))) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.error, ended.hint) == (
            "failed",
            "Model 'small' needs qwen2.5-coder-1.5b, which was not pulled yet.",
            "fetch it: sexton model pull qwen2.5-coder-1.5b",
        )


async def test_a_file_that_is_no_model_is_told_with_the_last_words_of_its_server(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    async with local_models(tmp_path) as (models, containment):
        with pytest.raises(LocalModelFailed, match=r"ended with status 1 before it was ready\.\n  Its last words: "):
            async with models.lease(local(broken), holder="test"):
                raise AssertionError
        assert models.holders() == {}
        await wait_until(lambda: containment.trees() == (), seconds=SECONDS)


async def test_a_server_that_does_not_get_ready_is_ended(tmp_path: Path, small_model: Path) -> None:
    async with local_models(tmp_path) as (models, containment):
        with pytest.raises(LocalModelFailed, match=r"was not ready after 0\.01 s, so we stopped it"):
            async with models.lease(local(small_model, start_timeout=0.01), holder="test"):
                raise AssertionError
        await wait_until(lambda: containment.trees() == (), seconds=SECONDS)


async def test_a_server_that_nobody_uses_is_retired_and_one_in_use_is_not(tmp_path: Path, small_model: Path) -> None:
    clock, model = FakeClock(), local(small_model, idle_timeout=600.0)
    async with local_models(tmp_path, clock) as (models, containment):
        async with models.lease(model, holder="one") as server:
            await clock.advance(100_000.0)
            assert models.holders() == {server.pid: ("one",)}
            async with models.lease(model, holder="two") as same:
                assert same is server
                assert models.holders() == {server.pid: ("one", "two")}
        await clock.advance(599.0)
        assert models.holders() == {server.pid: ()}
        async with models.lease(model, holder="three"):
            await clock.advance(599.0)
        await clock.advance(599.0)
        assert models.holders() == {server.pid: ()}
        await clock.advance(1.0)
        assert models.holders() == {}
        await wait_until(lambda: containment.trees() == (), seconds=SECONDS)


async def test_who_asks_while_a_server_is_being_retired_gets_a_fresh_one_after_it_is_gone(
    tmp_path: Path, small_model: Path
) -> None:
    clock, model = FakeClock(), local(small_model, idle_timeout=600.0)
    async with local_models(tmp_path, clock) as (models, containment), anyio.create_task_group() as tasks:
        async with models.lease(model, holder="one") as first:
            assert first.pid is not None
            os.kill(first.pid, signal.SIGSTOP)  # its end takes the whole stop ladder
        await clock.advance(600.0)
        assert models.holders() == {}
        assert [tree.leader_pid for tree in containment.trees()] == [first.pid]
        async with models.lease(model, holder="two") as second:
            assert second.pid not in (None, first.pid)
            assert [tree.leader_pid for tree in containment.trees()] == [second.pid]
        tasks.cancel_scope.cancel()


async def test_all_who_wait_for_a_start_share_it_and_one_that_gives_up_harms_nobody(
    tmp_path: Path, small_model: Path
) -> None:
    model, got = local(small_model), set[int | None]()
    async with local_models(tmp_path) as (models, containment):

        async def hold(name: str) -> None:
            async with models.lease(model, holder=name) as server:
                got.add(server.pid)

        async with anyio.create_task_group() as tasks:
            impatient = anyio.CancelScope()

            async def give_up() -> None:
                with impatient:
                    await hold("impatient")

            tasks.start_soon(give_up)
            for number in range(3):
                tasks.start_soon(hold, f"turn-{number}")
            await settle()
            impatient.cancel()
        assert len(got) == 1
        assert len(containment.trees()) == 1
