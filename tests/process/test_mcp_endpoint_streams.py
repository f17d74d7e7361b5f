"""The streams of calls: who gets one, and coming back for the rest of one (SEP-1699)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from process.endpoint_bench import EndpointBench, config, endpoint_bench
from sexton.gateway.mcp_endpoint import EndpointSettings, reply
from waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"elicitation": {}},
    "clientInfo": {"name": "bare", "version": "1"},
}
STREAM_FIRST = "text/event-stream, application/json"
JSON_FIRST = "application/json, text/event-stream"


class Comer:
    """A client that reads its streams itself."""

    def __init__(self, url: str, http: httpx2.AsyncClient, **headers: str) -> None:
        self._url = url
        self._http = http
        self._headers = {"accept": JSON_FIRST, "content-type": "application/json"} | headers

    async def greet(self, **hello: Any) -> None:
        answer = await self.post({"id": 0, "method": "initialize", "params": HELLO | hello})
        self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]

    async def post(self, message: dict[str, Any]) -> httpx2.Response:
        return await self._http.post(self._url, json={"jsonrpc": "2.0", **message}, headers=self._headers)

    @asynccontextmanager
    async def calling(self, tool: str, **arguments: Any) -> AsyncIterator[Events]:
        """The stream of a call with id 7, which ends when the block does."""
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        async with self._http.stream("POST", self._url, json=message, headers=self._headers) as response:
            assert response.headers["content-type"] == "text/event-stream"
            yield Events(response)

    @asynccontextmanager
    async def coming_back(self, last_event: str) -> AsyncIterator[Events]:
        headers = self._headers | {"last-event-id": last_event}
        async with self._http.stream("GET", self._url, headers=headers) as response:
            assert response.status_code == 200
            yield Events(response)

    async def answer(self, question: dict[str, Any], name: str) -> None:
        result = {"action": "accept", "content": {"name": name}}
        assert (await self.post({"id": question["id"], "result": result})).status_code == 202


class Events:
    """Each is its fields; comments are left out.  `last_id` is that of the last one that was taken."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""

    async def take(self) -> dict[str, str] | None:
        """Return the next event, None at the end of the stream."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif not line and fields:
                self.last_id = fields.get("id", self.last_id)
                return fields
        return None

    async def rest(self) -> AsyncIterator[dict[str, str]]:
        while (event := await self.take()) is not None:
            yield event

    async def message(self) -> dict[str, Any]:
        """Return the next event that says something."""
        while (event := await self.take()) is not None:
            if event.get("data"):
                said: dict[str, Any] = json.loads(event["data"])
                return said
        raise AssertionError("the stream ended")


ASK = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {"type": "object"}}}


@asynccontextmanager
async def comer(
    tmp_path: Path, settings: EndpointSettings | None = None, hello: dict[str, Any] | None = None, **headers: str
) -> AsyncIterator[tuple[Comer, EndpointBench]]:
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw, settings=settings) as bench, bench.http() as http:
        client = Comer(bench.url, http, **headers)
        await client.greet(**(hello or {}))
        yield client, bench


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (JSON_FIRST, "application/json"),
        (STREAM_FIRST, "text/event-stream"),
        ("application/json;q=0.5, text/event-stream", "text/event-stream"),
        ("text/event-stream;q=0.5, application/json", "application/json"),
        ("text/event-stream;q=x, application/json;q=0.1", "application/json"),
        ("*/*", "application/json"),
    ],
)
async def test_a_client_gets_the_form_that_it_would_rather_have(tmp_path: Path, accept: str, kind: str) -> None:
    async with comer(tmp_path, accept=accept) as (client, _):
        answer = await client.post({"id": 1, "method": "tools/list"})
        assert answer.headers["content-type"] == kind
        assert '"raw__echo"' in answer.text


async def test_a_stream_begins_with_what_a_client_needs_to_come_back(tmp_path: Path) -> None:
    async with comer(tmp_path, accept=STREAM_FIRST) as (client, _), client.calling("raw__echo", text="hi") as events:
        assert await events.take() == {"id": events.last_id, "retry": str(reply.RETRY_MS), "data": ""}
        answer = await events.take()
        assert answer is not None
        assert answer["id"] == events.last_id
        assert json.loads(answer["data"])["result"]["content"][0]["text"] == "hi"
        assert await events.take() is None


async def test_an_older_client_gets_no_event_that_says_nothing(tmp_path: Path) -> None:
    async with (
        comer(tmp_path, accept=STREAM_FIRST, hello={"protocolVersion": "2025-06-18"}) as (client, _),
        client.calling("raw__echo", text="hi") as events,
    ):
        first = await events.take()
        assert first is not None
        assert json.loads(first["data"])["id"] == 7


async def test_a_client_whose_stream_broke_comes_back_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked something, loses the stream, answers, and hears the question again and then the result."""
    monkeypatch.setattr(reply, "BACK_WITHIN", 600.0)
    async with comer(tmp_path, accept=STREAM_FIRST) as (client, _):
        async with client.calling("raw__ask", **ASK) as events:
            await events.take()
            primed = events.last_id
            question = await events.message()
            asked = events.last_id
        async with client.coming_back(primed) as events:
            assert await events.message() == question
        async with client.coming_back(asked) as events:
            await client.answer(question, "Ada")
            result = await events.message()
            assert (result["id"], "Ada" in str(result["result"])) == (7, True)
            assert await events.take() is None
        async with client.coming_back(asked) as events:  # also when it is all over
            assert await events.message() == result


async def test_a_client_that_does_not_come_back_takes_its_call_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "BACK_WITHIN", 0.05)
    async with comer(tmp_path, accept=STREAM_FIRST) as (client, bench):
        async with client.calling("raw__sleep", seconds=600) as events:
            await events.take()
            await wait_until(lambda: bench.pool.status()[0].calls == 1)
        await wait_until(lambda: not bench.endpoint.core.replies, seconds=30)
        async with bench.pool.lease("raw", holder="test", returns=False) as lease:
            assert len(json.loads((await lease.call_tool("cancelled")).content[0].text)) == 1  # type: ignore[union-attr]


async def test_a_stream_that_was_closed_goes_on_when_its_client_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "BACK_WITHIN", 600.0)
    settings = EndpointSettings(close_streams_after=0.05)
    async with comer(tmp_path, settings, accept=STREAM_FIRST) as (client, bench):
        said: list[dict[str, str]] = []
        last = ""

        async def hear(event: dict[str, str]) -> None:
            said.append(event)
            if "elicitation/create" in event["data"]:
                await client.answer(json.loads(event["data"]), "Ada")

        async with client.calling("raw__ask", **ASK) as events:
            heard = [event async for event in events.rest()]  # it is closed, for nobody has answered yet
            last = events.last_id
        assert len(bench.endpoint.core.replies) == 1
        for event in heard:
            await hear(event)
        with anyio.fail_after(60):
            while not is_told(said, "Ada"):
                async with client.coming_back(last) as events:
                    async for event in events.rest():
                        last = events.last_id
                        await hear(event)
        assert [event["data"] for event in said].count("") == 1
        assert len(said) == 3


def is_told(events: list[dict[str, str]], words: str) -> bool:
    return any(words in event["data"] for event in events)


async def test_a_stream_of_which_nothing_is_kept_is_refused(tmp_path: Path) -> None:
    async with comer(tmp_path, accept=STREAM_FIRST) as (client, bench):
        for last_event in ("9-1", "1-x", "x-1", "-", "1-" + "9" * 100):
            headers = client._headers | {"last-event-id": last_event}
            assert (await client._http.get(bench.url, headers=headers)).status_code == 400
        for _ in range(40):
            async with client.calling("raw__echo", text="hi") as events:
                await events.message()
        (session,) = bench.endpoint.core.sessions.values()
        assert session.stream("1") is None
        assert len(session._streams) == 16


async def test_a_client_that_cancels_after_it_lost_the_stream_hears_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "BACK_WITHIN", 600.0)
    async with comer(tmp_path, accept=STREAM_FIRST) as (client, bench):
        async with client.calling("raw__sleep", seconds=600) as events:
            await events.take()
            primed = events.last_id
            await wait_until(lambda: bench.pool.status()[0].calls == 1)
        await client.post({"method": "notifications/cancelled", "params": {"requestId": 7}})
        async with client.coming_back(primed) as events:
            with anyio.fail_after(30):
                assert (await events.message())["error"]["message"] == "Request cancelled"
                assert await events.take() is None
