"""A proxy on loopback that cuts a connection to PostgreSQL at its commit."""

from __future__ import annotations

import enum
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

TIMEOUT = 100.0


class Cut(enum.Enum):
    BEFORE = "the server never hears of the commit"
    AFTER = "the server has committed, and its answer is lost"


class CuttingProxy:
    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.next_commit: Cut | None = None
        self.takes_more = True
        self.cuts = 0
        self._clients: set[socket.socket] = set()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            if not self.takes_more:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def cut_off(self) -> None:
        """Cut every connection, and take none until `takes_more` is set again."""
        self.takes_more = False
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), closing(socket.create_connection(("127.0.0.1", self._target), TIMEOUT)) as server:
            client.settimeout(TIMEOUT)
            self._clients.add(client)
            if not self.takes_more:  # It was cut off in between.
                client.shutdown(socket.SHUT_RDWR)
            back = threading.Thread(target=self._pass_back, args=(server, client), daemon=True)
            swallow = False
            back.start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    cut = self.next_commit if b"COMMIT\0" in data else None
                    if cut is not None:
                        self.next_commit, swallow = None, True
                        self.cuts += 1
                        client.shutdown(socket.SHUT_WR)  # nothing that the server says from here on arrives
                    if cut is not Cut.BEFORE:
                        server.sendall(data)
                    if swallow:
                        break
            with suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join(TIMEOUT)
            self._clients.discard(client)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                with suppress(OSError):
                    client.sendall(data)


@contextmanager
def cutting_proxy(port: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(TIMEOUT)
