"""Requests to a gateway that go on in the background, as those of its other clients do."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, final
from urllib.parse import urlsplit

from system.gateway_process import GatewayProcess
from waiting import PATIENCE


@final
class ApiClient:
    """One client, with the address and the token that are in the data folder now."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._address = str(urlsplit(json.loads((gateway.data / "gateway.json").read_text())["url"]).netloc)
        self._headers = {"authorization": f"Bearer {(gateway.data / 'token').read_text().strip()}"}

    def connect(self, *, within: float = PATIENCE) -> http.client.HTTPConnection:
        """A connection for one request after the other; closing it is the caller's."""
        connection = http.client.HTTPConnection(self._address, timeout=within)
        connection.connect()
        return connection

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        within: float = PATIENCE,
        over: http.client.HTTPConnection | None = None,
        below: str = "/api/v1",
    ) -> tuple[int, Any]:
        """The status and the document of the answer.  Raises OSError or HTTPException where there is none."""
        if over is None:
            with closing(self.connect(within=within)) as connection:
                return self.ask(method, path, body, over=connection, below=below)
        headers = {**self._headers, **({"content-type": "application/json"} if body is not None else {})}
        over.request(method, f"{below}{path}", None if body is None else json.dumps(body), headers)
        answer = over.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def call(self, server: str, tool: str, **arguments: Any) -> Flight:
        """Begin a tool call; it is on its way when this returns, and its answer is awaited by another thread."""
        return Flight(self, server, tool, arguments)

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """An open stream of events."""
        with closing(http.client.HTTPConnection(self._address, timeout=PATIENCE)) as connection:
            connection.request("GET", "/api/v1/events", None, self._headers)
            with connection.getresponse() as stream:
                yield stream


@final
class Flight:
    """A tool call in flight."""

    def __init__(self, client: ApiClient, server: str, tool: str, arguments: dict[str, Any]) -> None:
        self._answer: tuple[int, Any] | None = None
        self._failure: Exception | None = None
        body = {"server": server, "tool": tool, "arguments": arguments}
        self._thread = threading.Thread(target=self._fly, args=(client, body), daemon=True)
        self._thread.start()

    def has_landed(self) -> bool:
        return not self._thread.is_alive()

    def answer(self, *, within: float) -> tuple[int, Any]:
        """What came back.  Raises AssertionError when nothing did: no call may be lost without an answer."""
        self._thread.join(within)
        if self._answer is None:
            raise AssertionError(f"no answer within {within} s: {self._failure!r}")
        return self._answer

    def text(self, *, within: float) -> str:
        """The text of a result that is no error."""
        status, document = self.answer(within=within)
        assert status == 200, document
        assert not document["is_error"], document
        return str(document["text"])

    def _fly(self, client: ApiClient, body: dict[str, Any]) -> None:
        try:
            self._answer = client.ask("POST", "/calls", body, within=120)
        except (OSError, http.client.HTTPException) as failure:
            self._failure = failure


def holders(gateway: GatewayProcess) -> list[str]:
    """Who uses any of its servers, by the gateway's own list."""
    status, servers = ApiClient(gateway).ask("GET", "/servers")
    assert status == 200, servers
    return [str(holder) for server in servers for holder in server["holders"]]
