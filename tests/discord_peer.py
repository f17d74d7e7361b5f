"""A peer that behaves as Discord's gateway and REST API do (https://docs.discord.com/developers/events/gateway).

One zlib stream for each connection; a connection that broke is resumed with
what came in between; a nonce that was used before gives the message that it
made; floods get 429 with `retry_after`; what is wrong gets Discord's own codes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

TOKEN = "MTIz.test.token-of-a-bot-that-is-none"
BOT = {"id": "123", "username": "sexton", "discriminator": "0", "avatar": None, "bot": True}
ADA = {"id": "7", "username": "ada", "global_name": "Ada", "discriminator": "0", "avatar": None}
EVE = {"id": "8", "username": "eve", "global_name": "Eve", "discriminator": "0", "avatar": None}
PEOPLE = {one["id"]: one for one in (ADA, EVE)}
DIRECT, ROOM, GUILD = "700", "900", "90"


@dataclass
class _Connection:
    socket: web.WebSocketResponse
    stream: Any = field(default_factory=zlib.compressobj)

    async def send(self, document: dict[str, Any]) -> None:
        raw = json.dumps(document).encode()
        await self.socket.send_bytes(self.stream.compress(raw) + self.stream.flush(zlib.Z_SYNC_FLUSH))


@dataclass(kw_only=True)
class DiscordPeer:
    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    typing: list[str] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    """What the bot said as it stands now, by the id of the message."""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    by_nonce: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: list[web.Response] = field(default_factory=list)
    """What the next messages get, one each."""
    loses_answers: int = 0
    """So many messages are taken, and the connection breaks before the answer."""
    events: list[dict[str, Any]] = field(default_factory=list)
    connections: list[_Connection] = field(default_factory=list)
    identified: int = 0
    resumed: int = 0
    stored: dict[str, bytes] = field(default_factory=dict)
    """Files that people sent."""
    next_id: int = 1_000

    async def write(
        self, text: str, *, sender: dict[str, Any] = ADA, chat: str = DIRECT, told: bool = True, **more: Any
    ) -> dict[str, Any]:
        """Somebody writes; `told` False: it is only in the history."""
        message = self._message(text, sender, chat, **more)
        self.history.setdefault(chat, []).append(message)
        if told:
            await self.tell({**message, "guild_id": GUILD} if chat == ROOM else message)
        return message

    async def tell(self, message: dict[str, Any]) -> None:
        self.events.append({"op": 0, "t": "MESSAGE_CREATE", "s": len(self.events) + 2, "d": message})
        for connection in self.connections:
            await connection.send(self.events[-1])

    async def break_connections(self, code: int = 4000) -> None:
        for connection in self.connections:
            await connection.socket.close(code=code)
        self.connections.clear()

    @property
    def texts(self) -> list[str]:
        return [str(one.get("content")) for one in self.sent]

    def _new(self) -> str:
        self.next_id += 1
        return str(self.next_id)

    def _message(self, text: str, sender: dict[str, Any], chat: str, **more: Any) -> dict[str, Any]:
        return {
            "id": self._new(),
            "type": 0,
            "channel_id": chat,
            "author": sender,
            "content": text,
            "timestamp": "2026-11-22T10:00:00+00:00",
            "edited_timestamp": None,
            "tts": False,
            "pinned": False,
            "mention_everyone": False,
            "mentions": [BOT] if f"<@{BOT['id']}>" in text else [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [],
            **more,
        }

    # REST

    @web.middleware
    async def check_token(self, request: web.Request, handler: Any) -> Any:
        if request.path.startswith("/api") and request.headers.get("Authorization") != f"Bot {TOKEN}":
            return reply({"message": "401: Unauthorized", "code": 0}, status=401)
        return await handler(request)

    async def me(self, _: web.Request) -> web.Response:
        return reply(BOT)

    async def application(self, _: web.Request) -> web.Response:
        named = {"id": "123", "name": "sexton", "description": "", "icon": None, "bot_public": False, "flags": 0}
        return reply({**named, "bot_require_code_grant": False, "verify_key": "", "owner": ADA})

    async def user(self, request: web.Request) -> web.Response:
        person = PEOPLE.get(request.match_info["user"])
        return reply(person) if person else unknown(10013, "Unknown User")

    async def open_direct(self, request: web.Request) -> web.Response:
        assert (await request.json())["recipient_id"] == 7
        return reply(_channel(DIRECT))

    async def channel(self, request: web.Request) -> web.Response:
        chat = request.match_info["channel"]
        return reply(_channel(chat)) if chat in {DIRECT, ROOM} else unknown(10003, "Unknown Channel")

    async def messages(self, request: web.Request) -> web.Response:
        after, limit = int(request.query.get("after", 0)), int(request.query.get("limit", 50))
        since = [one for one in self.history.get(request.match_info["channel"], []) if int(one["id"]) > after]
        return reply(since[:limit][::-1])

    async def send(self, request: web.Request) -> web.Response:
        chat = request.match_info["channel"]
        if self.refusals:
            return self.refusals.pop(0)
        if chat not in {DIRECT, ROOM}:
            return unknown(10003, "Unknown Channel")
        said, files = await _read(request)
        if len(said.get("content") or "") > 2_000 or not (said.get("content") or files):
            return reply({"message": "Invalid Form Body", "code": 50035}, status=400)
        known = self.by_nonce.get(str(said.get("nonce"))) if said.get("enforce_nonce") else None
        made = known or self._message(str(said.get("content")), BOT, chat)
        if known is None:
            self.sent.append({**said, "channel": chat, "id": made["id"]})
            self.standing[made["id"]] = made["content"]
            self.files += files
            self.by_nonce[str(said.get("nonce"))] = made
        if self.loses_answers:
            self.loses_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return reply(made)

    async def change(self, request: web.Request) -> web.Response:
        if self.refusals:
            return self.refusals.pop(0)
        message = request.match_info["message"]
        if message not in self.standing:
            return unknown(10008, "Unknown Message")
        self.standing[message] = str((await request.json())["content"])
        return reply({**self._message(self.standing[message], BOT, request.match_info["channel"]), "id": message})

    async def remove(self, request: web.Request) -> web.Response:
        if self.standing.pop(request.match_info["message"], None) is None:
            return unknown(10008, "Unknown Message")
        return web.Response(status=204)

    def share(self, name: str, kind: str, content: bytes) -> dict[str, Any]:
        """The file as a message names it."""
        self.stored[name] = content
        url = f"{self.url}/cdn/{name}"
        more = {"content_type": kind, "size": len(content), "url": url, "proxy_url": url}
        return {"id": self._new(), "filename": name, **more}

    async def download(self, request: web.Request) -> web.Response:
        content = self.stored.get(request.match_info["name"])
        return web.Response(status=404) if content is None else web.Response(body=content)

    async def type(self, request: web.Request) -> web.Response:
        self.typing.append(request.match_info["channel"])
        return web.Response(status=204)

    # Gateway

    async def gateway(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query["compress"] == "zlib-stream"
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = _Connection(socket)
        await connection.send({"op": 10, "d": {"heartbeat_interval": 41_250}})
        try:
            async for message in socket:
                await self._hear(connection, json.loads(message.data))
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
        return socket

    async def _hear(self, connection: _Connection, said: dict[str, Any]) -> None:
        match said["op"]:
            case 1:
                await connection.send({"op": 11})
            case 2 if said["d"]["token"] != TOKEN:
                await connection.socket.close(code=4004)
            case 2:
                self.identified += 1
                await connection.send({"op": 0, "t": "READY", "s": 1, "d": self._ready()})
                self.connections.append(connection)
            case 6:
                self.resumed += 1
                for event in self.events:
                    if event["s"] > said["d"]["seq"]:
                        await connection.send(event)
                await connection.send({"op": 0, "t": "RESUMED", "s": len(self.events) + 1, "d": {}})
                self.connections.append(connection)

    def _ready(self) -> dict[str, Any]:
        self.events.clear()
        guild = {"id": GUILD, "unavailable": True}
        application = {"id": "123", "flags": 0}
        more = {"session_id": f"s{self.identified}", "resume_gateway_url": self.url.replace("http", "ws") + "/gateway"}
        return {"v": 10, "user": BOT, "guilds": [guild], "application": application, **more}


def reply(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Without a charset, as Discord answers."""
    body = json.dumps(document).encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def flood(seconds: float) -> web.Response:
    """`Via` tells it from a refusal of what stands before Discord."""
    body = {"message": "You are being rate limited.", "retry_after": seconds, "global": False}
    return reply(body, status=429, headers={"Retry-After": str(seconds), "Via": "1.1 google"})


def unknown(code: int, what: str) -> web.Response:
    return reply({"message": what, "code": code}, status=404)


@asynccontextmanager
async def discord_peer() -> AsyncIterator[DiscordPeer]:
    peer = DiscordPeer()
    app = web.Application(middlewares=[peer.check_token], client_max_size=64 << 20)
    app.router.add_get("/api/users/@me", peer.me)
    app.router.add_get("/api/oauth2/applications/@me", peer.application)
    app.router.add_get("/api/users/{user}", peer.user)
    app.router.add_post("/api/users/@me/channels", peer.open_direct)
    app.router.add_get("/api/channels/{channel}", peer.channel)
    app.router.add_get("/api/channels/{channel}/messages", peer.messages)
    app.router.add_post("/api/channels/{channel}/messages", peer.send)
    app.router.add_patch("/api/channels/{channel}/messages/{message}", peer.change)
    app.router.add_delete("/api/channels/{channel}/messages/{message}", peer.remove)
    app.router.add_post("/api/channels/{channel}/typing", peer.type)
    app.router.add_get("/cdn/{name}", peer.download)
    app.router.add_get("/gateway", peer.gateway)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        peer.url = f"http://{host}:{port}"
        yield peer
    finally:
        with anyio.CancelScope(shield=True):
            await peer.break_connections()
            await runner.cleanup()


def _channel(chat: str) -> dict[str, Any]:
    if chat == DIRECT:
        return {"id": chat, "type": 1, "last_message_id": None, "recipients": [ADA]}
    named = {"name": "all", "position": 0, "permission_overwrites": [], "nsfw": False, "parent_id": None}
    return {"id": chat, "type": 0, "guild_id": GUILD, **named}


async def _read(request: web.Request) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    if request.content_type == "application/json":
        return dict(await request.json()), []
    said: dict[str, Any] = {}
    files: list[tuple[str, bytes]] = []
    async for part in await request.multipart():
        content = bytes(await part.read())  # type: ignore[union-attr]
        if part.name == "payload_json":  # type: ignore[union-attr]
            said = json.loads(content)
        else:
            files.append((part.filename or "", content))  # type: ignore[union-attr]
    return said, files
