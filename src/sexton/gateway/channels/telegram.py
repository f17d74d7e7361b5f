"""Telegram, by the `Bot` of python-telegram-bot.  Needs the extra `sexton[telegram]`.

Updates are asked for by long polling, and only those are confirmed (by the
next `offset`) that are in our inbox: the offset stands in the transaction that
put them there.  Telegram knows no repeats of what we send, so a crash between
its answer and our note of it shows a message twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import final

from pydantic import Field
from telegram import Bot, LinkPreviewOptions, Message, ReplyParameters, Update
from telegram.constants import ChatAction, ChatType, MessageEntityType, MessageLimit
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Conflict,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
)
from telegram.request import HTTPXRequest

from sexton.clock import Clock
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.files import IncomingFile, picture_type, too_large
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.deliveries import Attachment, Part, SendDelayed, SendFailed, TextLimits, utf16_length

# The library's next version gives every `retry_after` as a timedelta; this one does when it is told to.
os.environ.setdefault("PTB_TIMEDELTA", "true")
_POLL_SECONDS = 25
_ANSWER_SECONDS = 20.0
_SEND_SECONDS = 60.0


class TelegramOptions(ChannelOptions):
    """`token` as @BotFather gives it; `api` for a Bot API server of one's own."""

    token: str = Field(default="", repr=False)
    api: str = "https://api.telegram.org"


@final
class TelegramChannel:
    """One bot."""

    limits = TextLimits(most=MessageLimit.MAX_TEXT_LENGTH, messages=5, attaches=True, measure=utf16_length)
    give_up_after = 86_400.0
    knows_repeats_for = 0.0

    def __init__(self, options: TelegramOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._bot: Bot | None = None

    async def run(self, line: Line) -> None:
        bot = Bot(
            self._options.token,
            base_url=f"{self._options.api.rstrip('/')}/bot",
            base_file_url=f"{self._options.api.rstrip('/')}/file/bot",
            request=HTTPXRequest(read_timeout=_ANSWER_SECONDS, write_timeout=_ANSWER_SECONDS),
            get_updates_request=HTTPXRequest(read_timeout=_POLL_SECONDS + _ANSWER_SECONDS),
        )
        try:
            async with bot:
                self._bot = bot
                line.connected(f"@{bot.username}")
                await self._keep_reading(bot, line)
        except InvalidToken as error:
            raise ChannelDown(
                "Telegram does not know this token.", hint="look at token in its settings; @BotFather shows it"
            ) from error
        except Conflict as error:
            raise ChannelDown(
                "Somebody else reads the messages of this bot.",
                hint="stop the other program that uses the same token, or remove its webhook",
            ) from error
        except TelegramError as error:
            raise ChannelDown(f"Telegram failed: {_words(error)}.") from error
        finally:
            self._bot = None

    # Reading

    async def _keep_reading(self, bot: Bot, line: Line) -> None:
        offset = int(line.cursor) if line.cursor else None
        while True:
            updates = await bot.get_updates(offset=offset, timeout=_POLL_SECONDS, allowed_updates=[Update.MESSAGE])
            if not updates:
                continue
            offset = updates[-1].update_id + 1
            found = [await self._incoming(bot, line, one.message) for one in updates if one.message is not None]
            await line.take([message for message in found if message is not None], str(offset))

    async def _incoming(self, bot: Bot, line: Line, message: Message) -> Incoming | None:
        sender = message.from_user
        text = message.text or message.caption or ""
        if sender is None or sender.is_bot or not (text or message.effective_attachment):
            return None
        chat, direct = str(message.chat_id), message.chat.type == ChatType.PRIVATE
        topic = message.message_thread_id if message.is_topic_message else None
        context: dict[str, int] = {} if direct else {"reply_to": message.message_id}
        to_us = direct or _is_to(bot, message)
        files = await _files(bot, message) if to_us and await line.knows(str(sender.id)) else ()
        return Incoming(
            key=f"{chat}/{message.message_id}",
            sender=str(sender.id),
            author=sender.full_name,
            chat=chat,
            thread=f"{chat}/{topic}" if topic else "",
            text=text,
            direct=direct,
            to_us=to_us,
            files=files,
            context={**context, "topic": topic} if topic else context,
        )

    # Writing

    def refusal(self, to: str | None) -> str | None:
        if to is None or to.lstrip("-").isdecimal() or to.startswith("@"):
            return None
        return "the number of a chat, or @name of a channel, is needed"

    async def send(self, part: Part) -> str | None:
        assert part.to is not None
        with _refusals():
            return await self._send(self._connected(), part.to, part)

    def _connected(self) -> Bot:
        if self._bot is None:
            raise SendDelayed("Telegram is not connected.")
        return self._bot

    async def _send(self, bot: Bot, to: str, part: Part, *, quiet: bool = False) -> str:
        topic, answered = part.facts.get("topic"), part.facts.get("reply_to")
        thread = topic if isinstance(topic, int) else None
        reply = (
            ReplyParameters(message_id=answered, allow_sending_without_reply=True)
            if isinstance(answered, int)
            else None
        )
        name = ""
        for file in part.attachments:
            name = str((await _send_file(bot, to, file, thread=thread)).message_id)
        if not part.text:
            return name
        sent = await bot.send_message(
            chat_id=to,
            text=part.text,
            message_thread_id=thread,
            reply_parameters=reply,
            link_preview_options=LinkPreviewOptions(is_disabled=True),
            disable_notification=quiet,
        )
        return str(sent.message_id)

    async def show_progress(self, part: Part) -> str:
        assert part.to is not None
        with _refusals():
            return await self._send(self._connected(), part.to, part, quiet=True)

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        with _refusals():
            await _change(self._connected(), chat, message, text)

    async def end_progress(self, chat: str, message: str, text: str) -> None:
        """After two days Telegram lets no message be deleted, but changed."""
        bot = self._connected()
        with _refusals():
            try:
                await bot.delete_message(chat_id=chat, message_id=int(message))
            except BadRequest as error:
                if "not found" not in str(error).casefold():
                    await _change(bot, chat, message, text)

    async def show_working(self, chat: str, *, working: bool) -> None:
        """It ends by itself, after 5 s or with the answer."""
        if working and self._bot is not None:
            with suppress(TelegramError):
                await self._bot.send_chat_action(chat_id=chat, action=ChatAction.TYPING)

    async def aclose(self) -> None:
        """The connection ends with `run`."""


async def _change(bot: Bot, chat: str, message: str, text: str) -> None:
    try:
        await bot.edit_message_text(text, chat_id=chat, message_id=int(message))
    except BadRequest as error:
        if "not modified" not in str(error).casefold():
            raise


@contextmanager
def _refusals() -> Iterator[None]:
    """What Telegram answers, as the outbox needs it."""
    try:
        yield
    except RetryAfter as error:
        seconds = error.retry_after
        after = seconds if isinstance(seconds, int) else seconds.total_seconds()
        raise SendDelayed("Telegram wants us to wait.", after=float(after)) from error
    except (Forbidden, ChatMigrated, BadRequest) as error:
        raise SendFailed(f"Telegram refused it: {_words(error)}.") from error
    except NetworkError as error:
        raise SendDelayed(f"Telegram could not be reached: {_words(error)}.") from error
    except TelegramError as error:
        raise SendDelayed(f"Telegram failed: {_words(error)}.") from error


async def _files(bot: Bot, message: Message) -> tuple[IncomingFile, ...]:
    """The file or the picture (in its largest form) of a message; Telegram sends each in a message of its own."""
    found = message.photo[-1] if message.photo else message.effective_attachment
    if found is None or isinstance(found, tuple | list):
        return ()
    kind = str(getattr(found, "mime_type", None) or ("image/jpeg" if message.photo else ""))
    name = str(getattr(found, "file_name", None) or ("photo.jpg" if message.photo else type(found).__name__.lower()))
    file_id, size = getattr(found, "file_id", None), getattr(found, "file_size", None)
    if file_id is None:
        return (IncomingFile(name=name, content_type=kind, why="it is no file"),)
    if large := too_large(name, kind, size):
        return (large,)
    try:
        content = bytes(await (await bot.get_file(file_id)).download_as_bytearray(read_timeout=_SEND_SECONDS))
    except (BadRequest, Forbidden, InvalidToken) as error:  # The last is how the library tells of a 404.
        return (IncomingFile(name=name, content_type=kind, why=f"Telegram does not hand it over: {_words(error)}"),)
    return (IncomingFile(name=name, content_type=kind, content=content),)


async def _send_file(bot: Bot, to: str, file: Attachment, *, thread: int | None) -> Message:
    """A picture as one; what Telegram does not take for one (its sides, its size) as a file."""
    if picture_type(file.content) in {"image/png", "image/jpeg"}:
        with suppress(BadRequest):
            return await bot.send_photo(
                chat_id=to,
                photo=file.content,
                filename=file.name,
                message_thread_id=thread,
                write_timeout=_SEND_SECONDS,
            )
    return await bot.send_document(
        chat_id=to,
        document=file.content,
        filename=file.name,
        message_thread_id=thread,
        write_timeout=_SEND_SECONDS,
    )


def _is_to(bot: Bot, message: Message) -> bool:
    """In a group: an answer to us, a mention of us, or a command with our name."""
    answered = message.reply_to_message
    if answered is not None and answered.from_user is not None and answered.from_user.id == bot.id:
        return True
    named = {
        **message.parse_entities([MessageEntityType.MENTION, MessageEntityType.BOT_COMMAND]),
        **message.parse_caption_entities([MessageEntityType.MENTION]),
    }
    ours = f"@{bot.username}".casefold()
    return any(text.casefold().endswith(ours) for text in named.values())


def _words(error: TelegramError) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _make(_name: str, options: TelegramOptions, clock: Clock) -> TelegramChannel:
    return TelegramChannel(options, clock=clock)


KIND = ChannelKind(name="telegram", options=TelegramOptions, make=_make, needs=("token",))
