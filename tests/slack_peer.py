"""A peer that behaves as Slack does for an app in socket mode (https://docs.slack.dev/apis/events-api/using-socket-mode).

Envelopes that were not acknowledged are sent again on the next socket; a
socket's address serves once; floods get 429 with `Retry-After`; what is wrong
gets Slack's own error codes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

BOT_TOKEN, APP_TOKEN = "xoxb-1-test", "xapp-1-test"
BOT, ADA, DIRECT, ROOM = "U0BOT", "U0ADA", "D0ADA", "C0ALL"


@dataclass(kw_only=True)
class SlackPeer:
    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    """What the app said as it stands now, by the time of the message."""
    keeps: bool = False
    """Apps may not delete messages."""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refusals: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    """What the next messages get, one each: status, error, headers."""
    pending: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Envelopes without an acknowledgement."""
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    opened: int = 0
    tickets: set[str] = field(default_factory=set)
    uploads: dict[str, bytes] = field(default_factory=dict)
    next_id: int = 1
    stored: dict[str, bytes] = field(default_factory=dict)
    """Files that people sent."""
    loses: bool = False
    """Nobody is told of what is said: it stands in the history only."""

    async def write(self, text: str, *, sender: str = ADA, chat: str = DIRECT, **more: Any) -> dict[str, Any]:
        """Somebody writes."""
        ts = f"1795000000.{self._new():06}"
        kind = "im" if chat.startswith("D") else "channel"
        event = {"type": "message", "channel": chat, "channel_type": kind, "user": sender, "text": text, "ts": ts}
        event |= more
        self.history.setdefault(chat, []).append(event)
        if not self.loses:
            await self.tell(event)
        return event

    async def tell(self, event: dict[str, Any]) -> None:
        """An envelope of its own each time."""
        envelope_id = f"e{self._new()}"
        payload = {"type": "event_callback", "event": event}
        self.pending[envelope_id] = {"envelope_id": envelope_id, "type": "events_api", "payload": payload}
        for socket in self.sockets[-1:]:
            await socket.send_json(self.pending[envelope_id])

    @property
    def texts(self) -> list[str]:
        return [str(one["text"]) for one in self.sent]

    def _new(self) -> int:
        self.next_id += 1
        return self.next_id

    async def api(self, request: web.Request) -> web.Response:
        method, said = request.match_info["method"], await _read(request)
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if request.headers.get("Authorization") != f"Bearer {wanted}":
            return web.json_response({"ok": False, "error": "invalid_auth"})
        handler = getattr(self, "_" + method.replace(".", "_").lower(), None)
        answer = handler(said) if handler else _error("unknown_method")
        return answer if isinstance(answer, web.Response) else web.json_response({"ok": True, **answer})

    def _auth_test(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"user_id": BOT, "user": "sexton", "team": "Ours", "team_id": "T1"}

    def _apps_connections_open(self, _: dict[str, Any]) -> dict[str, Any]:
        ticket = f"t{self._new()}"
        self.tickets.add(ticket)
        return {"url": f"{self.url}/socket?ticket={ticket}"}

    def _users_info(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        return {"user": {"id": ADA, "real_name": "Ada"}} if said["user"] == ADA else _error("user_not_found")

    def _conversations_open(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        return {"channel": {"id": DIRECT}} if said["users"] == ADA else _error("user_not_found")

    def _conversations_history(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        if said["channel"] not in {DIRECT, ROOM}:
            return _error("channel_not_found")
        since = [one for one in self.history.get(said["channel"], []) if one["ts"] > said["oldest"]]
        told = [{key: value for key, value in one.items() if key not in {"channel", "channel_type"}} for one in since]
        return {"messages": told[::-1], "has_more": False}

    def _chat_postmessage(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        if self.refusals:
            status, error, headers = self.refusals.pop(0)
            return web.json_response({"ok": False, "error": error}, status=status, headers=headers)
        if said["channel"] not in {DIRECT, ROOM}:
            return _error("channel_not_found")
        if not said["text"].strip():
            return _error("no_text")
        if len(said["text"]) > 40_000:
            return _error("msg_too_long")
        self.sent.append(said)
        ts = f"1795000001.{self._new():06}"
        self.standing[ts] = said["text"]
        return {"ts": ts, "channel": said["channel"]}

    def _chat_update(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        if self.refusals:
            status, error, headers = self.refusals.pop(0)
            return web.json_response({"ok": False, "error": error}, status=status, headers=headers)
        if said["ts"] not in self.standing:
            return _error("message_not_found")
        self.standing[said["ts"]] = said["text"]
        return {"ts": said["ts"], "channel": said["channel"], "text": said["text"]}

    def _chat_delete(self, said: dict[str, Any]) -> dict[str, Any] | web.Response:
        if self.keeps:
            return _error("cant_delete_message")
        if self.standing.pop(said["ts"], None) is None:
            return _error("message_not_found")
        return {"ts": said["ts"], "channel": said["channel"]}

    def _files_getuploadurlexternal(self, said: dict[str, Any]) -> dict[str, Any]:
        file = f"F{self._new()}"
        return {"upload_url": f"{self.url}/upload/{file}", "file_id": file}

    def _files_completeuploadexternal(self, said: dict[str, Any]) -> dict[str, Any]:
        files = json.loads(said["files"]) if isinstance(said["files"], str) else said["files"]
        for file in files:
            self.files.append({**said, "name": file["title"], "content": self.uploads[file["id"]]})
        return {"files": files}

    def share(self, name: str, kind: str, content: bytes) -> dict[str, Any]:
        """The file as a message names it."""
        self.stored[name] = content
        url = f"{self.url}/download/{name}"
        return {"id": "F1", "name": name, "mimetype": kind, "size": len(content), "url_private_download": url}

    async def download(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {BOT_TOKEN}":
            raise web.HTTPFound("/login")
        return web.Response(body=self.stored[request.match_info["name"]])

    async def upload(self, request: web.Request) -> web.Response:
        self.uploads[request.match_info["file"]] = await _content(request)
        return web.Response(text="OK")

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        if request.query.get("ticket") not in self.tickets:
            raise web.HTTPForbidden
        self.tickets.discard(request.query["ticket"])
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.opened += 1
        await socket.send_json({"type": "hello", "num_connections": 1})
        self.sockets.append(socket)
        for envelope in list(self.pending.values()):
            await socket.send_json(envelope)
        try:
            async for message in socket:
                self.pending.pop(json.loads(message.data)["envelope_id"], None)
        finally:
            self.sockets.remove(socket)
        return socket


@asynccontextmanager
async def slack_peer() -> AsyncIterator[SlackPeer]:
    peer = SlackPeer()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/api/{method}", peer.api)
    app.router.add_get("/api/{method}", peer.api)
    app.router.add_post("/upload/{file}", peer.upload)
    app.router.add_get("/download/{name}", peer.download)
    app.router.add_get("/socket", peer.socket)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        peer.url = f"http://{host}:{port}"
        yield peer
    finally:
        with anyio.CancelScope(shield=True):
            for socket in list(peer.sockets):
                await socket.close()
            await runner.cleanup()


async def _read(request: web.Request) -> dict[str, Any]:
    if request.content_type == "application/json":
        return dict(await request.json())
    return {**request.query, **{key: str(value) for key, value in (await request.post()).items()}}


async def _content(request: web.Request) -> bytes:
    if not request.content_type.startswith("multipart/"):
        return await request.read()
    async for part in await request.multipart():
        return bytes(await part.read())  # type: ignore[union-attr]
    return b""


def _error(code: str) -> web.Response:
    return web.json_response({"ok": False, "error": code})
