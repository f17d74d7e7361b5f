"""IRC, by a small client of our own: a line each way, and nothing more is needed of a library.

A nick can be anybody's, so a person is known by the account that the server
names (IRCv3 account-tag) or else by `nick!user@host`.  IRC keeps nothing: what
is said while we are not connected is lost to us.  What we send counts as sent
when the server has answered a PING that follows it.
"""

from __future__ import annotations

import base64
import re
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, final

import anyio
import anyio.abc
from pydantic import Field

from sexton.clock import Clock
from sexton.gateway.channels.channel import ChannelDown, Incoming, Line
from sexton.gateway.channels.irc_line import IrcLine, clean, parse_line, privmsg_lines
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions
from sexton.gateway.deliveries import Part, SendDelayed, SendFailed, TextLimits

_WANTED = frozenset({"account-tag", "message-tags", "sasl"})
_NO_SUCH = {"401": "nobody is called so", "403": "there is no such room", "404": "we may not speak there"}
_NICK_TAKEN = "433"
_LOGIN_FAILED = frozenset({"464", "465", "902", "904", "905", "906"})
_ANSWER_SECONDS = 30.0
_PING_EVERY = 60.0
_SILENT_FOR = 150.0
_LONGEST_INPUT = 1 << 16
# Servers end connections that send too fast: a few lines at once, then one a second.
_AT_ONCE = 4
_PAUSE = 1.0


class IrcOptions(ChannelOptions):
    """`server` is HOST or HOST:PORT, `rooms` are joined; `account` and `password` log in by SASL."""

    server: str = ""
    security: Literal["tls", "none"] = "tls"
    nick: str = ""
    rooms: list[str] = Field(default_factory=list)
    account: str | None = None
    password: str = Field(default="", repr=False)


@dataclass(slots=True)
class _Connection:
    """What is known of a connection that stands."""

    stream: anyio.abc.ByteStream
    nick: str
    pongs: dict[str, anyio.Event] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    """What the server said against the last message to somebody, by their name in small letters."""
    sending: anyio.Lock = field(default_factory=anyio.Lock)

    async def write(self, line: str) -> None:
        await self.stream.send(f"{clean(line).replace(chr(10), ' ')}\r\n".encode())


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


@final
class IrcChannel:
    """One nick on one network."""

    # Some eight lines at most: nobody reads more in a room.
    limits = TextLimits(most=3_000, messages=1, measure=_bytes)
    give_up_after = 86_400.0

    def __init__(self, options: IrcOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._connection: _Connection | None = None

    async def run(self, line: Line) -> None:
        try:
            async with await self._connect() as stream:
                await self._live(stream, line)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError) as error:
            told = str(error) or "it ended the connection"
            raise ChannelDown(f"The IRC server {self._options.server} could not be reached: {told}.") from error
        except TimeoutError as error:
            raise ChannelDown(f"The IRC server {self._options.server} does not answer.") from error
        finally:
            self._connection = None

    async def _connect(self) -> anyio.abc.ByteStream:
        host, _, port = self._options.server.partition(":")
        tls = self._options.security == "tls"
        number = int(port) if port.isdecimal() else (6697 if tls else 6667)
        with anyio.fail_after(_ANSWER_SECONDS):
            if tls:
                return await anyio.connect_tcp(host, number, tls=True, tls_standard_compatible=False)
            return await anyio.connect_tcp(host, number)

    async def _live(self, stream: anyio.abc.ByteStream, line: Line) -> None:
        lines = _lines(stream)
        connection = _Connection(stream, self._options.nick)
        with anyio.fail_after(2 * _ANSWER_SECONDS):
            await self._register(connection, lines)
        for room in self._options.rooms:
            await connection.write(f"JOIN {room}")
        self._connection = connection
        line.connected(f"{connection.nick} on {self._options.server}")
        async with _pinging(connection, self._clock):
            while True:
                with anyio.fail_after(_SILENT_FOR):
                    received = await anext(lines)
                await self._hear(connection, received, line)

    # Logging in

    async def _register(self, connection: _Connection, lines: AsyncIterator[IrcLine]) -> None:
        """Up to the server's welcome (001)."""
        await connection.write("CAP LS 302")
        await connection.write(f"NICK {connection.nick}")
        await connection.write("USER sexton 0 * :Sexton")
        offered: set[str] = set()
        async for received in lines:
            match received.command:
                case "001":
                    connection.nick = received.parameters[0]
                    return
                case "CAP":
                    await self._negotiate(connection, received, offered)
                case "421":  # It knows no CAP, and needs none ended.
                    continue
                case "AUTHENTICATE":
                    said = f"\0{self._options.account}\0{self._options.password}".encode()
                    await connection.write(f"AUTHENTICATE {base64.b64encode(said).decode()}")
                case "903":
                    await connection.write("CAP END")
                case command if command in _LOGIN_FAILED:
                    raise ChannelDown(
                        f"The IRC server refused the login: {received.parameters[-1]}",
                        hint="look at account and password in its settings",
                    )
                case _:
                    await self._answer_always(connection, received)

    async def _negotiate(self, connection: _Connection, received: IrcLine, offered: set[str]) -> None:
        said = received.parameters[1].upper() if len(received.parameters) > 1 else ""
        if said == "LS":
            offered |= {name.partition("=")[0] for name in received.parameters[-1].split()}
            if received.parameters[2] == "*":
                return  # More follows.
            wanted = (offered & _WANTED) - (set() if self._options.account else {"sasl"})
            await connection.write(f"CAP REQ :{' '.join(sorted(wanted))}" if wanted else "CAP END")
        elif said == "ACK" and "sasl" in received.parameters[-1].split():
            await connection.write("AUTHENTICATE PLAIN")
        elif said in {"ACK", "NAK"}:
            await connection.write("CAP END")

    async def _answer_always(self, connection: _Connection, received: IrcLine) -> None:
        if received.command == "PING":
            await connection.write(f"PONG :{received.parameters[-1]}")
        elif received.command == _NICK_TAKEN:
            connection.nick += "_"
            await connection.write(f"NICK {connection.nick}")
        elif received.command == "ERROR":
            raise ChannelDown(f"The IRC server ended the connection: {received.parameters[-1]}")

    # Reading

    async def _hear(self, connection: _Connection, received: IrcLine, line: Line) -> None:
        match received.command:
            case "PRIVMSG":
                if message := self._incoming(connection, received):
                    await line.take([message], None)
            case "PONG":
                if event := connection.pongs.pop(received.parameters[-1], None):
                    event.set()
            case "NICK":
                if received.nick.casefold() == connection.nick.casefold():
                    connection.nick = received.parameters[0]
            case command if command in _NO_SUCH:
                connection.refusals[received.parameters[1].casefold()] = _NO_SUCH[command]
            case _:
                await self._answer_always(connection, received)

    def _incoming(self, connection: _Connection, received: IrcLine) -> Incoming | None:
        where, text = received.parameters[0], received.parameters[-1]
        if text.startswith("\1") or received.nick.casefold() == connection.nick.casefold():
            return None  # A request of programs (CTCP), or ourselves.
        direct = where.casefold() == connection.nick.casefold()
        named = re.match(rf"{re.escape(connection.nick)}\s*[:,]\s*", text, re.I)
        account = received.tags.get("account")
        return Incoming(
            key=received.tags.get("msgid") or str(uuid.uuid4()),
            sender=account or received.source,
            author=received.nick,
            chat=received.nick if direct else where,
            text=text[named.end() :] if named else text,
            direct=direct,
            to_us=direct or named is not None,
            context={} if direct else {"to": received.nick},
        )

    # Writing

    def refusal(self, to: str | None) -> str | None:
        return None if to is None or re.fullmatch(r"[^\s,:\0\a][^\s,\0\a]*", to) else "that is no nick and no room"

    async def send(self, part: Part) -> str | None:
        connection = self._connection
        if connection is None:
            raise SendDelayed("The IRC server is not connected.")
        assert part.to is not None
        said = f"{part.facts['to']}: {part.text}" if part.facts.get("to") else part.text
        try:
            async with connection.sending:
                await self._say(connection, part.to, said)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise SendDelayed("The IRC server went away.") from error
        except TimeoutError as error:
            raise SendDelayed("The IRC server did not confirm it.") from error
        return None

    async def _say(self, connection: _Connection, to: str, text: str) -> None:
        connection.refusals.pop(to.casefold(), None)
        for number, line in enumerate(privmsg_lines(to, text)):
            if number >= _AT_ONCE:
                await self._clock.sleep(_PAUSE)
            await connection.write(line)
        token = uuid.uuid4().hex
        event = connection.pongs[token] = anyio.Event()
        await connection.write(f"PING {token}")
        with anyio.fail_after(_ANSWER_SECONDS):
            await event.wait()
        if why := connection.refusals.pop(to.casefold(), None):
            raise SendFailed(f"The IRC server did not pass it on to {to}: {why}.")

    async def show_working(self, chat: str, *, working: bool) -> None:
        """IRC has no such thing."""

    async def aclose(self) -> None:
        """The connection ends with `run`."""


@asynccontextmanager
async def _pinging(connection: _Connection, clock: Clock) -> AsyncIterator[None]:
    """A server that says nothing for long is asked whether it is there."""

    async def keep_pinging() -> None:
        while True:
            await clock.sleep(_PING_EVERY)
            await connection.write("PING sexton")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_pinging)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def _lines(stream: anyio.abc.ByteStream) -> AsyncIterator[IrcLine]:
    """Every line; raises `anyio.EndOfStream` at the end."""
    buffer = b""
    while True:
        buffer += await stream.receive()
        *whole, buffer = buffer.split(b"\n")
        if len(buffer) > _LONGEST_INPUT:
            raise ChannelDown("The IRC server sent a line that is too long.")
        for raw in whole:
            if line := parse_line(raw.decode("utf-8", "replace").rstrip("\r")):
                yield line


def _make(_name: str, options: IrcOptions, clock: Clock) -> IrcChannel:
    return IrcChannel(options, clock=clock)


KIND = ChannelKind(name="irc", options=IrcOptions, make=_make, needs=("server", "nick"))
