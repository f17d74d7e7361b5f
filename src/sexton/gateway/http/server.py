"""The gateway's HTTP server: uvicorn on a loopback address, inside the daemon's own event loop."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import anyio
import uvicorn
from starlette.routing import BaseRoute

from sexton.errors import SextonError
from sexton.gateway.address import Address, forget_address, write_address
from sexton.gateway.http.acceptance import told_failures
from sexton.gateway.http.app import create_app
from sexton.gateway.http.auth import LOOPBACK_NAMES, Gate, load_token
from sexton.gateway.http.endpoint import Endpoint, WayIn
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import MORE_DESCRIPTORS

PATIENCE = 3.0  # seconds that a call which still runs at the end gets, before it is cancelled
_LAST_SECONDS = 2  # and then, until its connection is cut
_BACKLOG = 256


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers (when the process ends is the daemon's decision), and with events."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = anyio.Event()
        self.ended = anyio.Event()

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until `should_exit` is set and the connections are closed."""
        try:
            await self.serve([listener])
        finally:
            listener.close()
            self.ended.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_http(
    gateway: Gateway,
    *,
    data_dir: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    patience: float = PATIENCE,
    ways: Sequence[WayIn] = (),
    endpoints: Sequence[Endpoint] = (),
    pages: Sequence[BaseRoute] = (),
) -> AsyncIterator[str]:
    """Serve the API, and what else `create_app` is given, while the context lasts; yields the URL once it answers.

    `port` 0 takes any free one.  Makes the token if there is none and publishes the address in `data_dir`.  Leaving
    ends open event streams at once, gives running requests `patience` seconds (none if it is left by a cancellation),
    then cancels them; the address file is gone before the port closes.  Raises `SextonError` if the port cannot be had
    or the token not be trusted.
    """
    token = load_token(data_dir)
    listener = listen(host, port)
    url = _url(host, listener.getsockname()[1])
    app = create_app(
        gateway,
        gate=Gate(token=token, host_names=_names(host)),
        ways=ways,
        endpoints=endpoints,
        pages=pages,
    )
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(patience) + _LAST_SECONDS,
        backlog=_BACKLOG,
    )
    server = _Uvicorn(config)

    def tell_refusal(reason: str) -> None:
        what = f"No connection can be taken ({reason}); clients wait."
        gateway.journal.append("gateway.cannot_accept", subject="gateway", what=what, hint=MORE_DESCRIPTORS)

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(told_failures(tell_refusal))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        try:
            tasks.start_soon(server.run_on, listener)
            with anyio.fail_after(10):
                await server.serves.wait()
            write_address(data_dir, Address.of_this_process(url, started_at=gateway.clock.now()))
            yield url
        except anyio.get_cancelled_exc_class():
            patience = 0.0
            gateway.cutting_off.set()  # before the servers go, so that no call blames its server
            raise
        finally:
            forget_address(data_dir, pid=os.getpid())
            gateway.closing.set()
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await _wait_ended(server, gateway, patience)
            tasks.cancel_scope.cancel()


async def _wait_ended(server: _Uvicorn, gateway: Gateway, patience: float) -> None:
    with anyio.move_on_after(patience):
        await server.ended.wait()
    gateway.cutting_off.set()
    with anyio.move_on_after(_LAST_SECONDS + 1):
        await server.ended.wait()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises `SextonError` if the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and accepted ones do not:
        # the body of an answer then waits 40 ms for the client to acknowledge the head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SextonError(
            f"The gateway cannot listen on {host} port {port}: {error.strerror or error}.",
            hint="write listen = '127.0.0.1:0' in sexton.toml (0 takes any free port), or stop what uses this one",
        ) from error
    return listener


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _names(host: str) -> frozenset[str]:
    """The names under which clients may ask; an address that was configured beyond loopback is one of them."""
    return frozenset(LOOPBACK_NAMES) if _is_loopback(host) else frozenset((*LOOPBACK_NAMES, host.lower()))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
