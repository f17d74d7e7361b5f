"""Mail: IMAP to read (with IDLE), SMTP to write.  Needs the extra `sexton[email]`.

Who wrote is what the From line says, and anybody can write that: with
`authserv` only mail counts of which that server says that DMARC passed
(RFC 8601).  Answers go to that address, never to a Reply-To.  No mail that
says it was sent by a program is answered (RFC 3834), so that two programs
never write to each other for ever.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, final

import aiosmtplib
import anyio
from aioimaplib import aioimaplib
from pydantic import Field

from sexton.clock import Clock
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.channels.letters import compose, incoming_of
from sexton.gateway.deliveries import Part, SendDelayed, SendFailed, TextLimits

_IMAP_SECONDS = 30.0
_SMTP_SECONDS = 60.0
# IDLE is begun anew this often: a connection that is gone unseen is found out, and NATs forget idle ones.
_IDLE_SECONDS = 300.0
_POLL_SECONDS = 30.0
# In base64 a file grows by a third.
_LONGEST_MAIL = 32 << 20
_AT_ONCE = 20
_RESPONSE_CODE = {name: re.compile(rf"\[{name} (\d+)\]".encode(), re.I) for name in ("UIDVALIDITY", "UIDNEXT")}


class EmailOptions(ChannelOptions):
    """`imap` and `smtp` are HOST or HOST:PORT."""

    address: str = ""
    user: str | None = None
    password: str = Field(default="", repr=False)
    imap: str = ""
    imap_security: Literal["tls", "none"] = "tls"
    smtp: str = ""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    folder: str = "INBOX"
    authserv: str | None = None


@final
class EmailChannel:
    """One mailbox.  Sending needs no connection to IMAP."""

    limits = TextLimits(most=200_000, messages=1, attaches=True, together=True, titles=True)
    give_up_after = 86_400.0

    def __init__(self, options: EmailOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock

    async def run(self, line: Line) -> None:
        try:
            async with self._connected() as imap:
                await self._read(imap, line)
        except (aioimaplib.AioImapException, OSError, TimeoutError) as error:
            raise ChannelDown(f"The mail server {self._options.imap} failed: {_words(error)}.") from error

    # Reading

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[aioimaplib.IMAP4]:
        """A connection that is logged in; when it is lost, the block is cancelled and `ChannelDown` raised."""
        host, port = host_and_port(self._options.imap, 993 if self._options.imap_security == "tls" else 143)
        kind = aioimaplib.IMAP4_SSL if self._options.imap_security == "tls" else aioimaplib.IMAP4
        imap = kind(host=host, port=port, timeout=_IMAP_SECONDS)
        lost = anyio.CancelScope()
        imap.protocol.conn_lost_cb = lambda _: lost.cancel()
        try:
            with lost:
                await imap.wait_hello_from_server()
                answer = await imap.login(self._options.user or self._options.address, self._options.password)
                if answer.result != "OK":
                    raise ChannelDown(
                        f"The mail server refused the login of {self._options.user or self._options.address}: "
                        f"{_said(answer)}",
                        hint="look at user and password in its settings",
                    )
                yield imap
        finally:
            with anyio.CancelScope(shield=True):
                await _close(imap)
        if lost.cancelled_caught:
            raise ChannelDown("The mail server ended the connection.")

    async def _read(self, imap: aioimaplib.IMAP4, line: Line) -> None:
        answer = await imap.select(self._options.folder)
        if answer.result != "OK":
            raise ChannelDown(f"The folder {self._options.folder!r} cannot be opened: {_said(answer)}")
        validity, next_uid = (_code(answer, name) for name in ("UIDVALIDITY", "UIDNEXT"))
        last = _last_seen(line.cursor, validity)
        if last is None:
            # What was there before us is not for us.
            last = max(0, next_uid - 1)
            await line.take([], f"{validity}:{last}")
        line.connected(self._options.address)
        while True:
            last = await self._take_new(imap, line, validity=validity, last=last)
            await self._wait_news(imap)

    async def _take_new(self, imap: aioimaplib.IMAP4, line: Line, *, validity: int, last: int) -> int:
        answer = await imap.uid_search(f"UID {last + 1}:*", charset=None)
        found = [int(word) for text in answer.lines[:1] for word in bytes(text).split() if word.isdigit()]
        for uid in sorted(uid for uid in found if uid > last):
            message = await self._fetch(imap, uid, validity)
            await line.take([message] if message else [], f"{validity}:{uid}")
            last = uid
        return last

    async def _fetch(self, imap: aioimaplib.IMAP4, uid: int, validity: int) -> Incoming | None:
        answer = await imap.uid("fetch", str(uid), f"(BODY.PEEK[]<0.{_LONGEST_MAIL}>)")
        raw = next((bytes(part) for part in answer.lines if isinstance(part, bytearray)), None)
        if raw is None:  # It was removed in between.
            return None
        own = {self._options.address.lower()}
        return incoming_of(
            raw,
            fallback_key=f"{validity}:{uid}",
            own=own,
            authserv=self._options.authserv,
            is_cut=len(raw) >= _LONGEST_MAIL,
        )

    async def _wait_news(self, imap: aioimaplib.IMAP4) -> None:
        if "IDLE" not in imap.protocol.capabilities:
            await self._clock.sleep(_POLL_SECONDS)
            await imap.noop()
            return
        idle = await imap.idle_start(timeout=_IDLE_SECONDS)
        try:
            # Lines that are no news (a keep-alive of the server's) cost one search.
            await imap.wait_server_push(timeout=_IDLE_SECONDS + _IMAP_SECONDS)
        finally:
            with suppress(aioimaplib.Abort):
                imap.idle_done()
        await asyncio.wait_for(idle, _IMAP_SECONDS)

    # Writing

    def refusal(self, to: str | None) -> str | None:
        if to is None or re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", to):
            return None
        return "that is no mail address"

    async def send(self, part: Part) -> str | None:
        assert part.to is not None
        options = self._options
        message = compose(part, sender=options.address, now=self._clock.now())
        tls = options.smtp_security == "tls"
        host, port = host_and_port(options.smtp, 465 if tls else 587)
        # Without TLS it is a relay of this machine or its network, and no place for a password.
        logs_in = options.password and options.smtp_security != "none"
        try:
            await aiosmtplib.send(
                message,
                sender=options.address,
                recipients=[part.to],
                hostname=host,
                port=port,
                username=(options.user or options.address) if logs_in else None,
                password=options.password if logs_in else None,
                use_tls=tls,
                start_tls=options.smtp_security == "starttls" if not tls else None,
                timeout=_SMTP_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            first = error.recipients[0]
            raise _refusal(first.code, first.message) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            raise SendDelayed(
                f"The mail server refused the login: {error.message}", hint="look at user and password in its settings"
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refusal(error.code, error.message) from error
        except (aiosmtplib.SMTPException, OSError, ssl.SSLError) as error:
            raise SendDelayed(f"The mail server {options.smtp} could not be reached: {_words(error)}.") from error
        return str(message["Message-ID"])

    async def show_working(self, chat: str, *, working: bool) -> None:
        """Mail has no such thing."""

    async def aclose(self) -> None:
        """Each message is sent over a connection of its own."""


def host_and_port(written: str, default: int) -> tuple[str, int]:
    """`mail.example.org`, `mail.example.org:993` or `[::1]:993`."""
    host, colon, port = written.rpartition(":")
    if not colon or not port.isdecimal():
        return written.strip("[]"), default
    return host.strip("[]"), int(port)


def _refusal(code: int, said: str) -> SendDelayed | SendFailed:
    """RFC 5321, 4.2.1: 4yz may succeed when it is tried again, 5yz will not.  421 and 450 are greylisting's."""
    told = f"The mail server answered {code}: {' '.join(said.split())}"
    return SendFailed(told) if 500 <= code < 600 else SendDelayed(told)


def _last_seen(cursor: str | None, validity: int) -> int | None:
    """The UID up to which all was read; None if that was another mailbox, or nothing was read (RFC 3501, 2.3.1.1)."""
    before, _, uid = (cursor or "").partition(":")
    return int(uid) if before == str(validity) and uid.isdecimal() else None


def _code(answer: aioimaplib.Response, name: str) -> int:
    for text in answer.lines:
        if found := _RESPONSE_CODE[name].search(bytes(text)):
            return int(found[1])
    return 0


def _said(answer: aioimaplib.Response) -> str:
    return bytes(answer.lines[-1]).decode("utf-8", "replace") if answer.lines else str(answer.result)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


async def _close(imap: aioimaplib.IMAP4) -> None:
    """Leave nothing behind: no connection, no task, no timer."""
    imap.protocol.conn_lost_cb = None
    if imap.protocol.transport is not None:
        imap.protocol.transport.close()
    if imap._idle_waiter is not None:  # noqa: SLF001 - the library has no way to close it
        imap._idle_waiter.cancel()  # noqa: SLF001
    command = imap.protocol.pending_sync_command
    if command is not None:
        command._timer.cancel()  # noqa: SLF001
    tasks = [imap._client_task, *imap.tasks, *imap.protocol.tasks]  # noqa: SLF001
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _forged(options: EmailOptions) -> str | None:
    if options.authserv:
        return None
    return "names senders, and anybody can write under their addresses; name the server that checks them: authserv"


def _make(_name: str, options: EmailOptions, clock: Clock) -> EmailChannel:
    return EmailChannel(options, clock=clock)


KIND = ChannelKind(
    name="email",
    options=EmailOptions,
    make=_make,
    needs=("address", "imap", "smtp"),
    # An answer to a forged sender is a nuisance to somebody else.
    strangers="ignore",
    forged=_forged,
)
