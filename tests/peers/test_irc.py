"""IRC, over a real server (ngircd)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from peers.channel_runs import SECONDS, running_channel
from peers.real_server import accepts, free_port, real_server
from sexton.gateway.channels.irc import IrcOptions
from sexton.gateway.channels.irc_line import IrcLine, parse_line, privmsg_lines

SETTINGS = """\
[Global]
Name = irc.example.org
Info = a test
Listen = 127.0.0.1
Ports = {port}
MotdPhrase = hello
[Limits]
MaxPenaltyTime = 0
ConnectRetry = 60
[Options]
DNS = no
Ident = no
PAM = no
"""


@pytest.fixture
def port(tmp_path: Path, debian_packages: None) -> Iterator[int]:
    port = free_port()
    folder = tmp_path / "irc"
    folder.mkdir()
    folder.joinpath("ngircd.conf").write_text(SETTINGS.format(port=port))
    argv = ["ngircd", "-n", "-f", str(folder / "ngircd.conf")]
    with real_server(argv, folder=folder, is_up=lambda: accepts(port)):
        yield port


@pytest.fixture
def options(port: int) -> IrcOptions:
    return IrcOptions(server=f"127.0.0.1:{port}", security="none", nick="sexton", rooms=["#all"])


class Member:
    """Somebody at a plain client."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self.source = ""

    async def type(self, line: str) -> None:
        await self._stream.send(f"{line}\r\n".encode())

    async def hear(self, text: str, *, command: str = "PRIVMSG") -> IrcLine:
        """Wait for a line of that command with that text in it."""
        with anyio.fail_after(SECONDS):
            while True:
                while b"\n" not in self._buffer:
                    self._buffer += await self._stream.receive()
                raw, self._buffer = self._buffer.split(b"\n", 1)
                line = parse_line(raw.decode().rstrip("\r"))
                assert line is not None
                if line.command == "PING":
                    await self.type(f"PONG :{line.parameters[-1]}")
                if line.command == command and text in line.parameters[-1]:
                    return line


@asynccontextmanager
async def member(port: int, nick: str) -> AsyncIterator[Member]:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        made = Member(stream)
        await made.type(f"NICK {nick}")
        await made.type(f"USER {nick} 0 * :{nick}")
        await made.hear("", command="001")
        await made.type("JOIN #all")
        made.source = (await made.hear("#all", command="JOIN")).source
        yield made


@pytest.mark.anyio
async def test_a_message_is_answered_directly_and_in_a_room(tmp_path: Path, port: int, options: IrcOptions) -> None:
    async with member(port, "ada") as ada, running_channel(tmp_path, "irc", options, allow=(ada.source,)) as bench:
        await ada.hear("#all", command="JOIN")
        await ada.type("PRIVMSG sexton :hello")
        assert (await ada.hear("you said hello")).parameters[0] == "ada"
        await ada.type("PRIVMSG #all :just talking")
        await ada.type("PRIVMSG #all :sexton: are you there?")
        answer = await ada.hear("ada: you said are you there?")
        assert (answer.parameters[0], answer.nick) == ("#all", "sexton")
        assert bench.chats.said == ["hello", "are you there?"]


@pytest.mark.anyio
async def test_a_nick_alone_is_nobody(tmp_path: Path, port: int, options: IrcOptions) -> None:
    async with member(port, "ada") as ada, running_channel(tmp_path, "irc", options, allow=("ada",)) as bench:
        await ada.type("PRIVMSG sexton :hello")
        await ada.hear("I talk only to people whom my owner has let in.")
        assert bench.chats.said == []


@pytest.mark.anyio
async def test_outputs_are_lines_that_the_server_confirms(tmp_path: Path, port: int, options: IrcOptions) -> None:
    async with member(port, "ada") as ada, running_channel(tmp_path, "irc", options) as bench:
        await bench.deliveries.send("irc:ada", f"first\nQUIT :no command\n{'é' * 600}", key="1")
        assert (await ada.hear("first")).nick == "sexton"
        await ada.hear("QUIT :no command")
        pieces = [(await ada.hear("é")).parameters[-1] for _ in range(4)]
        assert "".join(pieces) == "é" * 600
        nobody = await bench.deliveries.send("irc:nobody", "hello", key="2")
        await bench.wait(lambda: bench.has("delivery.failed"))
        assert "nobody is called so" in str((await bench.deliveries.delivery(nobody.id)).error)


@pytest.mark.anyio
async def test_a_nick_that_is_taken_is_varied(tmp_path: Path, port: int, options: IrcOptions) -> None:
    async with member(port, "sexton") as other, running_channel(tmp_path, "irc", options) as bench:
        (status,) = await bench.channels.statuses()
        assert str(status.account).startswith("sexton_ on ")
        await other.type("PRIVMSG sexton_ :hello")
        await other.hear("you said hello")


@pytest.mark.anyio
async def test_a_server_that_goes_away_is_noticed(tmp_path: Path, options: IrcOptions) -> None:
    port = free_port()
    folder = tmp_path / "other"
    folder.mkdir()
    folder.joinpath("ngircd.conf").write_text(SETTINGS.format(port=port))
    argv = ["ngircd", "-n", "-f", str(folder / "ngircd.conf")]
    there = options.model_copy(update={"server": f"127.0.0.1:{port}"})
    async with AsyncExitStack() as stack:
        with real_server(argv, folder=folder, is_up=lambda: accepts(port)):
            bench = await stack.enter_async_context(running_channel(tmp_path, "irc", there))
        await bench.wait(lambda: bench.has("channel.down"))


def test_lines_are_read_with_their_tags() -> None:
    line = parse_line(r"@account=ada;msgid=7\s8 :ada!a@host PRIVMSG #all :hello: there")
    assert line == IrcLine(
        command="PRIVMSG",
        parameters=("#all", "hello: there"),
        source="ada!a@host",
        tags={"account": "ada", "msgid": "7 8"},
    )
    assert parse_line("   ") is None


def test_no_text_can_be_a_command() -> None:
    lines = list(privmsg_lines("ada", "one\r\nQUIT\rPART\0"))
    assert lines == ["PRIVMSG ada :one", "PRIVMSG ada :QUIT", "PRIVMSG ada :PART"]
