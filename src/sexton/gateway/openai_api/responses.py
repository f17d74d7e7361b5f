"""`/v1/responses`, of the agent and of configured models; nothing of them is kept.

The agent's calls of servers' tools stand among the output as `mcp_call`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, final
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from sexton.agent import (
    Completions,
    ModelConfig,
    ModelFailed,
    ModelRelay,
    TextDelta,
    TextWithdrawn,
    ToolCallEnded,
    ToolCallStarted,
    TurnEvent,
)
from sexton.errors import SextonError
from sexton.gateway.http import Gateway, caller_of
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.openai_api.answering import answer
from sexton.gateway.openai_api.chat_completions import arguments_of
from sexton.gateway.openai_api.envelope import error_document
from sexton.gateway.openai_api.relaying import ask_model
from sexton.gateway.openai_api.requests import ResponsesRequest
from sexton.gateway.openai_api.stream import WorkStream, Write

Fill: TypeAlias = Callable[["ResponseWriter"], Awaitable[None]]


async def _nowhere(_: bytes) -> None:
    """For an answer that is wanted whole."""


@final
class ResponseWriter:
    """Builds a response and tells each step of it; the order is that of OpenAI's own streams."""

    def __init__(self, gateway: Gateway, asked: ResponsesRequest, write: Write) -> None:
        self._gateway = gateway
        self._write = write
        self._number = 0
        self._text = ""
        self._is_speaking = False
        self._output: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}
        self._response: dict[str, Any] = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(gateway.clock.now().timestamp()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": asked.text or {"format": {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": list(asked.tools or ()),
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    @property
    def id(self) -> str:
        return str(self._response["id"])

    @property
    def document(self) -> dict[str, Any]:
        return self._response | {"output": list(self._output)}

    async def begin(self) -> None:
        await self._tell("response.created", response=self.document)
        await self._tell("response.in_progress", response=self.document)

    async def say(self, text: str) -> None:
        """More text of the message that is under way, or of a new one."""
        if not text:
            return
        if not self._is_speaking:
            self._is_speaking, self._text = True, ""
            await self._add(_message(f"msg_{uuid4().hex}", "", "in_progress"))
            await self._tell_part("response.content_part.added", part=_part(""))
        self._text += text
        await self._tell_part("response.output_text.delta", delta=text, logprobs=[])

    def take_back(self, characters: int) -> None:
        """Forget the last of what was said; only for an answer of which nobody has heard yet."""
        self._text = self._text[: -characters or None]

    async def call_began(self, event: ToolCallStarted) -> None:
        """A call of a server's tool."""
        await self.stop_speaking()
        item = {
            "id": f"mcp_{uuid4().hex}",
            "type": "mcp_call",
            "server_label": event.server,
            "name": event.tool,
            "arguments": json.dumps(event.arguments, ensure_ascii=False),
            "output": None,
            "error": None,
            "approval_request_id": None,
            "status": "in_progress",
        }
        self._places[event.call] = len(self._output)
        await self._add(item)
        place = {"output_index": len(self._output) - 1, "item_id": item["id"]}
        await self._tell("response.mcp_call.in_progress", **place)
        await self._tell("response.mcp_call_arguments.done", arguments=item["arguments"], **place)

    async def call_ended(self, event: ToolCallEnded) -> None:
        if event.call not in self._places:  # it was denied, and never began
            return
        place = self._places[event.call]
        is_done = event.state == "done"
        ended = {"status": "completed", "output": event.text} if is_done else {"status": "failed", "error": event.text}
        item = self._output[place] = self._output[place] | ended
        await self._tell(f"response.mcp_call.{item['status']}", output_index=place, item_id=item["id"])
        await self._tell("response.output_item.done", output_index=place, item=item)

    async def call_back(self, call_id: str, name: str, arguments: str) -> None:
        """A call that the client is to make."""
        await self.stop_speaking()
        item = {"id": f"fc_{uuid4().hex}", "type": "function_call", "call_id": call_id, "name": name}
        await self._add({**item, "arguments": "", "status": "in_progress"})
        place = {"output_index": len(self._output) - 1, "item_id": item["id"]}
        await self._tell("response.function_call_arguments.delta", delta=arguments, **place)
        await self._tell("response.function_call_arguments.done", arguments=arguments, name=name, **place)
        await self._finish({**item, "arguments": arguments, "status": "completed"})

    async def stop_speaking(self) -> None:
        if not self._is_speaking:
            return
        self._is_speaking = False
        await self._tell_part("response.output_text.done", text=self._text, logprobs=[])
        await self._tell_part("response.content_part.done", part=_part(self._text))
        await self._finish(_message(self._output[-1]["id"], self._text, "completed"))

    async def end(self, *, read: int, written: int, is_cut: bool = False) -> None:
        """`read` and `written` are tokens; `is_cut`: the model had more to say than it was allowed."""
        await self.stop_speaking()
        self._response["status"] = "incomplete" if is_cut else "completed"
        self._response["incomplete_details"] = {"reason": "max_output_tokens"} if is_cut else None
        self._response["usage"] = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }
        await self._tell(f"response.{self._response['status']}", response=self.document)

    async def fail(self, error: SextonError) -> None:
        said = error_document(error)["error"]
        self._response |= {"status": "failed", "error": {"code": "server_error", "message": said["message"]}}
        await self._tell("response.failed", response=self.document)

    @property
    def has_spoken(self) -> bool:
        return any(item["type"] == "message" for item in self._output)

    async def _add(self, item: dict[str, Any]) -> None:
        self._output.append(item)
        await self._tell("response.output_item.added", output_index=len(self._output) - 1, item=item)

    async def _finish(self, item: dict[str, Any]) -> None:
        self._output[-1] = item
        await self._tell("response.output_item.done", output_index=len(self._output) - 1, item=item)

    async def _tell_part(self, kind: str, **more: Any) -> None:
        last = len(self._output) - 1
        await self._tell(kind, output_index=last, item_id=self._output[last]["id"], content_index=0, **more)

    async def _tell(self, kind: str, **more: Any) -> None:
        document = self._gateway.redactor.document({"type": kind, "sequence_number": self._number, **more})
        self._number += 1
        data = json.dumps(document, ensure_ascii=False)
        await self._write(f"event: {kind}\ndata: {data}\n\n".encode("utf-8", "replace"))


async def respond_as_agent(
    gateway: Gateway, completions: Completions, request: Request, asked: ResponsesRequest
) -> Response:
    """The agent's answer.  Raises SextonError."""
    wanted, by = asked.wanted(), caller_of(request).name
    completions.require_model()

    async def fill(writer: ResponseWriter) -> None:
        async def heard(event: TurnEvent) -> None:
            match event:
                case TextDelta():
                    await writer.say(event.text)
                case TextWithdrawn():
                    writer.take_back(event.characters)
                case ToolCallStarted():
                    await writer.call_began(event)
                case ToolCallEnded():
                    await writer.call_ended(event)

        done = await answer(completions, writer.id, wanted, by=by, on_event=heard)
        if not writer.has_spoken:  # an object of a given shape comes whole
            await writer.say(done.text)
        for call in done.calls:
            await writer.call_back(call.id, call.tool, arguments_of(call))
        await writer.end(read=done.usage.input_tokens, written=done.usage.output_tokens)

    return await _respond(gateway, request, asked, fill)


async def respond_as_model(
    gateway: Gateway, relay: ModelRelay, request: Request, config: ModelConfig, asked: ResponsesRequest
) -> Response:
    """A configured model's answer, which is asked for as a chat completion.  Raises SextonError."""
    upstream = await ask_model(gateway, relay, request, config, asked.as_chat(config.model))

    async def fill(writer: ResponseWriter) -> None:
        try:
            await _take_chunks(writer, _chunks(config, upstream.pieces()))
        finally:
            await upstream.aclose()

    return await _respond(gateway, request, asked, fill)


async def _respond(gateway: Gateway, request: Request, asked: ResponsesRequest, fill: Fill) -> Response:
    if not asked.stream:
        writer = ResponseWriter(gateway, asked, _nowhere)
        await while_connected(gateway, request.receive, fill(writer))
        return json_response(writer.document, redactor=gateway.redactor)

    async def work(write: Write) -> None:
        writer = ResponseWriter(gateway, asked, write)
        await writer.begin()
        try:
            await fill(writer)
        except SextonError as error:
            await writer.fail(error)

    return WorkStream(gateway, work)


async def _take_chunks(writer: ResponseWriter, chunks: AsyncIterator[dict[str, Any]]) -> None:
    """Chunks of a chat completion as steps of a response."""
    calls: dict[int, dict[str, str]] = {}
    usage: dict[str, Any] = {}
    is_cut = False
    async for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            await writer.say(delta.get("content") or "")
            for piece in delta.get("tool_calls") or ():
                call = calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
                function = piece.get("function") or {}
                call["id"] = piece.get("id") or call["id"]
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
            is_cut = is_cut or choice.get("finish_reason") == "length"
    for call in calls.values():
        await writer.call_back(call["id"], call["name"], call["arguments"])
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    await writer.end(read=read, written=written, is_cut=is_cut)


async def _chunks(config: ModelConfig, pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The data of server-sent events, up to `[DONE]`.  Raises ModelFailed for an error in the stream, or no end."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            yield _chunk(config, data)
    raise ModelFailed(f"Model {config.name!r} broke off in the middle of its answer.")


def _chunk(config: ModelConfig, data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise ModelFailed(f"Model {config.name!r} sent a chunk that is not JSON.")
    if error := chunk.get("error"):
        raise ModelFailed(f"Model {config.name!r}: {error.get('message') if isinstance(error, dict) else error}")
    return chunk


def _message(item_id: str, text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if text else []
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
