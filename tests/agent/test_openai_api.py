"""OpenAI's API, by OpenAI's own client, at a gateway that is a program of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from scripted_model import ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"
api_key = "the-key-of-the-model"
retries = 0

[agent]
approvals = "{approvals}"

[servers.small]
@SERVER@
"""
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(scripted: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    try:
        made.write(SETTINGS.format(url=scripted.url, approvals="never")).start()
        made.wait_line("^ready ", within=60)
        yield made
        made.stop()
    finally:
        made.close()


@pytest.fixture
def model(scripted: ScriptedModel) -> Iterator[ScriptedModel]:
    yield scripted
    assert scripted.script == []
    scripted.start_again()


@contextmanager
def client_of(gateway: GatewayProcess, token: str | None = None) -> Iterator[OpenAI]:
    url = json.loads((gateway.data / "gateway.json").read_text())["url"]
    key = token or (gateway.data / "token").read_text().strip()
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with client_of(gateway) as made:
        yield made


def test_models_are_the_agent_and_those_that_are_configured(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sexton", "main"]
    assert client.models.retrieve("main").owned_by == "sexton"
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="mein", messages=[{"role": "user", "content": "x"}])
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "the models are: sexton, main" in refused.value.message


def test_the_agent_answers_with_the_tools_of_the_servers(
    client: OpenAI, model: ScriptedModel, gateway: GatewayProcess
) -> None:
    model.will(call("small__echo", text="hi"), say("it ", "said hi"))
    done = client.chat.completions.create(
        model="sexton",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what does it say?"}],
    )
    [choice] = done.choices
    assert (choice.message.content, choice.finish_reason) == ("it said hi", "stop")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (20, 10, 30)
    assert "Be brief." in str(model.told("system"))
    assert "hi" in str(model.told("tool"))
    ended = gateway.wait_event("turn.ended", turn=done.id)
    assert (ended["subject"], ended["data"]["state"]) == ("api:owner", "done")
    assert [server["holders"] for server in gateway.cli("servers", "list")] == [[]]


def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage(
    client: OpenAI, model: ScriptedModel
) -> None:
    model.will(call("small__echo", text="hi"), say("it ", "said ", "hi"))
    asked: Any = {"model": "sexton", "messages": [{"role": "user", "content": "go"}], "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "it said hi"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 30
    assert len({chunk.id for chunk in chunks}) == 1
    model.will(say("yes"))
    assert all(chunk.choices and chunk.usage is None for chunk in client.chat.completions.create(**asked))
    model.will(say("yes"))
    with httpx2.Client(trust_env=False) as plain:
        headers = {"authorization": f"Bearer {client.api_key}"}
        answer = plain.post(f"{client.base_url}chat/completions", json=asked, headers=headers, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_of_the_client_is_called_by_the_client(client: OpenAI, model: ScriptedModel, stream: bool) -> None:
    model.will(call("small__echo", text="first"), call("sexton__weather", place="Graz"), say("It rains."))
    messages: list[Any] = [{"role": "user", "content": "the weather?"}]
    asked = {"model": "sexton", "messages": messages, "tools": [WEATHER], "stream": stream}
    message = _message(client, asked)
    [made] = message["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("weather", {"place": "Graz"})
    messages += [message, {"role": "tool", "tool_call_id": made["id"], "content": "rain, 4 °C"}]
    assert _message(client, asked)["content"] == "It rains."
    assert model.told("tool") == ["rain, 4 °C"]


def _message(client: OpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    if not asked["stream"]:
        done = client.chat.completions.create(**asked)
        message = done.choices[0].message
        assert done.choices[0].finish_reason == ("tool_calls" if message.tool_calls else "stop")
        spoken: dict[str, Any] = message.model_dump(exclude_none=True)
        return spoken
    without = {key: value for key, value in asked.items() if key != "stream"}
    with client.chat.completions.stream(**without) as stream:
        whole: dict[str, Any] = stream.get_final_completion().choices[0].message.model_dump(exclude_none=True)
    for made in whole.get("tool_calls") or ():
        made.pop("index", None)
        made["function"].pop("parsed_arguments", None)
    whole.pop("parsed", None)
    return whole


def test_an_image_and_a_shape_reach_the_model(client: OpenAI, model: ScriptedModel) -> None:
    model.will(call("answer", colour="red"))
    image: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    schema: Any = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
    done = client.chat.completions.create(
        model="sexton",
        messages=[{"role": "user", "content": [{"type": "text", "text": "which?"}, image]}],
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
    )
    assert json.loads(done.choices[0].message.content or "") == {"colour": "red"}
    assert PIXEL in json.dumps(model.requests[-1]["messages"])


@pytest.mark.parametrize("name", ["sexton", "main"])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_client_that_goes_away_ends_its_answer(client: OpenAI, model: ScriptedModel, name: str, api: str) -> None:
    model.will(say("one ", "two", hold=1))
    held, cut_off = model.held, model.cut_off
    stream: Any
    if api == "chat":
        asked: Any = [{"role": "user", "content": "go"}]
        stream = client.chat.completions.create(model=name, messages=asked, stream=True)
        wanted = "one"
    else:
        stream = client.responses.create(model=name, input="go", stream=True)
        wanted = "one"
    for event in stream:
        if wanted in event.to_json():
            break
    wait_for(lambda: model.held == held + 1, within=PATIENCE, what="the model at work")
    stream.close()
    wait_for(lambda: model.cut_off == cut_off + 1, within=PATIENCE, what="the request to the model aborted")


def test_a_configured_model_gets_what_was_asked_and_its_answer_is_handed_back(
    client: OpenAI, model: ScriptedModel, gateway: GatewayProcess
) -> None:
    model.will(call("weather", place="Graz"), say("a ", "b"))
    asked: Any = {"model": "main", "messages": [{"role": "user", "content": "x"}], "tools": [WEATHER], "seed": 7}
    done = client.chat.completions.create(**asked)
    assert done.choices[0].finish_reason == "tool_calls"
    sent = model.requests[-1]
    assert sent == {**asked, "model": "scripted"}
    assert model.headers[-1]["authorization"] == "Bearer the-key-of-the-model"
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "a b"
    assert chunks[-1].usage is not None
    assert gateway.wait_event("model.asked", count=2)["subject"] == "main"


def test_a_model_that_refuses_is_told_of_in_openais_form(client: OpenAI, model: ScriptedModel) -> None:
    asked: Any = {"model": "main", "messages": [{"role": "user", "content": "x"}]}
    model.will(say(status=429), say(status=401), say("a ", breaks=True))
    with pytest.raises(openai.RateLimitError, match="scripted 429") as limited:
        client.chat.completions.create(**asked)
    assert limited.value.response.headers["retry-after"] == "0"
    with pytest.raises(openai.InternalServerError, match=r"check api_key under \[models.main\]") as refused:
        client.chat.completions.create(**asked)
    assert refused.value.status_code == 502
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(**asked, stream=True))
    model.will(say(status=500), say(status=500))
    with pytest.raises(openai.InternalServerError, match="answered with status 500"):
        client.chat.completions.create(**{**asked, "model": "sexton"})
    with pytest.raises(openai.APIError, match="answered with status 500"):
        list(client.chat.completions.create(**{**asked, "model": "sexton"}, stream=True))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "someone", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search"}]}, "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            "messages",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(client: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="sexton", **asked)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param == param


def test_who_has_no_token_or_too_little_is_refused_in_openais_form(gateway: GatewayProcess) -> None:
    with client_of(gateway, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.type == "authentication_error"
    made = gateway.cli("token", "create", "reader", "--scope", "read")
    with client_of(gateway, made["token"]) as reader, pytest.raises(openai.PermissionDeniedError) as refused_:
        reader.models.list()
    assert "This needs the scope 'run'" in refused_.value.message


def test_a_response_of_the_agent_shows_the_calls_of_servers(client: OpenAI, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("it ", "said hi"))
    done = client.responses.create(model="sexton", input="go", instructions="Be brief.")
    assert (done.status, done.output_text) == ("completed", "it said hi")
    [made, message] = done.output
    assert made.type == "mcp_call"
    assert (made.server_label, made.name, made.arguments) == ("small", "echo", '{"text": "hi"}')
    assert (made.status, made.error) == ("completed", None)
    assert "hi" in str(made.output)
    assert message.type == "message"
    assert done.usage is not None
    assert done.usage.total_tokens == 30
    with pytest.raises(openai.BadRequestError, match="not kept here"):
        client.responses.create(model="sexton", input="and?", previous_response_id=done.id)


@pytest.mark.parametrize("name", ["sexton", "main"])
def test_responses_are_streamed_step_by_step(client: OpenAI, model: ScriptedModel, name: str) -> None:
    function: Any = {**WEATHER["function"], "type": "function", "strict": False}
    asked_for = "sexton__weather" if name == "sexton" else "weather"
    model.will(call(asked_for, place="Graz"), say("It ", "rains."))
    said: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "the weather?"}]}]
    with client.responses.stream(model=name, input=said, tools=[function]) as stream:
        kinds = [event.type for event in stream]
        [made] = stream.get_final_response().output
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert made.type == "function_call"
    assert (made.name, json.loads(made.arguments)) == ("weather", {"place": "Graz"})
    said += [made.to_dict(), {"type": "function_call_output", "call_id": made.call_id, "output": "rain"}]
    with client.responses.stream(model=name, input=said, tools=[function]) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        done = stream.get_final_response()
    assert ("".join(texts), done.output_text) == ("It rains.", "It rains.")
    assert model.told("tool") == ["rain"]


def test_a_stream_of_a_response_that_fails_says_so(client: OpenAI, model: ScriptedModel) -> None:
    model.will(say("a ", breaks=True))
    events = list(client.responses.create(model="main", input="go", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "broke off" in events[-1].response.error.message
    model.will(say("a ", breaks=True))
    with pytest.raises(openai.APIError, match="broke off"):
        client.responses.create(model="main", input="go")


def test_without_a_model_it_says_what_to_put_where(gateway: GatewayProcess, client: OpenAI) -> None:
    """Last: it takes the model away."""
    gateway.write("[servers.small]\n@SERVER@")
    wait_for(
        lambda: [model.id for model in client.models.list()] == ["sexton"], within=PATIENCE, what="the new settings"
    )
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match=r"\[models.main\]") as refused:
            client.chat.completions.create(model="sexton", messages=[{"role": "user", "content": "x"}], stream=stream)
        assert (refused.value.status_code, refused.value.code) == (503, "no_model")
