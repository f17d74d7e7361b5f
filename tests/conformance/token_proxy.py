"""Lets a client in that cannot send a token, as the conformance suite cannot.

Passes bytes on as they are, but for the head of each request: it gets the
token, and where it names the proxy (Host, Origin) it names the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, final

END_OF_HEAD: Final = b"\r\n\r\n"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProxy:
    """From `own` address to `target`, both as HOST:PORT."""

    own: str
    target: str
    token: str

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, target: str, token: str) -> AsyncIterator[TokenProxy]:
        """Serve on a free port of the loopback."""
        async with asyncio.TaskGroup() as tasks:

            async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                serving = tasks.create_task(proxy.serve(reader, writer))
                open_now.add(serving)
                serving.add_done_callback(open_now.discard)

            open_now: set[asyncio.Task[None]] = set()
            server = await asyncio.start_server(meet, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            proxy = cls(own=f"{host}:{port}", target=target, token=token)
            try:
                yield proxy
            finally:
                server.close()
                for serving in open_now:
                    serving.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection until either side closes it."""
        host, port = self.target.split(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        up = asyncio.create_task(self._pass_requests(reader, up_writer))
        down = asyncio.create_task(_pass_bytes(up_reader, writer))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            for each in (up_writer, writer):
                each.close()

    async def _pass_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(END_OF_HEAD)
                writer.write(self.admitted(head) + await reader.readexactly(body_length(head)))
                await writer.drain()

    def admitted(self, head: bytes) -> bytes:
        """`head` with the token, and with the gateway's address in place of ours."""
        lines = head.removesuffix(END_OF_HEAD).replace(self.own.encode(), self.target.encode())
        return lines + f"\r\nAuthorization: Bearer {self.token}".encode() + END_OF_HEAD


def body_length(head: bytes) -> int:
    """Return the length of the body after `head`, in bytes.  Raises ValueError for a chunked one."""
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"transfer-encoding" in headers:
        raise ValueError("a chunked request")
    return int(headers.get(b"content-length", b"0"))


async def _pass_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
