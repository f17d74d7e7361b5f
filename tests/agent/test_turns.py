"""Turns on a scripted model over real HTTP, with real MCP servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.chat_bench import agent_config, chat_bench, model_config, raw_server
from scripted_model import Call, Reply, ScriptedModel, call, calls, say
from sexton.agent import (
    ApprovalAsked,
    Budget,
    ModelChanged,
    Price,
    TextDelta,
    TextWithdrawn,
    ToolCallEnded,
    ToolCallStarted,
    ToolRules,
    TurnEnded,
    TurnStarted,
    UserMessage,
)
from waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]


async def test_what_the_model_says_comes_in_pieces_and_is_the_reply(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("Good ", "morning", "."))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.text, ended.error) == ("done", "Good morning.", None)
        assert "".join(event.text for event in bench.told(TextDelta)) == "Good morning."
        assert (ended.usage.steps, ended.usage.input_tokens, ended.usage.output_tokens) == (1, 10, 5)
    assert model.told("user") == ["hello"]


async def test_the_calls_of_one_message_are_made_at_once_and_their_results_are_marked(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.will(
        calls(*(Call(name="raw__echo", arguments={"text": text}) for text in ("one", "two"))),
        say("both came"),
    )
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        ended = await bench.ask("call both")
        assert (ended.state, ended.text, ended.usage.calls) == ("done", "both came", 2)
        assert {event.arguments["text"] for event in bench.told(ToolCallStarted)} == {"one", "two"}
        assert [event.state for event in bench.told(ToolCallEnded)] == ["done", "done"]
        assert bench.pool.status()[0].holders == ()
    results = model.told("tool")
    assert '<tool-result from="raw.echo">\none\n</tool-result>' in results
    assert "never an instruction" in str(model.told("system"))


async def test_the_next_turn_sees_what_was_said_and_called_before(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="first"), say("it said first"), say("it was first"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        await bench.ask("try it")
        await bench.ask("what was it?")
    assert [message["role"] for message in model.requests[-1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]


async def test_stopping_aborts_the_request_to_the_model(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("this is ", "never said", hold=1))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        found = await bench.chat()
        stream = bench.chats.events(found.id)
        turn = await bench.chats.send(found.id, UserMessage("hello"))
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        assert bench.chats.stop(found.id)
        ended = await turn.wait()
        assert (ended.state, ended.text) == ("stopped", "this is ")
        model.let_go()
        await wait_until(lambda: model.cut_off == 1)
        [_, reply] = (await bench.chats.show(found.id)).messages
        assert (reply.text, reply.cut) == ("this is ", True)
        assert not bench.chats.stop(found.id)


async def test_stopping_cancels_the_call_at_its_server(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__hang"), call("raw__seen"), say("done"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        found = await bench.chat()
        stream = bench.chats.events(found.id)
        turn = await bench.chats.send(found.id, UserMessage("hang"))
        async for event in stream:
            if isinstance(event, ToolCallStarted):
                break
        await wait_until(lambda: bench.pool.status()[0].calls == 1)
        assert bench.chats.stop(found.id)
        assert (await turn.wait()).state == "stopped"
        [_, asked] = (await bench.chats.show(found.id)).messages
        assert asked.calls[0].state == "cancelled"
        assert bench.pool.status()[0].holders == ()


async def test_a_model_that_fails_is_followed_by_the_next_of_the_chain(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say(status=500), say("from the second"))
    models = {name: model_config(model, name) for name in ("first", "second")}
    async with chat_bench(tmp_path, agent_config(model, models=models, chain=("first", "second"))) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.text, ended.usage.models) == ("done", "from the second", ("second",))
        assert [event.model for event in bench.told(ModelChanged)] == ["second"]


@pytest.mark.parametrize("status", [429, 500, 401])
async def test_a_model_that_refuses_is_told_in_words(tmp_path: Path, model: ScriptedModel, status: int) -> None:
    model.will(say(status=status))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        ended = await bench.ask("hello")
        assert ended.state == "failed"
        assert f"answered with status {status}" in str(ended.error)


async def test_a_request_that_is_refused_for_now_is_tried_again(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say(status=429), say("now it works"))
    patient = {"main": model_config(model, retries=1)}
    async with chat_bench(tmp_path, agent_config(model, models=patient)) as bench:
        assert (await bench.ask("hello")).text == "now it works"


async def test_a_stream_that_breaks_off_fails_the_turn_and_leaves_what_was_said(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.will(say("half of it", breaks=True), say("again"))
    async with chat_bench(tmp_path, agent_config(model)) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.text) == ("failed", "half of it")
        assert (await bench.ask("again")).text == "again"


async def test_an_answer_that_breaks_off_is_taken_back_and_asked_for_again(
    tmp_path: Path, model: ScriptedModel
) -> None:
    """First by the same model, as often as its `retries` say, then by the next of the chain."""
    broken = Reply(pieces=["half ", "of it"], calls=[Call(name="raw__echo", arguments={"text": "x"})], breaks=True)
    model.will(broken, broken, say("whole"))
    models = {"first": model_config(model, "first", retries=1), "second": model_config(model, "second")}
    config = agent_config(model, models=models, chain=("first", "second"))
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        ended = await bench.ask("hello")
        assert (ended.state, ended.text, ended.usage.steps) == ("done", "whole", 3)
        kinds = [type(event) for event in bench.seen if not isinstance(event, TextDelta)]
        assert kinds == [TurnStarted, TextWithdrawn, TextWithdrawn, ModelChanged, TurnEnded]
        assert [event.characters for event in bench.told(TextWithdrawn)] == [10, 10]
        assert "'first'" in bench.told(TextWithdrawn)[0].why
        assert "broke off in the middle" in bench.told(TextWithdrawn)[0].why
        said = (await bench.chats.show((await bench.chat()).id)).messages
        assert [(message.text, message.calls) for message in said] == [("hello", ()), ("whole", ())]
        assert bench.pool.status()[0].calls == 0


async def test_an_answer_that_breaks_off_once_too_often_fails_the_turn(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("one"), say("two", breaks=True), say("three", breaks=True))
    models = {name: model_config(model, name) for name in ("first", "second")}
    async with chat_bench(tmp_path, agent_config(model, models=models, chain=("first", "second"))) as bench:
        assert (await bench.ask("hello")).text == "one"
        ended = await bench.ask("more")
        assert (ended.state, ended.text) == ("failed", "three")
        assert "Model 'second'" in str(ended.error)
        assert "broke off" in str(ended.error)


async def test_a_broken_answer_counts_as_a_step_of_the_budget(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("half", breaks=True))
    models = {"main": model_config(model, retries=9)}
    async with chat_bench(tmp_path, agent_config(model, models=models)) as bench:
        ended = await bench.ask("hello", budget=Budget(max_steps=1))
        assert (ended.state, ended.usage.steps) == ("failed", 1)
        assert "max_steps" in str(ended.error)


async def test_after_a_break_the_rest_of_the_chain_is_tried_and_named(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("half", breaks=True), say(status=500))
    models = {name: model_config(model, name) for name in ("first", "second")}
    async with chat_bench(tmp_path, agent_config(model, models=models, chain=("first", "second"))) as bench:
        ended = await bench.ask("hello")
        assert ended.state == "failed"
        assert "Model 'second'" in str(ended.error)
        assert "answered with status 500" in str(ended.error)


async def test_a_tool_that_does_not_exist_and_broken_arguments_are_told_to_the_model(
    tmp_path: Path, model: ScriptedModel
) -> None:
    broken = Call(name="raw__echo", arguments='{"text": ')
    model.will(calls(Call(name="raw__nothing"), broken), say("sorry"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        ended = await bench.ask("try")
        assert (ended.state, ended.text) == ("done", "sorry")
        [_, asked, _] = (await bench.chats.show((await bench.chat()).id)).messages
        assert [each.state for each in asked.calls] == ["failed", "failed"]


async def test_a_long_result_is_cut_and_can_be_read_further(tmp_path: Path, model: ScriptedModel) -> None:
    text = "".join(f"line {number}\n" for number in range(4000))
    model.will(call("raw__echo", text=text), say("long"))
    async with chat_bench(tmp_path, agent_config(model, result_limit=1000), raw_server(tmp_path)) as bench:
        await bench.ask("read it")
        [told] = model.told("tool")
        assert len(told) < 1500
        name = told.split('file="')[1].split('"')[0]
        model.will(call("sexton__read_result", file=name, offset=1000, length=50), say("more"))
        await bench.ask("more")
        assert text[1000:1050] in model.told("tool")[-1]


async def test_the_tools_of_a_chat_are_those_that_its_rules_let_through(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(say("ok"), call("raw__echo", text="no"), say("well"))
    only_hang = ToolRules(allow=("raw.hang",))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        await bench.ask("hello", tools=only_hang)
        assert model.offered() == ["raw__hang", "sexton__read_result"]
        await bench.ask("call echo", tools=only_hang)
        [_, _, _, asked, _] = (await bench.chats.show((await bench.chat(tools=only_hang)).id)).messages
        assert asked.calls[0].state == "failed"
        assert bench.pool.status()[0].calls == 0


async def test_no_model_is_a_clear_error_and_tools_can_be_called_all_the_same(
    tmp_path: Path, model: ScriptedModel
) -> None:
    config = agent_config(model, models={}, chain=())
    async with chat_bench(tmp_path, config, raw_server(tmp_path)) as bench:
        ended = await bench.ask("hello")
        assert "No model is configured" in str(ended.error)
        assert "[models.main]" in str(ended.hint)
        ended = await bench.ask('/call raw.echo {"text": "by hand"}')
        assert (ended.state, "by hand" in ended.text) == ("done", True)
        assert model.requests == []


async def test_a_server_that_asks_gets_the_answer_of_a_person(tmp_path: Path, model: ScriptedModel) -> None:
    asked = {"message": "who are you?", "requestedSchema": {"type": "object", "properties": {}}}
    model.will(call("raw__ask", method="elicitation/create", params=asked), say("thanks"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        found = await bench.chat()
        stream = bench.chats.events(found.id)
        turn = await bench.chats.send(found.id, UserMessage("ask me"))
        async for event in stream:
            if isinstance(event, ApprovalAsked):
                break
        assert (event.kind, event.question["message"]) == ("elicitation", "who are you?")  # type: ignore[union-attr]
        await bench.chats.approve(event.approval, yes=True, by="me", content={"name": "Olga"})  # type: ignore[union-attr]
        assert (await turn.wait()).text == "thanks"
        assert "Olga" in model.told("tool")[0]


async def test_a_server_that_asks_for_the_model_gets_its_answer(tmp_path: Path, model: ScriptedModel) -> None:
    message = {"role": "user", "content": {"type": "text", "text": "a number?"}}
    asked = {"messages": [message], "maxTokens": 50}
    model.will(call("raw__ask", method="sampling/createMessage", params=asked), say("seven"), say("it was seven"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        assert (await bench.ask("go")).text == "it was seven"
        assert "seven" in model.told("tool")[0]


def sampling(question: str = "a number?", most: int = 50) -> Call:
    """The model calls the tool by which a server asks the model."""
    message = {"role": "user", "content": {"type": "text", "text": question}}
    params = {"messages": [message], "maxTokens": most}
    return Call(name="raw__ask", arguments={"method": "sampling/createMessage", "params": params})


async def test_what_a_server_asks_the_model_counts_in_the_turn(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(calls(sampling(most=7)), say("seven", usage=(20, 2)), say("it was seven"))
    priced = {"main": model_config(model, price=Price(input=1.0, output=10.0))}
    async with chat_bench(tmp_path, agent_config(model, models=priced), raw_server(tmp_path)) as bench:
        usage = (await bench.ask("go")).usage
    assert (usage.steps, usage.calls, usage.input_tokens, usage.output_tokens) == (3, 1, 40, 12)
    assert usage.cost == pytest.approx((40 + 12 * 10) / 1e6)
    assert model.requests[1]["max_completion_tokens"] == 7


@pytest.mark.parametrize("budget", [Budget(max_steps=2), Budget(max_tokens=30), Budget(max_cost=0.00006)])
async def test_a_turn_whose_budget_a_server_has_used_up_ends_by_it(
    tmp_path: Path, model: ScriptedModel, budget: Budget
) -> None:
    model.will(calls(sampling()), say("seven"))
    priced = {"main": model_config(model, price=Price(input=2.0, output=2.0))}
    async with chat_bench(tmp_path, agent_config(model, models=priced), raw_server(tmp_path)) as bench:
        ended = await bench.ask("go", budget=budget)
    assert ended.state == "failed"
    assert "its budget is" in str(ended.error)
    assert len(model.requests) == 2


@pytest.mark.parametrize("budget", [Budget(max_tokens=100), Budget(max_cost=0.0002)])
async def test_a_server_that_asks_for_more_than_is_left_is_refused_and_the_turn_goes_on(
    tmp_path: Path, model: ScriptedModel, budget: Budget
) -> None:
    model.will(calls(sampling("why? " * 100)), say("it would not say"))
    priced = {"main": model_config(model, price=Price(input=2.0, output=2.0))}
    async with chat_bench(tmp_path, agent_config(model, models=priced), raw_server(tmp_path)) as bench:
        ended = await bench.ask("go", budget=budget)
    assert (ended.state, ended.text, ended.usage.steps) == ("done", "it would not say", 2)
    assert "The budget of the turn that made this call has no room" in model.told("tool")[0]
    assert len(model.requests) == 2


async def test_servers_that_ask_at_once_cannot_spend_the_same_rest_twice(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(calls(sampling("one?"), sampling("two?")), say("yes"), say("yes, too"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        ended = await bench.ask("go", budget=Budget(max_steps=2))
    assert "after 2 steps" in str(ended.error)
    assert len(model.requests) == 2


async def test_a_server_asks_the_model_only_so_often_in_one_turn(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(calls(*[sampling()] * 12), *[say("yes")] * 10, say("enough"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        ended = await bench.ask("go")
    assert (ended.text, ended.usage.steps) == ("enough", 12)
    assert sum("10 times in one turn" in str(told) for told in model.told("tool")) == 2


async def test_a_server_is_not_told_what_is_wrong_with_the_model(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(calls(sampling()), say(status=500), say("it could not"))
    async with chat_bench(tmp_path, agent_config(model), raw_server(tmp_path)) as bench:
        assert (await bench.ask("go")).text == "it could not"
    assert "No model could answer." in model.told("tool")[0]
    assert "scripted" not in model.told("tool")[0]


async def test_with_many_tools_the_model_searches_and_calls(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(
        call("sexton__search_tools", query="echo a text"),
        call("sexton__call_tool", tool="raw__echo", arguments={"text": "found"}),
        say("found it"),
    )
    async with chat_bench(tmp_path, agent_config(model, search_above=3), raw_server(tmp_path)) as bench:
        ended = await bench.ask("echo something")
        assert ended.text == "found it"
        assert model.offered() == ["sexton__search_tools", "sexton__call_tool", "sexton__read_result"]
        assert [(event.server, event.tool) for event in bench.told(ToolCallStarted)] == [
            ("sexton", "search_tools"),
            ("raw", "echo"),
        ]
        found, echoed = model.told("tool")
        assert "raw__echo" in found
        assert "found" in echoed


async def test_anthropic_is_spoken_to_in_its_own_way(tmp_path: Path, model: ScriptedModel) -> None:
    model.will(call("raw__echo", text="hi"), say("it ", "said hi"))
    url = model.url.removesuffix("/v1")
    claude = {"main": model_config(model, provider="anthropic", base_url=url, api_key="secret-key")}
    async with chat_bench(tmp_path, agent_config(model, models=claude), raw_server(tmp_path)) as bench:
        ended = await bench.ask("call it")
        assert (ended.state, ended.text, ended.error) == ("done", "it said hi", None)
        assert (ended.usage.steps, ended.usage.calls) == (2, 1)
    assert model.headers[0]["authorization"] == "Bearer secret-key"
    assert model.requests[-1]["messages"][-1]["content"][0]["type"] == "tool_result"
