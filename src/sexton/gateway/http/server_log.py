"""What a server wrote to its stderr: the last lines, and those that come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import final

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sexton.gateway.http.body import read_count
from sexton.gateway.http.disconnect import cancel_when_gone, cancel_when_set
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.servers import known_server
from sexton.threads import in_thread

MAX_LINES = 10_000
LOOK_EVERY = 0.5
_LONGEST = 16 * 1024 * 1024
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def show_server_log(gateway: Gateway, request: Request) -> Response:
    """The last lines that the server wrote to its stderr, each with its time; with `follow`, also those that come."""
    name = known_server(gateway, request.path_params["server"])
    count = read_count(request, "lines", default=200, most=MAX_LINES)
    path = gateway.data_dir / "logs" / f"{name}.log"
    if request.query_params.get("follow", "") in {"", "0", "false"}:
        text, _ = await in_thread(partial(last_lines, path, count))
        return PlainTextResponse(gateway.redactor.text(text), headers=_HEADERS)
    return FollowedLog(gateway, path, count)


def last_lines(path: Path, count: int) -> tuple[str, tuple[int, int]]:
    """The last lines of a rotated log, and the place to go on from: the file's inode and how much of it was read."""
    parts: list[bytes] = []
    place = (0, 0)
    for file in (path, path.with_name(path.name + ".1")):
        if sum(part.count(b"\n") for part in parts) >= count:
            break
        content, inode, size = _end_of(file)
        parts.insert(0, content)
        if file == path:
            place = (inode, size)
    lines = b"".join(parts).splitlines(keepends=True)[-count:]
    return b"".join(lines).decode("utf-8", "replace"), place


def _end_of(path: Path) -> tuple[bytes, int, int]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - _LONGEST))
            content = file.read(_LONGEST)
            return content, status.st_ino, status.st_size
    except OSError:  # it never ran, or wrote nothing
        return b"", 0, 0


def news_of(path: Path, place: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """The whole lines that were written since, also over a rotation, and the next place."""
    inode, offset = place
    text = b""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != inode:
                text = _rest_of(path.with_name(path.name + ".1"), inode, offset)
                inode, offset = status.st_ino, 0
            file.seek(offset)
            fresh = file.read(_LONGEST)
    except OSError:
        return "", place
    whole = fresh[: fresh.rfind(b"\n") + 1]
    return (text + whole).decode("utf-8", "replace"), (inode, offset + len(whole))


def _rest_of(path: Path, inode: int, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != inode:
                return b""
            file.seek(offset)
            return file.read(_LONGEST)
    except OSError:
        return b""


@final
class FollowedLog(Response):
    """Ends when the client goes away or the server closes."""

    media_type = "text/plain"

    def __init__(self, gateway: Gateway, path: Path, count: int) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._gateway = gateway
        self._path = path
        self._count = count

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_lines, send)
            tasks.start_soon(cancel_when_set, self._gateway.closing, tasks.cancel_scope)
            tasks.start_soon(cancel_when_gone, receive, tasks.cancel_scope)
        if self._gateway.closing.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_lines(self, send: Send) -> None:
        async for text in self._texts():
            body = self._gateway.redactor.text(text).encode("utf-8", "replace")
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _texts(self) -> AsyncIterator[str]:
        text, place = await in_thread(partial(last_lines, self._path, self._count))
        yield text
        while True:
            text, place = await in_thread(partial(news_of, self._path, place))
            if text:
                yield text
            await anyio.sleep(LOOK_EVERY)
