"""Slack in socket mode, with the Web API of slack_sdk.  Needs the extra `sexton[slack]`.

An envelope is acknowledged when what it brings is in our inbox; Slack sends
again what was not.  The socket is our own (on the library's aiohttp): the
library's client acknowledges nothing by itself, but handles envelopes side by
side and connects again where nobody sees it.  What was said while we were
away is read from the history of the chats in which people talked to us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import aiohttp
from pydantic import Field
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from sexton.clock import Clock
from sexton.gateway.channels.bookmarks import Bookmarks
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.files import MOST_FILES, IncomingFile, too_large
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.channels.slack_text import escaped, length, mentions, plain
from sexton.gateway.deliveries import Part, SendDelayed, SendFailed, TextLimits, seconds_of

_ANSWER_SECONDS = 30
_HEARTBEAT = 30.0
_PAGE = 200
_NETWORK = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
# Other kinds of messages tell of joins, changes and the like.
_SAID = frozenset({None, "file_share", "thread_broadcast"})
_FOR_GOOD = frozenset(
    {
        "cannot_dm_bot",
        "cant_delete_message",
        "cant_update_message",
        "channel_is_archived",
        "channel_not_found",
        "edit_window_closed",
        "is_archived",
        "message_not_found",
        "messages_tab_disabled",
        "msg_too_long",
        "no_text",
        "not_in_channel",
        "restricted_action",
        "restricted_action_read_only_channel",
        "user_disabled",
        "user_not_found",
    }
)
_HINTS = {
    "invalid_auth": "look at bot_token and app_token in its settings",
    "not_authed": "look at bot_token and app_token in its settings",
    "account_inactive": "the app was removed from the workspace; install it again",
    "token_revoked": "the app was removed from the workspace; install it again",
    "missing_scope": "add the scope to the app and install it again; docs/channels.md lists what it needs",
    "not_allowed_token_type": "bot_token begins with xoxb-, app_token with xapp-",
}


class SlackOptions(ChannelOptions):
    """`bot_token` (xoxb-…) speaks, `app_token` (xapp-…) opens the socket; `api` for a proxy of one's own."""

    bot_token: str = Field(default="", repr=False)
    app_token: str = Field(default="", repr=False)
    api: str = "https://slack.com/api/"


@final
class SlackChannel:
    """One app in one workspace.  Sending needs no socket."""

    # Slack advises at most 4,000 characters, and cuts at 40,000.
    limits = TextLimits(most=4_000, messages=5, attaches=True, measure=length)
    give_up_after = 86_400.0
    knows_repeats_for = 0.0

    def __init__(self, options: SlackOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._user = ""
        self._names: dict[str, str] = {}

    async def run(self, line: Line) -> None:
        try:
            async with aiohttp.ClientSession() as session:
                web = self._web(session)
                known = await web.auth_test()
                self._user = str(known["user_id"])
                reader = _Reader(web, session, line, user=self._user, names=self._names)
                account = f"@{known['user']} in {known['team']}"
                while True:
                    await self._listen(session, web, reader, account)
        except SlackApiError as error:
            code = _code(error)
            raise ChannelDown(f"Slack answered {code}.", hint=_HINTS.get(code)) from error
        except _NETWORK as error:
            raise ChannelDown(f"Slack could not be reached: {str(error) or type(error).__name__}.") from error

    def _web(self, session: aiohttp.ClientSession | None = None) -> AsyncWebClient:
        return AsyncWebClient(
            self._options.bot_token, base_url=self._options.api, timeout=_ANSWER_SECONDS, session=session
        )

    async def _listen(self, session: aiohttp.ClientSession, web: AsyncWebClient, reader: _Reader, account: str) -> None:
        """One socket, until Slack asks for another one.  Raises `ChannelDown` if it ends otherwise."""
        opened = await web.apps_connections_open(app_token=self._options.app_token)
        async with session.ws_connect(str(opened["url"]), heartbeat=_HEARTBEAT) as socket:
            said_hello = False
            async for envelope in _envelopes(socket):
                match envelope.get("type"):
                    case "hello":
                        said_hello = True
                        await reader.catch_up()
                        reader.line.connected(account)
                    case "disconnect" if envelope.get("reason") == "link_disabled":
                        raise ChannelDown("Socket mode is switched off.", hint="switch it on in the app's settings")
                    case "disconnect" if said_hello:
                        return
                    case "events_api":
                        await reader.hear(envelope.get("payload", {}).get("event", {}))
                if envelope_id := envelope.get("envelope_id"):
                    await socket.send_json({"envelope_id": envelope_id})
        raise ChannelDown("Slack ended the connection.")

    # Writing

    def refusal(self, to: str | None) -> str | None:
        if to is None or (to[:1] in {"C", "D", "G", "U", "W"} and to.isalnum() and to == to.upper()):
            return None
        return "the id of a channel (C…), a direct chat (D…) or a person (U…) is needed"

    async def send(self, part: Part) -> str | None:
        assert part.to is not None
        with self._refusals():
            return await self._send(self._web(), part.to, part)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What Slack answers, as the outbox needs it."""
        try:
            yield
        except SlackApiError as error:
            raise _refusal(error, clock=self._clock) from error
        except _NETWORK as error:
            raise SendDelayed(f"Slack could not be reached: {str(error) or type(error).__name__}.") from error

    async def _send(self, web: AsyncWebClient, to: str, part: Part) -> str:
        root = part.facts.get("thread")
        thread = str(root) if root else None
        place = await self._place(web, to)
        for file in part.attachments:
            await web.files_upload_v2(content=file.content, filename=file.name, channel=place, thread_ts=thread)
        if not part.text:
            return ""
        sent = await web.chat_postMessage(
            channel=place,
            text=escaped(part.text),
            thread_ts=thread,
            unfurl_links=False,
            unfurl_media=False,
        )
        return str(sent["ts"])

    async def _place(self, web: AsyncWebClient, to: str) -> str:
        """The chat with a person, whom a file cannot be sent to by their id."""
        if to[0] not in {"U", "W"}:
            return to
        opened = await web.conversations_open(users=to)
        return str(opened["channel"]["id"])

    async def show_progress(self, part: Part) -> str:
        assert part.to is not None
        with self._refusals():
            return await self._send(self._web(), part.to, part)

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        with self._refusals():
            await self._web().chat_update(channel=chat, ts=message, text=escaped(text))

    async def end_progress(self, chat: str, message: str, text: str) -> None:
        """A workspace can forbid that messages are deleted; then it is changed."""
        with self._refusals():
            try:
                await self._web().chat_delete(channel=chat, ts=message)
            except SlackApiError as error:
                if _code(error) == "cant_delete_message":
                    await self._web().chat_update(channel=chat, ts=message, text=escaped(text))
                elif _code(error) != "message_not_found":
                    raise

    async def show_working(self, chat: str, *, working: bool) -> None:
        """Slack has no such thing for apps in any chat."""

    async def aclose(self) -> None:
        """The connection ends with `run`."""


@final
class _Reader:
    """Messages as they come, and those that came while nobody listened."""

    def __init__(
        self, web: AsyncWebClient, session: aiohttp.ClientSession, line: Line, *, user: str, names: dict[str, str]
    ) -> None:
        self.line = line
        self._session = session
        self._web = web
        self._user = user
        self._names = names
        self._marks = Bookmarks.read(line.cursor)

    async def hear(self, event: Mapping[str, Any]) -> None:
        """Take what is a message of a person."""
        if event.get("type") not in {"message", "app_mention"} or not self._is_said(event):
            return
        chat, said_at, sender = str(event["channel"]), str(event["ts"]), str(event["user"])
        direct = event.get("channel_type") == "im" or chat.startswith("D")
        text, thread = str(event.get("text") or ""), event.get("thread_ts")
        root = str(thread or ("" if direct else said_at))
        incoming = Incoming(
            key=f"{chat}/{said_at}",
            sender=sender,
            author=await self._name(sender),
            chat=chat,
            thread=f"{chat}/{root}" if root else "",
            text=plain(text, own=self._user),
            direct=direct,
            to_us=direct or mentions(text, self._user),
            context={"thread": root} if root else {},
        )
        if incoming.to_us and await self.line.knows(sender):
            self._marks = self._marks.moved(chat, max(said_at, self._marks.places.get(chat, ""), key=_moment))
            files = [await self._file(one) for one in (event.get("files") or [])[:MOST_FILES]]
            incoming = replace(incoming, files=tuple(files))
        await self.line.take([incoming], self._marks.written())

    def _is_said(self, event: Mapping[str, Any]) -> bool:
        if event.get("subtype") not in _SAID or event.get("bot_id") or event.get("user") in {None, self._user}:
            return False
        return bool(event.get("text") or event.get("files"))

    async def _file(self, found: Mapping[str, Any]) -> IncomingFile:
        name, kind = str(found.get("name") or "file"), str(found.get("mimetype") or "")
        if large := too_large(name, kind, found.get("size")):
            return large
        url = found.get("url_private_download") or found.get("url_private")
        if not url:
            return IncomingFile(name=name, content_type=kind, why="Slack does not say where it is")
        # Without the scope files:read the answer leads to a page for people, which must not get our token.
        headers = {"Authorization": f"Bearer {self._web.token}"}
        async with self._session.get(str(url), headers=headers, allow_redirects=False) as answer:
            if answer.status >= 500 or answer.status == 429:
                raise ChannelDown(f"Slack answered with status {answer.status} for a file.")
            if answer.status != 200 or (answer.content_type == "text/html" and kind != "text/html"):
                why = f"Slack does not hand it over (status {answer.status}); the app needs the scope files:read"
                return IncomingFile(name=name, content_type=kind, why=why)
            return IncomingFile(name=name, content_type=kind, content=await answer.read())

    async def catch_up(self) -> None:
        """What was said since the last message that we took, in each chat."""
        for chat, place in self._marks.places.items():
            for event in await self._since(chat, place):
                await self.hear({**event, "channel": chat, "type": "message"})

    async def _since(self, chat: str, place: str) -> list[dict[str, Any]]:
        """The oldest first; nothing where we may not look any more."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        try:
            while len(found) < 5 * _PAGE:
                page = await self._web.conversations_history(channel=chat, oldest=place, limit=_PAGE, cursor=cursor)
                found += page.get("messages") or []
                cursor = (page.get("response_metadata") or {}).get("next_cursor")
                if not cursor:
                    break
        except SlackApiError as error:
            if _code(error) == "ratelimited":
                raise
        return found[::-1]

    async def _name(self, sender: str) -> str:
        if sender not in self._names:
            try:
                profile = (await self._web.users_info(user=sender))["user"]
                name = str(profile.get("real_name") or profile.get("name") or sender)
            except SlackApiError:  # The scope users:read is not needed for anything else.
                name = sender
            self._names[sender] = name
        return self._names[sender]


async def _envelopes(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            envelope = message.json()
            if isinstance(envelope, dict):
                yield envelope


def _moment(ts: str) -> tuple[int, int]:
    """Slack's name of a message is its time: seconds and a counter."""
    seconds, _, count = ts.partition(".")
    return int(seconds) if seconds.isdecimal() else 0, int(count) if count.isdecimal() else 0


def _code(error: SlackApiError) -> str:
    found = error.response.get("error") if hasattr(error.response, "get") else None
    return str(found or "an error")


def _refusal(error: SlackApiError, *, clock: Clock) -> SendDelayed | SendFailed:
    code, headers = _code(error), error.response.headers
    if code in {"ratelimited", "rate_limited"} or error.response.status_code == 429:
        after = seconds_of(headers.get("Retry-After") or headers.get("retry-after"), now=clock.now())
        return SendDelayed("Slack wants us to wait.", after=after)
    if code in _FOR_GOOD:
        return SendFailed(f"Slack refused it: {code}.")
    return SendDelayed(f"Slack answered {code}.", hint=_HINTS.get(code))


def _make(_name: str, options: SlackOptions, clock: Clock) -> SlackChannel:
    return SlackChannel(options, clock=clock)


KIND = ChannelKind(name="slack", options=SlackOptions, make=_make, needs=("bot_token", "app_token"))
