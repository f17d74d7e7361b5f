"""A model's server on loopback whose answers a test writes beforehand, in the ways of OpenAI and of Anthropic.

Each request takes the next `Reply` of the script, or what the test's own
function makes of the request.  It streams as the originals do: the role first,
then pieces of text or of arguments, the reason for the end, the usage, `[DONE]`.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.from_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from waiting import PATIENCE


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call of the model; `arguments` may be broken text."""

    name: str
    arguments: Any = field(default_factory=dict)

    @property
    def written(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.  `pieces` come one by one; before the piece of number `hold` it waits for the test.

    `breaks` ends the connection in the middle, after all pieces.
    """

    pieces: Sequence[str] = ()
    calls: Sequence[Call] = ()
    status: int = 200
    hold: int | None = None
    breaks: bool = False
    usage: tuple[int, int] = (10, 5)


def say(*pieces: str, **how: Any) -> Reply:
    return Reply(pieces=pieces, **how)


def call(name: str, /, **arguments: Any) -> Reply:
    return Reply(calls=[Call(name=name, arguments=arguments)])


def calls(*made: Call) -> Reply:
    return Reply(calls=made)


Answer = Callable[[dict[str, Any]], Reply]


class ScriptedModel:
    """The endpoint.  `requests` are the bodies that came; `held` counts answers that wait, `cut_off` those left."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[Reply] = []
        self.answer: Answer | None = None
        self.held = 0
        self.cut_off = 0
        self._let_go = threading.Event()
        self._numbers = iter(range(1, 1_000_000))
        self._lock = threading.Lock()

    def will(self, *replies: Reply) -> None:
        self.script += replies

    def let_go(self) -> None:
        """Let every answer that is held, or will be, go on."""
        self._let_go.set()

    def start_again(self) -> None:
        """Hold answers again, as at first."""
        self._let_go.clear()

    def told(self, role: str) -> list[Any]:
        """The contents of the messages of a role in the last request."""
        return [message.get("content") for message in self.requests[-1]["messages"] if message["role"] == role]

    def offered(self) -> list[str]:
        """The names of the tools in the last request."""
        return [tool["function"]["name"] for tool in self.requests[-1].get("tools", [])]

    # Inside

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["POST"]),
            ]
        )

    async def _next(self, request: Request) -> tuple[dict[str, Any], Reply]:
        body = await request.json()
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            if self.answer is not None:
                return body, self.answer(body)
            assert self.script, "the model was asked more often than the test expected"
            return body, self.script.pop(0)

    async def _complete(self, request: Request) -> Response:
        body, reply = await self._next(request)
        if reply.status != 200:
            said = {"message": f"scripted {reply.status}", "type": "scripted", "code": None, "param": None}
            return JSONResponse({"error": said}, reply.status, {"retry-after": "0"})
        if body.get("stream"):
            return StreamingResponse(self._stream(body, reply), media_type="text/event-stream")
        return JSONResponse(self._whole(body, reply))

    def _whole(self, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.pieces) or None}
        if reply.calls:
            message["tool_calls"] = [self._call(place, made) for place, made in enumerate(reply.calls)]
        reason = "tool_calls" if reply.calls else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return {**self._head(body, "chat.completion"), "choices": [choice], "usage": _usage(reply)}

    async def _stream(self, body: dict[str, Any], reply: Reply) -> AsyncIterator[bytes]:
        head = self._head(body, "chat.completion.chunk")

        def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
            return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        ended = False
        try:
            yield chunk({"role": "assistant", "content": ""})
            for number, piece in enumerate(reply.pieces):
                if number == reply.hold:
                    await self._wait()
                yield chunk({"content": piece})
            if reply.hold is not None and reply.hold >= len(reply.pieces):
                await self._wait()
            for place, made in enumerate(reply.calls):
                whole = self._call(place, made)
                written = whole["function"]["arguments"]
                whole["function"]["arguments"] = ""
                yield chunk({"tool_calls": [{"index": place, **whole}]})
                for piece in (written[: len(written) // 2], written[len(written) // 2 :]):
                    yield chunk({"tool_calls": [{"index": place, "function": {"arguments": piece}}]})
            if reply.breaks:
                raise ConnectionResetError("as the test wants it")
            yield chunk({}, "tool_calls" if reply.calls else "stop")
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({**head, "choices": [], "usage": _usage(reply)})
            yield b"data: [DONE]\n\n"
            ended = True
        finally:
            if not ended and not reply.breaks:
                self.cut_off += 1

    async def _wait(self) -> None:
        self.held += 1
        while not self._let_go.is_set():  # noqa: ASYNC110 - set from another thread
            await anyio.sleep(0.005)

    def _call(self, place: int, made: Call) -> dict[str, Any]:
        number = next(self._numbers)
        function = {"name": made.name, "arguments": made.written}
        return {"id": f"call_{number}_{place}", "type": "function", "function": function}

    def _head(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{next(self._numbers)}", "object": kind, "created": 1, "model": body["model"]}

    async def _messages(self, request: Request) -> Response:
        """Anthropic's way: https://docs.anthropic.com/en/api/messages-streaming."""
        _, reply = await self._next(request)
        if reply.status != 200:
            return JSONResponse({"type": "error", "error": {"type": "api_error", "message": "scripted"}}, reply.status)
        return StreamingResponse(self._anthropic_events(reply), media_type="text/event-stream")

    async def _anthropic_events(self, reply: Reply) -> AsyncIterator[bytes]:
        read, written = reply.usage
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": read, "output_tokens": 1},
        }
        yield _named("message_start", {"message": message})
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        if reply.pieces:
            deltas = [{"type": "text_delta", "text": piece} for piece in reply.pieces]
            blocks.append(({"type": "text", "text": ""}, deltas))
        for place, made in enumerate(reply.calls):
            start = {"type": "tool_use", "id": f"toolu_{next(self._numbers)}_{place}", "name": made.name, "input": {}}
            blocks.append((start, [{"type": "input_json_delta", "partial_json": made.written}]))
        for index, (start, deltas) in enumerate(blocks):
            yield _named("content_block_start", {"index": index, "content_block": start})
            for delta in deltas:
                yield _named("content_block_delta", {"index": index, "delta": delta})
            yield _named("content_block_stop", {"index": index})
        reason = "tool_use" if reply.calls else "end_turn"
        end = {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": written}}
        yield _named("message_delta", end)
        yield _named("message_stop", {})


def _usage(reply: Reply) -> dict[str, Any]:
    read, written = reply.usage
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def _named(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **document})}\n\n".encode()


@contextmanager
def scripted_model() -> Iterator[ScriptedModel]:
    """Serve one on a free port, on a thread of its own, until the block is left."""
    model = ScriptedModel()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    model.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    # Connections stay open: one that the server closes just when the client takes it again is another test.
    config = uvicorn.Config(
        model.app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1, timeout_keep_alive=600
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        model.let_go()
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
