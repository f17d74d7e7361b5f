"""Discord, by discord.py.  Needs the extra `sexton[discord]`.

The library resumes a connection that broke, and Discord repeats what was said
in between.  What was said while no gateway ran is read from the history of the
chats in which people talked to us.  What we send carries a nonce of its key,
by which Discord knows a repeat within some minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, final

import aiohttp
import anyio
import discord
from pydantic import Field

from sexton.clock import Clock
from sexton.gateway.channels.bookmarks import Bookmarks
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.files import MOST_FILES, IncomingFile, too_large
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.deliveries import Part, SendDelayed, SendFailed, TextLimits, seconds_of, utf16_length

# What the library waits out by itself; it takes no less.
_SHORT_WAIT = 30.0
_NETWORK = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_MOST_MISSED = 500
_CLOSED_FOR_GOOD = {
    4004: "Discord does not know this token.",
    4013: "Discord does not know the intents that we ask for.",
    4014: "Discord does not let this bot have the intents that it asks for.",
}
# Unauthorized, overload and trouble of Discord's own pass; what it says of this message does not.
_FOR_GOOD = frozenset({400, 403, 404, 413})


class DiscordOptions(ChannelOptions):
    """`token` as the developer portal gives it."""

    token: str = Field(default="", repr=False)


@final
class _Client(discord.Client):
    """The library's client; `heard` are messages in the order in which they came, None for each new session."""

    def __init__(self) -> None:
        # Without the privileged intent for contents: those of direct messages and of mentions come anyway.
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)
        super().__init__(
            intents=intents,
            max_messages=None,
            max_ratelimit_timeout=_SHORT_WAIT,
            allowed_mentions=discord.AllowedMentions.none(),
            chunk_guilds_at_startup=False,
        )
        self.heard: asyncio.Queue[discord.Message | None] = asyncio.Queue()

    async def on_connect(self) -> None:
        self.heard.put_nowait(None)

    async def on_message(self, message: discord.Message) -> None:
        self.heard.put_nowait(message)


@final
class DiscordChannel:
    """One bot."""

    limits = TextLimits(most=2_000, messages=6, attaches=True, measure=utf16_length)
    give_up_after = 86_400.0
    # "In the past few minutes", as Discord says of enforce_nonce.
    knows_repeats_for = 120.0

    def __init__(self, options: DiscordOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._client: _Client | None = None

    async def run(self, line: Line) -> None:
        client = _Client()
        try:
            async with client:
                await client.login(self._options.token)
                await self._live(client, line)
        except discord.LoginFailure as error:
            raise ChannelDown(_CLOSED_FOR_GOOD[4004], hint="look at token in its settings") from error
        except discord.ConnectionClosed as error:
            told = _CLOSED_FOR_GOOD.get(error.code, f"Discord ended the connection ({error.code}).")
            raise ChannelDown(told) from error
        except discord.DiscordException as error:
            raise ChannelDown(f"Discord failed: {_words(error)}.") from error
        except _NETWORK as error:
            raise ChannelDown(f"Discord could not be reached: {_words(error)}.") from error
        finally:
            self._client = None

    async def _live(self, client: _Client, line: Line) -> None:
        """Read while the library keeps the connection; raises what ended that."""
        connection = asyncio.create_task(client.connect(reconnect=False))
        reading = asyncio.create_task(self._keep_reading(client, line))
        try:
            await asyncio.wait([connection, reading], return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, connection):
                if task.done():
                    task.result()
            raise ChannelDown("Discord ended the connection.")
        finally:
            with anyio.CancelScope(shield=True):
                await client.close()
                connection.cancel()
                reading.cancel()
                await asyncio.gather(connection, reading, return_exceptions=True)

    # Reading

    async def _keep_reading(self, client: _Client, line: Line) -> None:
        marks = Bookmarks.read(line.cursor)
        while True:
            message = await client.heard.get()
            if message is None:
                for missed in await _missed(client, marks):
                    marks = await self._take(client, line, marks, missed)
                self._client = client
                line.connected(str(client.user))
            else:
                marks = await self._take(client, line, marks, message)

    async def _take(self, client: _Client, line: Line, marks: Bookmarks, message: discord.Message) -> Bookmarks:
        incoming = _incoming(client, message)
        if incoming is None:
            return marks
        if incoming.to_us and message.attachments and await line.knows(incoming.sender):
            incoming = replace(incoming, files=tuple([await _file(one) for one in message.attachments[:MOST_FILES]]))
        if incoming.to_us and await line.knows(incoming.sender):
            last = max(int(marks.places.get(incoming.chat, "0")), message.id)
            marks = marks.moved(incoming.chat, str(last))
        await line.take([incoming], marks.written())
        return marks

    # Writing

    def refusal(self, to: str | None) -> str | None:
        if to is None or re.fullmatch(r"@?\d{1,20}", to):
            return None
        return "the id of a channel, or @ and the id of a person, is needed"

    async def send(self, part: Part) -> str | None:
        assert part.to is not None
        with self._refusals():
            return await self._send(await _place(self._connected(), part.to), part)

    def _connected(self) -> _Client:
        if self._client is None:
            raise SendDelayed("Discord is not connected.")
        return self._client

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What Discord answers, as the outbox needs it."""
        try:
            yield
        except discord.RateLimited as error:
            raise SendDelayed("Discord wants us to wait.", after=error.retry_after) from error
        except discord.HTTPException as error:
            raise self._refusal(error) from error
        except discord.DiscordException as error:
            raise SendDelayed(f"Discord failed: {_words(error)}.") from error
        except _NETWORK as error:
            raise SendDelayed(f"Discord could not be reached: {_words(error)}.") from error

    async def _send(self, place: discord.abc.Messageable, part: Part, **more: Any) -> str:
        if part.attachments:
            more["files"] = [discord.File(io.BytesIO(one.content), filename=one.name) for one in part.attachments]
        answered = part.facts.get("reply_to")
        if isinstance(answered, str) and isinstance(place, discord.PartialMessageable):
            more["reference"] = discord.MessageReference(
                message_id=int(answered), channel_id=place.id, fail_if_not_exists=False
            )
        sent = await place.send(
            part.text or None,
            nonce=hashlib.sha256(part.key.encode()).hexdigest()[:24],
            suppress_embeds=True,
            **more,
        )
        return str(sent.id)

    def _refusal(self, error: discord.HTTPException) -> SendDelayed | SendFailed:
        if error.status == 429:  # Of what stands before Discord: it asks for patience in a header only.
            after = seconds_of(error.response.headers.get("Retry-After"), now=self._clock.now())
            return SendDelayed("Discord wants us to wait.", after=after)
        if error.status in _FOR_GOOD:
            return SendFailed(f"Discord refused it: {_words(error)}.")
        return SendDelayed(f"Discord failed: {_words(error)}.")

    async def show_progress(self, part: Part) -> str:
        assert part.to is not None
        with self._refusals():
            return await self._send(await _place(self._connected(), part.to), part, silent=True)

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        with self._refusals():
            await self._shown(chat, message).edit(content=text)

    async def end_progress(self, chat: str, message: str, text: str) -> None:  # noqa: ARG002 - nobody reads it
        """What a bot said it can always delete, and nothing is seen of it then."""
        with self._refusals(), suppress(discord.NotFound):
            await self._shown(chat, message).delete()

    def _shown(self, chat: str, message: str) -> discord.PartialMessage:
        return self._connected().get_partial_messageable(int(chat)).get_partial_message(int(message))

    async def show_working(self, chat: str, *, working: bool) -> None:
        """It ends by itself, after 10 s or with the answer."""
        if working and self._client is not None:
            with suppress(discord.DiscordException, *_NETWORK):
                await self._client.http.send_typing(int(chat))

    async def aclose(self) -> None:
        """The connection ends with `run`."""


async def _file(found: discord.Attachment) -> IncomingFile:
    kind = found.content_type or ""
    if large := too_large(found.filename, kind, found.size):
        return large
    try:
        return IncomingFile(name=found.filename, content_type=kind, content=await found.read())
    except discord.HTTPException as error:
        if error.status >= 500 or error.status == 429:
            raise
        return IncomingFile(
            name=found.filename, content_type=kind, why=f"Discord does not hand it over: {_words(error)}"
        )


async def _place(client: discord.Client, to: str) -> discord.abc.Messageable:
    if not to.startswith("@"):
        return client.get_partial_messageable(int(to))
    person = await client.fetch_user(int(to[1:]))
    return client.get_partial_messageable((person.dm_channel or await person.create_dm()).id)


async def _missed(client: discord.Client, marks: Bookmarks) -> list[discord.Message]:
    """What was said since the last message that we took, in each chat, the oldest first."""
    found: list[discord.Message] = []
    for chat, place in marks.places.items():
        try:
            channel = client.get_channel(int(chat)) or await client.fetch_channel(int(chat))
            if isinstance(channel, discord.abc.Messageable):
                after = discord.Object(int(place))
                history = channel.history(limit=_MOST_MISSED, after=after, oldest_first=True)
                found.extend([message async for message in history])
        except (discord.Forbidden, discord.NotFound):  # We are there no more.
            continue
    return found


def _incoming(client: discord.Client, message: discord.Message) -> Incoming | None:
    us, kinds = client.user, {discord.MessageType.default, discord.MessageType.reply}
    if us is None or message.author.bot or message.type not in kinds:
        return None
    if not (message.content or message.attachments):
        return None
    direct = message.guild is None
    return Incoming(
        key=f"{message.channel.id}/{message.id}",
        sender=str(message.author.id),
        author=message.author.display_name,
        chat=str(message.channel.id),
        text=_plain(message, us),
        direct=direct,
        to_us=direct or us in message.mentions,
        context={} if direct else {"reply_to": str(message.id)},
    )


def _plain(message: discord.Message, us: discord.ClientUser) -> str:
    """With names instead of ids, and without the mention that made it ours."""
    text = re.sub(rf"^\s*<@!?{us.id}>[:,]?\s*", "", message.content)
    for user in message.mentions:
        text = re.sub(rf"<@!?{user.id}>", f"@{user.display_name}".replace("\\", ""), text)
    return text.strip()


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _make(_name: str, options: DiscordOptions, clock: Clock) -> DiscordChannel:
    return DiscordChannel(options, clock=clock)


KIND = ChannelKind(name="discord", options=DiscordOptions, make=_make, needs=("token",))
