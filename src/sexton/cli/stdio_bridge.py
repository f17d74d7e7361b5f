"""MCP over stdio on one side, the gateway's endpoint over Streamable HTTP on the other.

Of messages only the method, the id and the era are looked at.  A client of the
handshake era has a session with the gateway; when the gateway was started anew
the session is opened again in the same words, and the client does not notice,
except that calls which may have been under way fail.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, final
from uuid import uuid4

import anyio
import anyio.abc
import httpx2

from sexton.errors import SextonError, UsageError
from sexton.gateway import TOKEN_FILE, read_address

CONNECT_SECONDS: Final = 5.0
RESTART_SECONDS: Final = 15.0
"""How long a message waits for a gateway that is not there, since it may be about to come back."""

LAST_SECONDS: Final = 0.5
"""How long calls under way get when the client has closed its end."""

_ENVELOPE: Final = "io.modelcontextprotocol/protocolVersion"
_REPEATABLE: Final = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "completion/complete",
        "logging/setLevel",
    }
)
"""What may be asked twice without harm."""

Message = dict[str, Any]
Say = Callable[[bytes], None]


class Gone(Exception):
    """The gateway is not there.  `sent` says whether it may have got the message."""

    def __init__(self, what: str, *, sent: bool) -> None:
        super().__init__(what)
        self.sent = sent


@final
class StdioBridge:
    """One client on stdio.  `path` is that of the endpoint, `say` writes a line to the client."""

    def __init__(self, data_dir: Path, path: str, say: Say) -> None:
        self._data_dir = data_dir
        self._path = path
        self._say = say
        self._name = uuid4().hex
        self._session: str | None = None
        self._version: str | None = None
        self._greeting: Message | None = None
        self._kept: dict[str, Message] = {}
        """What a new session has to be told again: the log level and the subscriptions."""
        self._requests: dict[Any, anyio.CancelScope] = {}
        self._opening = anyio.Lock()
        self._listening: anyio.CancelScope | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,  # a proxy from the environment must not see the token
        )

    async def check(self) -> None:
        """See that the gateway has what was asked for.  Raises SextonError (UsageError for an unknown name)."""
        try:
            answer = await self._http.get(self._url(), headers=self._headers())
        except (Gone, httpx2.TransportError) as error:
            raise SextonError(
                f"No gateway answers on {self._data_dir} ({error}).", hint="start one with: sexton up"
            ) from error
        if answer.status_code == 404:
            said = (_words(answer.content) or "The gateway has no such endpoint.").removeprefix("Not Found: ")
            raise UsageError(said, hint="servers are listed by: sexton servers; profiles stand in sexton.toml")
        if answer.status_code in (401, 403):
            raise SextonError(_words(answer.content) or f"The gateway refuses with status {answer.status_code}.")

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Pass messages both ways until the client closes its end."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            async for line in lines:
                if line.strip():
                    self._take(line, tasks)
            with anyio.move_on_after(LAST_SECONDS):
                while self._requests:  # noqa: ASYNC110 - each ends by itself
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    async def close(self) -> None:
        """End the session, if the gateway is there to hear it."""
        with anyio.move_on_after(1, shield=True):
            if self._session is not None:
                try:
                    await self._http.delete(self._url(), headers=self._headers())
                except (Gone, httpx2.TransportError):
                    self._session = None
            await self._http.aclose()

    # What the client says

    def _take(self, line: bytes, tasks: anyio.abc.TaskGroup) -> None:
        try:
            message = json.loads(line)
        except ValueError as error:
            self._fail(None, -32700, f"Parse error: {error}")
            return
        if not isinstance(message, dict):
            self._fail(None, -32600, "Invalid Request: one message a line")
        elif "method" not in message:
            tasks.start_soon(self._pass_aside, message)
        elif "id" not in message:
            self._take_notification(message, tasks)
        else:
            scope = self._requests[_key(message["id"])] = anyio.CancelScope()
            tasks.start_soon(self._pass_request, message, scope)

    def _take_notification(self, message: Message, tasks: anyio.abc.TaskGroup) -> None:
        if message["method"] == "notifications/cancelled":
            # Closing the connection of a request cancels it, in both eras.
            request_id = (message.get("params") or {}).get("requestId")
            if (scope := self._requests.get(_key(request_id))) is not None:
                scope.cancel()
        elif self._greeting is not None:
            tasks.start_soon(self._pass_aside, message)

    async def _pass_aside(self, message: Message) -> None:
        """A notification, or an answer to a question: there is nothing to come back."""
        try:
            async with self._posted(message) as answer:
                await answer.aread()
        except (Gone, httpx2.TransportError):
            return  # the gateway that it was for is gone

    async def _pass_request(self, message: Message, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await self._ask(message)
        finally:
            if self._requests.get(_key(message["id"])) is scope:
                del self._requests[_key(message["id"])]

    async def _ask(self, message: Message) -> None:
        """Pass a request on until it is answered, or may have been received by a gateway that is gone."""
        deadline = anyio.current_time() + RESTART_SECONDS
        while True:
            try:
                if self._session is None and not _is_modern(message) and message["method"] != "initialize":
                    await self._open_again()
                await self._answer(message)
            except (Gone, httpx2.TransportError) as loss:
                unsent = isinstance(loss, httpx2.ConnectError | httpx2.ConnectTimeout) or not getattr(
                    loss, "sent", True
                )
                if not unsent and message["method"] not in _REPEATABLE:
                    self._fail(message["id"], -32603, f"the gateway went away during the call: {_text(loss)}")
                    return
                if anyio.current_time() >= deadline:
                    what = f"no gateway answers on {self._data_dir}; start one with: sexton up"
                    self._fail(message["id"], -32603, what)
                    return
                await anyio.sleep(0.2)
            else:
                return

    async def _answer(self, message: Message) -> None:
        """Raises Gone if there was no answer, or the session is unknown."""
        session = self._session
        async with self._posted(message) as answer:
            if answer.status_code == 404 and session is not None and not _is_modern(message):
                self._forget(session)
                raise Gone("the session is unknown", sent=False)
            if message["method"] == "initialize" and answer.status_code == 200:
                self._remember(message, answer)
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                await self._relay(answer, message)
                return
            body = await answer.aread()
            reply = _json_object(body)
            if reply is None or answer.status_code in (401, 403):
                what = _words(body) or f"the gateway answered with status {answer.status_code}"
                self._fail(message["id"], -32603, what)
                return
            if message["method"] == "initialize":
                self._version = (reply.get("result") or {}).get("protocolVersion")
                self._listen()
            self._keep(message)
            if reply.get("id") is None:
                body = _dump({**reply, "id": message["id"]})
            self._say(body)

    async def _relay(self, answer: httpx2.Response, message: Message) -> None:
        settled = False
        async for data in _events(answer):
            said = _json_object(data)
            settled = settled or (said is not None and "method" not in said and said.get("id") == message["id"])
            self._say(data)
        if not settled:
            raise Gone("the stream broke off", sent=True)

    # The session of a client of the handshake era

    def _remember(self, greeting: Message, answer: httpx2.Response) -> None:
        self._greeting = greeting
        self._session = answer.headers.get("mcp-session-id")

    def _forget(self, session: str) -> None:
        if self._session == session:
            self._session = None

    def _keep(self, message: Message) -> None:
        match message:
            case {"method": "logging/setLevel"}:
                self._kept["level"] = message
            case {"method": "resources/subscribe", "params": {"uri": uri}}:
                self._kept[f"uri {uri}"] = message
            case {"method": "resources/unsubscribe", "params": {"uri": uri}}:
                self._kept.pop(f"uri {uri}", None)

    async def _open_again(self) -> None:
        """Open a session in the words in which the client did.  Raises Gone."""
        async with self._opening:
            if self._session is not None or self._greeting is None:
                return
            async with self._posted({**self._greeting, "id": "sexton-again"}, fresh=True) as answer:
                await answer.aread()
                session = answer.headers.get("mcp-session-id")
            if session is None:
                raise Gone(f"no new session: status {answer.status_code}", sent=False)
            self._session = session
            for message in ({"jsonrpc": "2.0", "method": "notifications/initialized"}, *self._kept.values()):
                async with self._posted(message) as answer:
                    await answer.aread()
            self._listen()

    def _listen(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._listening = anyio.CancelScope()
        assert self._tasks is not None
        self._tasks.start_soon(self._keep_listening, self._session, self._listening)

    async def _keep_listening(self, session: str | None, scope: anyio.CancelScope) -> None:
        """Pass on what the gateway says outside of requests, for as long as the session lasts."""
        last: str | None = None
        with scope:
            while self._session == session and session is not None:
                try:
                    headers = {**self._headers(), **({"last-event-id": last} if last else {})}
                    async with self._http.stream("GET", self._url(), headers=headers) as answer:
                        if answer.status_code == 404:
                            self._forget(session)
                            await self._wait_open_again()
                            return
                        async for data, event_id in _events_with_ids(answer):
                            last = event_id or last
                            self._say(data)
                except (Gone, httpx2.TransportError):
                    pass
                await anyio.sleep(0.2)

    async def _wait_open_again(self) -> None:
        """The client may be silent, and still wait for news."""
        while self._session is None:
            try:
                await self._open_again()
            except (Gone, httpx2.TransportError):
                await anyio.sleep(0.5)

    # HTTP

    @asynccontextmanager
    async def _posted(self, message: Message, *, fresh: bool = False) -> AsyncIterator[httpx2.Response]:
        headers = self._headers(message, fresh=fresh)
        async with self._http.stream("POST", self._url(), content=_dump(message), headers=headers) as answer:
            yield answer

    def _url(self) -> str:
        address = read_address(self._data_dir)
        if address is None or not address.is_alive():
            raise Gone(f"no gateway runs on {self._data_dir}", sent=False)
        return f"{address.url}{self._path}"

    def _headers(self, message: Message | None = None, *, fresh: bool = False) -> dict[str, str]:
        try:
            token = (self._data_dir / TOKEN_FILE).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Gone(f"the token cannot be read: {error}", sent=False) from error
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "sexton-client": self._name,
        }
        if message is not None and _is_modern(message):
            return {**headers, "mcp-protocol-version": str(message["params"]["_meta"][_ENVELOPE])}
        if self._session is not None and not fresh and (message or {}).get("method") != "initialize":
            headers["mcp-session-id"] = self._session
            if self._version is not None:
                headers["mcp-protocol-version"] = self._version
        return headers

    def _fail(self, request_id: object, code: int, what: str) -> None:
        self._say(_dump({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": what}}))


async def _events(answer: httpx2.Response) -> AsyncIterator[bytes]:
    async for data, _ in _events_with_ids(answer):
        yield data


async def _events_with_ids(answer: httpx2.Response) -> AsyncIterator[tuple[bytes, str | None]]:
    """The data of each server-sent event, and its id; the endpoint writes each message on one line."""
    event_id: str | None = None
    rest = b""
    async for chunk in answer.aiter_bytes():
        # Not `aiter_lines`: it also cuts at characters that JSON may hold, such as U+2028.
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and len(line) > 6:
                yield line[6:], event_id
            elif line.startswith(b"id: "):
                event_id = line[4:].decode()


def _may_have_arrived(loss: Exception) -> bool:
    if isinstance(loss, Gone):
        return loss.sent
    return not isinstance(loss, httpx2.ConnectError | httpx2.ConnectTimeout)


def _is_modern(message: Message) -> bool:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and _ENVELOPE in meta


def _key(request_id: object) -> tuple[type, str]:
    """1 and "1" are two ids, and what is no id must not break us."""
    return type(request_id), json.dumps(request_id)


def _json_object(body: bytes) -> Message | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("jsonrpc") == "2.0" else None


def _words(body: bytes) -> str | None:
    """What a refusal says: a JSON-RPC error or a problem document."""
    try:
        said = json.loads(body)
        return str(said["error"]["message"] if "error" in said else said["detail"])
    except (ValueError, KeyError, TypeError):
        return None


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _dump(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
