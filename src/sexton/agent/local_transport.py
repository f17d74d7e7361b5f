"""Requests to a model on this machine: they hold its server for as long as their answer takes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any, Final, final

import anyio
import httpx2

from sexton.agent.constrained import Chunks, Document, Question, ask_for_action, whole_answer
from sexton.agent.model_config import ModelConfig
from sexton.containment import ContainmentError
from sexton.errors import SextonError
from sexton.local_models import LocalModels, ModelServer

HOLDER: ContextVar[str] = ContextVar("HOLDER", default="agent")
"""On whose behalf a request is made: set by who makes it, shown by `sexton ps`."""

END_KNOWN_WITHIN: Final = 2.0
"""Seconds after a broken connection in which the end of the server's process gives the better reason."""

_TOO_LONG = "exceed_context_size_error"


@final
class LocalTransport(httpx2.AsyncBaseTransport):
    """Answers OpenAI's chat completions by the server of one local model.

    Wherever the request is addressed to, it goes to that server, started if
    there is none; what cannot be had is an answer with status 503 and our
    words.  That answer says whether another attempt is worth it (by
    `x-should-retry`, to which the clients of OpenAI listen): a server that died
    is started anew, while a file that is missing, a model that does not load
    and one that is too slow stay so.  Closing the answer aborts the work at the
    server and gives its lease back.
    """

    def __init__(self, models: LocalModels, config: ModelConfig) -> None:
        assert config.local is not None
        self._models = models
        self._config = config
        self._local = config.local
        self._http = httpx2.AsyncHTTPTransport(retries=0)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2.TransportError when the server cannot be reached, or dies under the answer."""
        document: Document = json.loads(await request.aread())
        async with AsyncExitStack() as stack:
            try:
                server = await stack.enter_async_context(self._models.lease(self._local, holder=HOLDER.get()))
            except SextonError as failure:
                return _unavailable(failure, passes=isinstance(failure, ContainmentError))
            try:
                question, answer = await self._ask(server, request, document)
            except _ServerOver as over:
                return _unavailable(over, passes=True)
            except _Silent as silent:
                return _unavailable(silent, passes=False)
            stack.push_async_callback(answer.aclose)
            body: AsyncIterator[bytes]
            if answer.status_code >= httpx2.codes.BAD_REQUEST or not question.has_actions:
                body = _told(server, answer)
            elif question.document.get("stream"):
                body = _translated(server, answer)
            else:
                body = _whole(server, answer)
            headers = {"content-type": answer.headers.get("content-type", "application/json")}
            return httpx2.Response(answer.status_code, headers=headers, stream=_Held(body, stack.pop_all()))
        raise AssertionError  # the block returns or raises

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(
        self, server: ModelServer, request: httpx2.Request, document: Document
    ) -> tuple[Question, httpx2.Response]:
        """Ask by the tools' own schemas; if the server cannot make a grammar of these, without them."""
        most = self._config.max_output_tokens
        question = ask_for_action(document, most_tokens=most)
        answer = await self._send(server, request, question.document)
        if answer.status_code != httpx2.codes.BAD_REQUEST or not question.has_actions:
            return question, answer
        refusal = await _read(server, answer)
        if _TOO_LONG.encode() in refusal:
            return question, httpx2.Response(answer.status_code, headers=dict(answer.headers), content=refusal)
        question = ask_for_action(document, exact=False, most_tokens=most)
        return question, await self._send(server, request, question.document)

    async def _send(self, server: ModelServer, request: httpx2.Request, document: Document) -> httpx2.Response:
        upstream = httpx2.Request(
            "POST",
            f"{server.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {server.key}", "content-type": "application/json"},
            content=_written(document),
            extensions=request.extensions,
        )
        try:
            return await self._http.handle_async_request(upstream)
        except httpx2.TimeoutException as error:
            raise _Silent(
                f"Model {self._config.name!r} ({self._config.place}) said nothing for {self._config.timeout:g} s.",
                hint=f"raise timeout under [models.{self._config.name}], or take a smaller model",
            ) from error
        except httpx2.TransportError as error:
            if (why := await _why_over(server)) is None:
                raise
            raise _ServerOver(why) from error


class _ServerOver(SextonError):
    """The server ended before it said a word."""


class _Silent(SextonError):
    """The server is there, and says nothing."""


@final
class _Held(httpx2.AsyncByteStream):
    """A body, and what has to be given back when it is closed."""

    def __init__(self, body: AsyncIterator[bytes], held: AsyncExitStack) -> None:
        self._body = body
        self._held = held

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):  # closes a connection to this machine, and waits for nothing else
            await self._held.aclose()


async def _told(server: ModelServer, answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The answer as it comes.  Raises httpx2.TransportError, with the server's end as the reason if it ended."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx2.TransportError:
        if (why := await _why_over(server)) is None:
            raise
        raise httpx2.RemoteProtocolError(why) from None


async def _read(server: ModelServer, answer: httpx2.Response) -> bytes:
    try:
        return b"".join([piece async for piece in _told(server, answer)])
    finally:
        await answer.aclose()


async def _whole(server: ModelServer, answer: httpx2.Response) -> AsyncIterator[bytes]:
    read = b"".join([piece async for piece in _told(server, answer)])
    yield _written(whole_answer(json.loads(read)))


async def _translated(server: ModelServer, answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Server-sent events of the action, as those of OpenAI (each is one line of data and an empty line)."""
    chunks, rest = Chunks(), b""
    async for piece in _told(server, answer):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]" or b'"choices"' not in data:
                yield line + b"\n"
                continue
            for chunk in chunks.translate(json.loads(data)):
                yield b"data: " + _written(chunk) + b"\n\n"
    yield rest


async def _why_over(server: ModelServer) -> str | None:
    """How the server ended, if it did: the better reason for a broken connection."""
    with anyio.move_on_after(END_KNOWN_WITHIN):
        await server.over.wait()
        return server.why_over
    return None


def _written(document: Document) -> bytes:
    """JSON; half of a pair of surrogates, which a model may write, becomes a question mark."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def _unavailable(failure: SextonError, *, passes: bool) -> httpx2.Response:
    """`passes`: it may be over at the next attempt."""
    said: dict[str, Any] = {"message": failure.what, "type": "local_model_failed", "hint": failure.hint}
    headers = {"x-should-retry": "true" if passes else "false"}
    return httpx2.Response(503, headers=headers, json={"error": said})
