"""An HTTP receiver on loopback that keeps what it was sent and answers what a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Received:
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(kw_only=True)
class HttpPeer:
    url: str
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, Mapping[str, str], str]] = field(default_factory=list)
    """What to answer, one after the other; then `status`."""
    status: int = 200


@contextmanager
def http_peer() -> Iterator[HttpPeer]:
    """Its thread has ended when the block is left."""
    peer = HttpPeer(url="")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            peer.received.append(Received(path=self.path, headers=headers, body=body))
            status, more, text = peer.answers.pop(0) if peer.answers else (peer.status, {}, "")
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at `received`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
