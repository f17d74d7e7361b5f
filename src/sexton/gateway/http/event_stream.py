"""The journal as server-sent events (WHATWG HTML, section 9.2).

Each event carries the journal's id, so a client that lost its connection sends `Last-Event-ID` and misses nothing that
the journal still has; where it has it no longer, the journal's `journal.gap` event says so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import final

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sexton.gateway.documents import EventDocument, NodeEventDocument
from sexton.gateway.http.body import read_count, read_time
from sexton.gateway.http.disconnect import cancel_when_gone, cancel_when_set
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import bad_request
from sexton.gateway.journal_archive import NodeEvent
from sexton.journal import GAP, Event, Journal

KEEP_ALIVE = 15.0  # a comment this often keeps proxies content and finds out clients that went away
SEND_SECONDS = 30.0  # a client that takes nothing for so long is dropped; it can resume by the id
MAX_LISTED = 1000
_NO_ID = 10**9
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def stream_events(gateway: Gateway, request: Request) -> Response:
    """Follow the journal: from now on, or from after the id in `Last-Event-ID` (header) or `after` (query; 0 is all).

    `kind` (query, may be repeated) keeps the kinds that begin with it; `subject` (query) keeps those of one subject.
    `unnamed` (query) leaves the names out: the EventSource of a browser hears a name only if it was told of it before.
    """
    kinds = tuple(request.query_params.getlist("kind"))
    subject = request.query_params.get("subject")

    def is_wanted(event: Event) -> bool:
        return (not kinds or event.kind.startswith(kinds) or event.kind == GAP) and subject in (None, event.subject)

    frame = unnamed_frame if "unnamed" in request.query_params else event_frame
    frames = _journal_frames(gateway, after=_resume_point(gateway, request), is_wanted=is_wanted, frame=frame)
    return FrameStream(gateway, frames)


async def list_events(gateway: Gateway, request: Request) -> Sequence[EventDocument]:
    """What the journal still has in memory, the newest first.

    Query: `kind` and `subject` as in the stream, `text` (anywhere in the event, case does not count), `limit` (default
    100), `before` (the id to go on from).
    """
    query = request.query_params
    wanted = wanted_events(
        gateway.journal,
        kinds=tuple(query.getlist("kind")),
        subject=query.get("subject"),
        text=query.get("text", ""),
        before=read_count(request, "before", default=_NO_ID, most=_NO_ID),
    )
    return list(islice(wanted, read_count(request, "limit", default=100, most=MAX_LISTED)))


async def list_node_events(gateway: Gateway, request: Request) -> Sequence[NodeEventDocument]:
    """What happened on all nodes of the database, the newest first; without PostgreSQL there is one node: this one.

    Query: `node`, `kind`, `subject`, `text`, `since` (a time), `limit`, `before` (the id to go on from), and
    `after` (an id: those that came first after it, to follow what comes).
    """
    query = request.query_params
    kinds, subject, node = tuple(query.getlist("kind")), query.get("subject"), query.get("node")
    text, since = query.get("text", ""), read_time(request, "since")
    before = read_count(request, "before", default=_NO_ID, most=_NO_ID)
    after = read_count(request, "after", default=0, most=_NO_ID, least=0) if "after" in query else None
    limit = read_count(request, "limit", default=100, most=MAX_LISTED)
    if gateway.archive is None:
        if node not in (None, gateway.node):
            return []
        own = wanted_events(gateway.journal, kinds=kinds, subject=subject, text=text, before=before)
        found = [
            NodeEventDocument(**told, node=gateway.node, number=told["id"]) for told in own if _is_after(told, since)
        ]
        return found[:limit] if after is None else [told for told in found if told["id"] > after][-limit:]
    archived = await gateway.archive.events(
        node=node, kinds=kinds, subject=subject, text=text, since=since, before=before, after=after, limit=limit
    )
    return [node_event_document(each) for each in archived]


def _is_after(told: EventDocument, since: datetime | None) -> bool:
    return since is None or datetime.fromisoformat(told["at"]) >= since


def node_event_document(found: NodeEvent) -> NodeEventDocument:
    told = found.event
    return NodeEventDocument(
        id=found.id,
        node=found.node,
        number=told.id,
        at=told.at.isoformat(),
        kind=told.kind,
        subject=told.subject,
        data=told.data,
    )


def wanted_events(
    journal: Journal, *, kinds: tuple[str, ...] = (), subject: str | None = None, text: str = "", before: int = _NO_ID
) -> Iterator[EventDocument]:
    """Newest first."""
    sought = text.casefold()
    for event in reversed(journal.since(0)):
        if event.id >= before or (kinds and not event.kind.startswith(kinds)) or subject not in (None, event.subject):
            continue
        document = EventDocument(
            id=event.id, at=event.at.isoformat(), kind=event.kind, subject=event.subject, data=event.data
        )
        if not sought or sought in json.dumps(document, ensure_ascii=False, default=str).casefold():
            yield document


def event_frame(event: Event) -> bytes:
    """One event as it stands on the wire.  JSON escapes line ends, so the data is always one line."""
    return f"id: {event.id}\nevent: {event.kind}\n".encode() + _data_line(event)


def unnamed_frame(event: Event) -> bytes:
    return f"id: {event.id}\n".encode() + _data_line(event)


def _data_line(event: Event) -> bytes:
    document = json.dumps(event.as_json(), ensure_ascii=False, default=str)
    return f"data: {document}\n\n".encode("utf-8", "replace")


def _resume_point(gateway: Gateway, request: Request) -> int | None:
    """The id to go on from.  One that this journal has not reached is another journal's: then everything is news."""
    said = request.headers.get("last-event-id") or request.query_params.get("after")
    if not said:
        return None
    if not (said.isascii() and said.isdecimal()):
        raise bad_request(f"The place to go on from must be the id of an event, a whole number, not {said!r}.")
    return 0 if int(said[:20]) > gateway.journal.last_id else int(said)


class FrameStream(Response):
    """A response that ends when the client goes away, the server closes, or there are no more frames."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, frames: AsyncIterator[bytes]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._gateway = gateway
        self._frames = frames
        self._is_whole = False

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            line = _Line(send, tasks.cancel_scope)
            tasks.start_soon(self._send_frames, line, tasks.cancel_scope)
            tasks.start_soon(self._send_comments, line)
            tasks.start_soon(cancel_when_set, self._gateway.closing, tasks.cancel_scope)
            tasks.start_soon(cancel_when_gone, receive, tasks.cancel_scope)
        if self._is_whole or self._gateway.closing.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, line: _Line, scope: anyio.CancelScope) -> None:
        await line.write(b"retry: 1000\n\n")
        async for frame in self._frames:
            await line.write(frame)
        self._is_whole = True
        scope.cancel()

    async def _send_comments(self, line: _Line) -> None:
        while True:
            await anyio.sleep(KEEP_ALIVE)
            await line.write(b": still here\n\n")


async def _journal_frames(
    gateway: Gateway,
    *,
    after: int | None,
    is_wanted: Callable[[Event], bool],
    frame: Callable[[Event], bytes],
) -> AsyncIterator[bytes]:
    async for event in gateway.journal.subscribe(after):
        if is_wanted(event):
            yield frame(event)


@final
class _Line:
    """The connection to one client; gives up on one that takes nothing."""

    def __init__(self, send: Send, scope: anyio.CancelScope) -> None:
        self._send = send
        self._scope = scope

    async def write(self, frame: bytes) -> None:
        with anyio.move_on_after(SEND_SECONDS) as bound:
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        if bound.cancelled_caught:
            self._scope.cancel()
