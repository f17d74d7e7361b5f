"""uvicorn as we need it: quiet when nothing happens, and patient with nobody for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import anyio
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
MAX_HEAD_BYTES = 64 * 1024


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is not whole `HEAD_SECONDS` after it could have begun, or is too large.

    uvicorn bounds the wait for the next request of a connection, but neither for the first nor within a head; and
    its parser takes heads of any size.
    """

    _giving_up: asyncio.TimerHandle | None = None
    _awaits_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()
        if self._awaits_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._awaits_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Blanks around a value are no part of it (RFC 9110, 5.5); httptools leaves those at its end.
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._awaits_head = not self.pipeline
        super().on_response_complete()

    def _watch_head(self) -> None:
        if not self._awaits_head:
            self._stop_watching()
        elif self._giving_up is None:
            self._giving_up = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_watching(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        # A head may have become whole by an answer that let the next request in the buffer begin.
        if self._awaits_head and not self.transport.is_closing():
            self.transport.close()


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers (when the process ends is the daemon's decision), with events, and without
    the tick by which it wakes ten times a second, which keeps a laptop awake (`date` is set by `headers.SafeHeaders`).
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = anyio.Event()
        self.ended = anyio.Event()
        self._told_to_end = anyio.Event()

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until `end` is called and the connections are closed."""
        try:
            await self.serve([listener])
        finally:
            listener.close()
            self.ended.set()

    def end(self) -> None:
        """Take no more connections, and let those that there are come to their end."""
        self.should_exit = True
        self._told_to_end.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()

    async def main_loop(self) -> None:
        self.server_state.default_headers = list(self.config.encoded_headers)
        await self._told_to_end.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def quiet_config(app: Any, **more: Any) -> uvicorn.Config:
    """Our settings for uvicorn: nothing is logged, no header names it, no websockets."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        **more,
    )
