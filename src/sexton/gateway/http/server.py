"""The gateway's HTTP server: uvicorn inside the daemon's own event loop."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from starlette.routing import BaseRoute

from sexton.errors import SextonError
from sexton.gateway.address import Address, forget_address, write_address
from sexton.gateway.http.acceptance import told_failures
from sexton.gateway.http.app import create_app
from sexton.gateway.http.auth import Gate, load_token
from sexton.gateway.http.connections import QuietServer, quiet_config
from sexton.gateway.http.endpoint import Endpoint, WayIn
from sexton.gateway.http.listening import Listening
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import MORE_DESCRIPTORS

PATIENCE = 3.0  # seconds that a call which still runs at the end gets, before it is cancelled
_LAST_SECONDS = 2  # and then, until its connection is cut
_BACKLOG = 256


@asynccontextmanager
async def serve_http(
    gateway: Gateway,
    *,
    data_dir: Path,
    listening: Listening | None = None,
    listener: socket.socket | None = None,
    patience: float = PATIENCE,
    ways: Sequence[WayIn] = (),
    endpoints: Sequence[Endpoint] = (),
    pages: Sequence[BaseRoute] = (),
) -> AsyncIterator[str]:
    """Serve the API, and what else `create_app` is given, while the context lasts; yields the URL once it answers.

    Without `listening` it takes any free port of 127.0.0.1; `listener` is what `reserved_port` returned for it, if that
    was asked before.  Makes the token if there is none and publishes the address
    in `data_dir`.  Leaving ends open event streams at once, gives running requests `patience` seconds (none if it is
    left by a cancellation), then cancels them; the address file is gone before the port closes.  Raises `SextonError`
    if the port cannot be had or the token not be trusted.
    """
    token = load_token(data_dir)
    listening = listening or Listening()
    listener = start_listening(listener or reserved_port(listening.host, listening.port))
    url = listening.url(listener.getsockname()[1])
    app = create_app(
        gateway,
        gate=Gate(token=token, host_names=listening.host_names),
        ways=ways,
        endpoints=endpoints,
        pages=pages,
    )
    config = quiet_config(
        listening.wrapped(app),
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        timeout_graceful_shutdown=math.ceil(patience) + _LAST_SECONDS,
        backlog=_BACKLOG,
    )
    server = QuietServer(config)

    def tell_refusal(reason: str) -> None:
        what = f"No connection can be taken ({reason}); clients wait."
        gateway.journal.append("gateway.cannot_accept", subject="gateway", what=what, hint=MORE_DESCRIPTORS)

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(told_failures(tell_refusal))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        try:
            tasks.start_soon(server.run_on, listener)
            if gateway.keyring is not None:
                watch = partial(gateway.open_requests.keep_watch, gateway.keyring.caller_of_id, clock=gateway.clock)
                tasks.start_soon(watch)
            with anyio.fail_after(10):
                await server.serves.wait()
            certificate = None if listening.certificate is None else str(listening.certificate.resolve())
            address = Address.of_this_process(url, started_at=gateway.clock.now(), certificate=certificate)
            write_address(data_dir, address)
            yield url
        except anyio.get_cancelled_exc_class():
            patience = 0.0
            raise
        finally:
            forget_address(data_dir, pid=os.getpid())
            gateway.closing.set()
            server.end()
            with anyio.CancelScope(shield=True):
                await _wait_ended(server, gateway, patience)
            tasks.cancel_scope.cancel()


async def _wait_ended(server: QuietServer, gateway: Gateway, patience: float) -> None:
    with anyio.move_on_after(patience):
        await server.ended.wait()
    gateway.cutting_off.set()
    with anyio.move_on_after(_LAST_SECONDS + 1):
        await server.ended.wait()


def reserved_port(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen yet.  Raises `SextonError` if the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and accepted ones do not:
        # the body of an answer then waits 40 ms for the client to acknowledge the head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def start_listening(listener: socket.socket) -> socket.socket:
    """Take connections.  Raises `SextonError`: with SO_REUSEADDR another one may have the same port, and be first."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> SextonError:
    return SextonError(
        f"The gateway cannot listen on {host} port {port}: {error.strerror or error}.",
        hint="write listen = '127.0.0.1:0' in sexton.toml (0 takes any free port), or stop what uses this one",
    )
