"""`/v1/chat/completions` of the agent."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from sexton.agent import CallRecord, Completion, Completions, TextDelta, TurnEvent, Usage
from sexton.errors import SextonError
from sexton.gateway.http import Gateway, caller_of
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.openai_api.answering import answer
from sexton.gateway.openai_api.envelope import data_frame, error_frame
from sexton.gateway.openai_api.requests import ChatRequest
from sexton.gateway.openai_api.stream import Work, WorkStream, Write

DONE = b"data: [DONE]\n\n"


async def complete_chat(gateway: Gateway, completions: Completions, request: Request, asked: ChatRequest) -> Response:
    """The agent's answer, whole or as chunks.  Raises SextonError."""
    wanted, by = asked.wanted(), caller_of(request).name
    completions.require_model()
    head: dict[str, Any] = {
        "id": f"chatcmpl-{uuid4().hex}",
        "created": int(gateway.clock.now().timestamp()),
        "model": asked.model,
        "service_tier": "default",
    }

    async def nothing(_: TurnEvent) -> None:
        """Nobody hears of it before the end."""

    if not asked.stream:
        work = answer(completions, head["id"], wanted, by=by, on_event=nothing)
        done = await while_connected(gateway, request.receive, work)
        return json_response(_whole(head, done), redactor=gateway.redactor)
    return WorkStream(gateway, _chunks(gateway, completions, head, asked, by))


def _chunks(gateway: Gateway, completions: Completions, head: dict[str, Any], asked: ChatRequest, by: str) -> Work:
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    usage = {"usage": None} if with_usage else {}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        document = {**head, "object": "chat.completion.chunk", "choices": [choice], **usage}
        return data_frame(gateway.redactor.document(document))

    async def work(write: Write) -> None:
        said = False

        async def heard(event: TurnEvent) -> None:
            nonlocal said
            if isinstance(event, TextDelta):
                said = True
                await write(chunk({"content": event.text}))

        await write(chunk({"role": "assistant", "content": ""}))
        try:
            done = await answer(completions, head["id"], asked.wanted(), by=by, on_event=heard)
        except SextonError as error:
            await write(error_frame(error, gateway.redactor))
            return
        if done.text and not said:  # an object of a given shape comes whole
            await write(chunk({"content": done.text}))
        for place, call in enumerate(done.calls):
            await write(chunk({"tool_calls": [{"index": place, **_call(call)}]}))
        await write(chunk({}, _reason(done)))
        if with_usage:
            last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage_document(done.usage)}
            await write(data_frame(last))
        await write(DONE)

    return work


def _whole(head: dict[str, Any], done: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": done.text or None, "refusal": None}
    if done.calls:
        message["tool_calls"] = [_call(call) for call in done.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(done)}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage_document(done.usage)}


def _reason(done: Completion) -> str:
    return "tool_calls" if done.calls else "stop"


def _call(call: CallRecord) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": arguments_of(call)}}


def arguments_of(call: CallRecord) -> str:
    """As the model wrote them: broken JSON is kept under an empty name."""
    if set(call.arguments) == {""}:
        return str(call.arguments[""])
    return json.dumps(call.arguments, ensure_ascii=False)


def usage_document(usage: Usage) -> dict[str, Any]:
    """All steps of the turn together."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
    }
