"""Matrix, by matrix-nio.  Needs the extra `sexton[matrix]`.

Rooms that are encrypted are not read: end-to-end encryption needs keys that
outlive us, and libolm.  A message that we send carries a transaction id of its
key, by which the homeserver knows a repeat: it arrives exactly once.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, final

import aiohttp
import nio
from pydantic import Field

from sexton.clock import Clock
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.files import IncomingFile, too_large
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.deliveries import Attachment, Part, SendDelayed, SendFailed, TextLimits

_SYNC_MS = 30_000
_REQUEST_SECONDS = 60.0
_TYPING_MS = 15_000
# Of one room that was busy while we were away, in pages of a hundred.
_MOST_PAGES = 20
_NETWORK = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_FOR_GOOD = frozenset(
    {"M_FORBIDDEN", "M_NOT_FOUND", "M_TOO_LARGE", "M_BAD_JSON", "M_INVALID_PARAM", "M_GUEST_ACCESS_FORBIDDEN"}
)
_FILTER = {"room": {"timeline": {"limit": 20}}, "presence": {"types": []}}


class MatrixOptions(ChannelOptions):
    """`server` is the homeserver's address, `user` our id; a password or an access token."""

    server: str = ""
    user: str = ""
    password: str = Field(default="", repr=False)
    access_token: str = Field(default="", repr=False)
    device: str = "SEXTON"


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


@final
class MatrixChannel:
    """One account."""

    # An event may have 65,536 bytes (specification, 4.1), of JSON.
    limits = TextLimits(most=20_000, messages=3, attaches=True, measure=_bytes)
    give_up_after = 86_400.0
    # Synapse remembers transactions for a day.
    knows_repeats_for = 43_200.0

    def __init__(self, options: MatrixOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._client: nio.AsyncClient | None = None

    async def run(self, line: Line) -> None:
        config = nio.AsyncClientConfig(
            max_limit_exceeded=0, max_timeouts=0, request_timeout=_REQUEST_SECONDS, encryption_enabled=False
        )
        client = nio.AsyncClient(
            self._options.server, self._options.user, device_id=self._options.device, config=config
        )
        try:
            await self._log_in(client)
            await self._keep_reading(client, line)
        except _NETWORK as error:
            told = str(error) or type(error).__name__
            raise ChannelDown(f"The homeserver {self._options.server} could not be reached: {told}.") from error
        finally:
            self._client = None
            await client.close()

    async def _log_in(self, client: nio.AsyncClient) -> None:
        options = self._options
        if options.access_token:
            client.restore_login(options.user, options.device, options.access_token)
            answer: Any = await client.whoami()
        else:
            answer = await client.login(options.password, device_name="sexton")
        if isinstance(answer, nio.ErrorResponse):
            raise ChannelDown(
                f"The homeserver refused the login of {options.user}: {answer.message}.",
                hint="look at user and password, or access_token, in its settings",
            )

    # Reading

    async def _keep_reading(self, client: nio.AsyncClient, line: Line) -> None:
        # The whole state once: who is in which room.
        cursor = line.cursor
        answer = _checked(await client.sync(timeout=0, sync_filter=_FILTER, since=cursor, full_state=True))
        await self._accept_invitations(client, line, answer)
        # Without a cursor all of it was said before we were here.
        await line.take(
            [] if cursor is None else await self._messages(client, line, answer, since=cursor), answer.next_batch
        )
        self._client = client
        line.connected(client.user_id)
        while True:
            since = answer.next_batch
            answer = _checked(await client.sync(timeout=_SYNC_MS, sync_filter=_FILTER, since=since))
            await self._accept_invitations(client, line, answer)
            await line.take(await self._messages(client, line, answer, since=since), answer.next_batch)

    async def _messages(
        self, client: nio.AsyncClient, line: Line, answer: nio.SyncResponse, *, since: str
    ) -> list[Incoming]:
        found: list[Incoming] = []
        for room_id, info in answer.rooms.join.items():
            timeline = info.timeline
            missed = await self._missed(client, room_id, timeline.prev_batch, since) if timeline.limited else []
            for incoming, event in self._of_room(client, room_id, [*missed, *timeline.events]):
                has_file = isinstance(event, nio.RoomMessageMedia) and incoming.to_us
                files = (await _file(client, event),) if has_file and await line.knows(incoming.sender) else ()
                found.append(replace(incoming, files=files))
        return found

    async def _missed(self, client: nio.AsyncClient, room_id: str, start: str | None, since: str) -> list[nio.Event]:
        """What was said between two syncs and did not fit into the second, the oldest first."""
        events: list[nio.Event] = []
        for _ in range(_MOST_PAGES):
            if start is None:
                break
            page = await client.room_messages(room_id, start, since, limit=100)
            if not isinstance(page, nio.RoomMessagesResponse) or not page.chunk:
                break
            events.extend(page.chunk)
            start = page.end
        return events[::-1]

    def _of_room(self, client: nio.AsyncClient, room_id: str, events: Sequence[Any]) -> Iterable[tuple[Incoming, Any]]:
        room = client.rooms.get(room_id)
        direct = room is None or room.member_count <= 2
        for event in events:
            # Notices are what programs say; answering them makes two programs talk for ever.
            if not isinstance(event, nio.RoomMessageText | nio.RoomMessageMedia) or event.sender == client.user_id:
                continue
            content: Mapping[str, Any] = event.source.get("content", {})
            relation = content.get("m.relates_to") or {}
            if relation.get("rel_type") == "m.replace":
                continue
            root = str(relation["event_id"]) if relation.get("rel_type") == "m.thread" else ""
            author = (room.user_name(event.sender) if room else None) or event.sender
            incoming = Incoming(
                key=event.event_id,
                sender=event.sender,
                author=author,
                chat=room_id,
                thread=f"{room_id}/{root}" if root else "",
                text=event.body if isinstance(event, nio.RoomMessageText) else _caption(content),
                direct=direct,
                to_us=direct or self._is_to_us(client, room, content),
                context={"thread": root} if root else {},
            )
            yield incoming, event

    def _is_to_us(self, client: nio.AsyncClient, room: nio.MatrixRoom | None, content: Mapping[str, Any]) -> bool:
        mentions = content.get("m.mentions")
        if isinstance(mentions, dict):
            return client.user_id in (mentions.get("user_ids") or ())
        body = str(content.get("body", "")).casefold()
        names = {client.user_id, client.user_id[1:].partition(":")[0], (room and room.user_name(client.user_id)) or ""}
        return any(body.startswith(name.casefold()) or f"@{name.casefold()}" in body for name in names if name)

    async def _accept_invitations(self, client: nio.AsyncClient, line: Line, answer: nio.SyncResponse) -> None:
        """Of those whom we know, and of others to talk directly, where they are told what strangers are told."""
        for room_id, invitation in answer.rooms.invite.items():
            events = [event for event in invitation.invite_state if isinstance(event, nio.InviteMemberEvent)]
            ours = [event for event in events if event.state_key == client.user_id]
            if not ours:
                continue
            if ours[-1].content.get("is_direct") or await line.knows(ours[-1].sender):
                with suppress(*_NETWORK):  # It is in the next full sync again.
                    await client.join(room_id)

    # Writing

    def refusal(self, to: str | None) -> str | None:
        # The ids of newer rooms name no server (room version 12).
        if to is None or to.startswith("!") or (to[:1] in {"#", "@"} and ":" in to):
            return None
        return "a room (!id or #name:server) or a person (@name:server) is needed"

    async def send(self, part: Part) -> str | None:
        client = self._connected()
        assert part.to is not None
        with _unreachable():
            room_id = await self._room_of(client, part.to)
            for number, file in enumerate(part.attachments, 1):
                name = await self._send_file(client, room_id, part, file, number)
                if not part.text and number == len(part.attachments):
                    return name
            return await self._put(client, room_id, _text_content(part), key=part.key)

    def _connected(self) -> nio.AsyncClient:
        if self._client is None:
            raise SendDelayed("The homeserver is not connected.")
        return self._client

    async def _put(self, client: nio.AsyncClient, room_id: str, content: dict[str, Any], *, key: str) -> str:
        transaction = hashlib.sha256(key.encode()).hexdigest()[:32]
        answer = await client.room_send(room_id, "m.room.message", content, tx_id=transaction)
        return str(_sent(answer).event_id)

    async def _send_file(self, client: nio.AsyncClient, room_id: str, part: Part, file: Attachment, number: int) -> str:
        kind = file.content_type.partition(";")[0]
        answer, _ = await client.upload(
            io.BytesIO(file.content), content_type=kind, filename=file.name, filesize=len(file.content)
        )
        content: dict[str, Any] = {
            "msgtype": "m.image" if kind.startswith("image/") else "m.file",
            "body": file.name,
            "url": _sent(answer).content_uri,
            "info": {"mimetype": kind, "size": len(file.content)},
        }
        if root := part.facts.get("thread"):
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
        return await self._put(client, room_id, content, key=f"{part.key}:file{number}")

    async def _room_of(self, client: nio.AsyncClient, to: str) -> str:
        if to.startswith("!"):
            return to
        if to.startswith("#"):
            return str(_sent(await client.room_resolve_alias(to)).room_id)
        for room_id, room in client.rooms.items():
            if room.member_count == 2 and to in room.users:
                return str(room_id)
        made = await client.room_create(is_direct=True, invite=[to], preset=nio.RoomPreset.trusted_private_chat)
        return str(_sent(made).room_id)

    async def show_progress(self, part: Part) -> str:
        assert part.to is not None
        with _unreachable():
            return await self._put(self._connected(), part.to, _text_content(part), key=part.key)

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        # The first body is for clients that know no changes (specification, 11.36.2).
        body = {"msgtype": "m.notice", "body": text}
        relation = {"rel_type": "m.replace", "event_id": message}
        content = {**body, "body": f"* {text}", "m.new_content": body, "m.relates_to": relation}
        with _unreachable():
            _sent(await self._connected().room_send(chat, "m.room.message", content))

    async def end_progress(self, chat: str, message: str, text: str) -> None:
        """What is redacted stays as "Message deleted" in many clients, which says less."""
        await self.change_progress(chat, message, text)

    async def show_working(self, chat: str, *, working: bool) -> None:
        if self._client is not None:
            with suppress(*_NETWORK):
                await self._client.room_typing(chat, working, timeout=_TYPING_MS)

    async def aclose(self) -> None:
        """The connection ends with `run`."""


@contextmanager
def _unreachable() -> Iterator[None]:
    try:
        yield
    except _NETWORK as error:
        raise SendDelayed(f"The homeserver could not be reached: {str(error) or type(error).__name__}.") from error


def _caption(content: Mapping[str, Any]) -> str:
    """What is said with a file: its body, where that is not the file's name (specification, 11.2.1.7)."""
    body, name = content.get("body"), content.get("filename")
    return str(body) if name is not None and body != name else ""


async def _file(client: nio.AsyncClient, event: nio.RoomMessageMedia) -> IncomingFile:
    content: Mapping[str, Any] = event.source.get("content", {})
    info = content.get("info") or {}
    name, kind = str(content.get("filename") or event.body or "file"), str(info.get("mimetype") or "")
    size = info.get("size")
    if large := too_large(name, kind, size if isinstance(size, int) else None):
        return large
    answer: Any = await client.download(mxc=event.url)
    if isinstance(answer, nio.ErrorResponse):
        return IncomingFile(name=name, content_type=kind, why=f"the homeserver does not hand it over: {answer.message}")
    return IncomingFile(name=name, content_type=kind, content=bytes(answer.body))


def _text_content(part: Part) -> dict[str, Any]:
    kind = "m.text" if part.facts.get("reply") else "m.notice"
    content: dict[str, Any] = {"msgtype": kind, "body": part.text}
    if root := part.facts.get("thread"):
        content["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
    return content


def _sent(answer: Any) -> Any:
    """The answer, unless it is an error: then as the outbox needs it."""
    if not isinstance(answer, nio.ErrorResponse):
        return answer
    told = f"The homeserver answered {answer.status_code}: {answer.message}."
    if answer.status_code in _FOR_GOOD:
        raise SendFailed(told)
    raise SendDelayed(told, after=answer.retry_after_ms / 1000 if answer.retry_after_ms else None)


def _checked(answer: Any) -> Any:
    if isinstance(answer, nio.ErrorResponse):
        raise ChannelDown(f"The homeserver answered {answer.status_code}: {answer.message}.")
    return answer


def _make(_name: str, options: MatrixOptions, clock: Clock) -> MatrixChannel:
    return MatrixChannel(options, clock=clock)


KIND = ChannelKind(name="matrix", options=MatrixOptions, make=_make, needs=("server", "user"))
