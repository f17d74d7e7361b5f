"""An HTTP client that costs next to nothing, so that what is measured is the server.

One keep-alive connection a client; requests are bytes made once; of an answer
it reads the status, the few headers that say where it ends, and the body.
Sources: RFC 9112; MCP specification 2025-11-25 and 2026-07-28, "Streamable HTTP".
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

ACCEPT = "application/json, text/event-stream"
MODERN = "2026-07-28"
CLIENT_INFO = {"name": "bench", "version": "1"}


class RawClient:
    """One connection to `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        self.headers: dict[str, str] = {}
        self._address = host, port

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, host: str, port: int, headers: Mapping[str, str]) -> AsyncIterator[Self]:
        """Connected until left."""
        client = cls(host, port)
        client.headers |= headers
        await client._connect()
        try:
            yield client
        finally:
            client._writer.close()

    def request(self, path: str, document: Any) -> bytes:
        """A POST of `document`, ready to be sent as often as wanted."""
        body = json.dumps(document).encode()
        fields = {
            "host": f"{self._address[0]}:{self._address[1]}",
            "accept": ACCEPT,
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        return f"POST {path} HTTP/1.1\r\n{_lines(fields)}\r\n".encode() + body

    async def send(self, request: bytes) -> tuple[dict[str, str], bytes]:
        """The headers and the body of the answer.  Raises RuntimeError if it is no success."""
        if self._reader.at_eof():  # it was idle for too long for the server
            self._writer.close()
            await self._connect()
        self._writer.write(request)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await self._body(headers)
        if not status.startswith("HTTP/1.1 2"):
            raise RuntimeError(f"{status}: {body[:500]!r}")
        return headers, body

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        chunks = []
        while size := int(await self._reader.readline(), 16):
            chunks.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)
        return b"".join(chunks)


async def initialize(client: RawClient, path: str) -> None:
    """Begin an MCP session; its id goes with every later request."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT_INFO}
    headers, body = await client.send(client.request(path, _message("initialize", params) | {"id": 0}))
    result = body_message(body)["result"]
    client.headers["mcp-protocol-version"] = result["protocolVersion"]
    if (session := headers.get("mcp-session-id")) is not None:
        client.headers["mcp-session-id"] = session
    await client.send(client.request(path, _message("notifications/initialized", None)))


def tool_call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A `tools/call` as JSON-RPC."""
    return _message("tools/call", {"name": name, "arguments": dict(arguments)}) | {"id": 1}


def modern_tool_call(client: RawClient, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the way of 2026-07-28: every request says who asks, and its headers say what it asks."""
    client.headers |= {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": name}
    call = tool_call(name, arguments)
    call["params"]["_meta"] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": CLIENT_INFO,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return call


def body_message(body: bytes) -> Any:
    """The JSON-RPC response in `body`: JSON as it is, or the last event with data."""
    if body.lstrip().startswith(b"{"):
        return json.loads(body)
    return json.loads([line[5:] for line in body.splitlines() if line.startswith(b"data:") and line[5:].strip()][-1])


def _message(method: str, params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method} | ({"params": params} if params is not None else {})


def _lines(fields: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())
