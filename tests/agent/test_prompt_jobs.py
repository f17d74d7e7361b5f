"""Runs with a prompt: what they are given, what is kept of them, and how they fail."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.chat_bench import ChatBench, agent_config, chat_bench, model_config, raw_server
from scripted_model import Call, ScriptedModel, call, calls, say
from sexton.actions import run_prompt
from sexton.agent import Price
from sexton.scheduler import CallState, Job, Outcome, Run, RunContext, RunFailed, RunState, Trigger

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

SHAPE = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}},
    "required": ["count"],
}


class Run1:
    """The scheduler's side of a run."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        at = datetime(2026, 11, 1, tzinfo=UTC)
        run = Run(id="01", job="brief", state=RunState.RUNNING, trigger=Trigger.MANUAL, created_at=at, started_at=at)
        self.ctx = RunContext(
            run,
            Job(name="brief"),
            progress=lambda _: None,
            log=lambda _: None,
            record_call=lambda *made: self.calls.append(made),
        )

    async def of(self, bench: ChatBench, **action: Any) -> Outcome:
        return await run_prompt(bench.agent, {"kind": "prompt", "prompt": "count", "servers": [], **action}, self.ctx)


async def test_the_reply_is_the_output_and_calls_tokens_and_cost_are_kept(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="seven"), say("it is ", "seven", usage=(1000, 100)))
    priced = {"main": model_config(model, price=Price(input=1.0, output=10.0))}
    run = Run1()
    async with chat_bench(tmp_path, agent_config(model, models=priced), raw_server(tmp_path)) as bench:
        outcome = await run.of(bench, servers=["raw"])
        assert bench.pool.status()[0].holders == ()
    assert outcome.output == "it is seven"
    usage: Any = outcome.details["usage"]
    assert (usage["steps"], usage["calls"], usage["models"]) == (2, 1, ["main"])
    assert usage["cost"] == pytest.approx((1010 + 105 * 10) / 1e6)
    [(server, tool, arguments, state, text, _)] = run.calls
    assert (server, tool, arguments, state) == ("raw", "echo", {"text": "seven"}, CallState.OK)
    assert "seven" in text


async def test_what_an_answer_that_broke_off_had_said_is_no_output(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("half of it", breaks=True), say("whole"))
    run = Run1()
    async with chat_bench(tmp_path, agent_config(model, models={"main": model_config(model, retries=1)})) as bench:
        assert (await run.of(bench)).output == "whole"
    assert run.ctx.output_so_far is not None
    assert run.ctx.output_so_far() == "whole"


async def test_a_server_without_tools_fails_the_run_before_the_model_is_asked(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        with pytest.raises(RunFailed, match="offers this job no tool, so no model was asked"):
            await Run1().of(bench, servers=["raw"], tools={"allow": ["nothing_*"], "deny": []})
        with pytest.raises(RunFailed, match="there is no server 'lost'"):
            await Run1().of(bench, servers=["lost"])
    assert model.requests == []


async def test_without_a_model_a_run_says_what_to_put_where(tmp_path: Path, model: ScriptedModel) -> None:
    async with chat_bench(tmp_path, agent_config(model, models={}, chain=())) as bench:
        with pytest.raises(RunFailed, match=r"No model is configured(.|\n)*\[models.main\]"):
            await Run1().of(bench)


async def test_an_object_is_validated_and_sent_back_once(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("answer", count=0), call("answer", count=3))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        outcome = await Run1().of(bench, output_schema=SHAPE)
        assert (json.loads(outcome.output), outcome.details["output"]) == ({"count": 3}, {"count": 3})
        assert "less than the minimum" in str(model.requests[-1]["messages"][-1])
        model.will(call("answer", count=0), call("answer", count=-1))
        with pytest.raises(RunFailed, match="did not answer in the shape"):
            await Run1().of(bench, output_schema=SHAPE)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_steps": 2}, "after 2 steps"),
        ({"max_tokens": 25}, "after 30 tokens"),
        ({"max_cost": 1e-5}, "after a cost of 3e-05"),
    ],
)
async def test_a_run_ends_at_its_budget(
    tmp_path: Path, model: ScriptedModel, budget: dict[str, Any], said: str
) -> None:
    model.answer = lambda _: calls(Call(name="raw__echo", arguments={"text": "again"}))
    priced = {"main": model_config(model, price=Price(input=2.0, output=2.0))}
    async with chat_bench(tmp_path, agent_config(model, models=priced), raw_server(tmp_path)) as bench:
        with pytest.raises(RunFailed, match=said) as failed:
            await Run1().of(bench, servers=["raw"], **budget)
    usage: Any = failed.value.details["usage"]
    assert usage["steps"] <= 2
    assert len(model.requests) == usage["steps"]


async def test_money_that_cannot_be_counted_is_not_spent(tmp_path: Path, model: ScriptedModel) -> None:
    model.answer = lambda _: calls(Call(name="raw__echo", arguments={"text": "again"}))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        with pytest.raises(RunFailed, match=r"what 'main' costs is not known(.|\n)*\[models.main\]"):
            await Run1().of(bench, servers=["raw"], max_cost=1.0)
    assert len(model.requests) == 1
