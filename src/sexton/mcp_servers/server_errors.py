"""What can go wrong between us and one server, in words for a person."""

from __future__ import annotations

from dataclasses import dataclass

from sexton.errors import SextonError


class ServerFailed(SextonError):
    """A server could not be started, or ended."""

    processes_gone: str | None = None
    """What to say of its processes if it is proven that none is left; None for a server that we do not run, too."""


class ServerDied(ServerFailed):
    """The connection to a server ended while a call was under way, for whatever reason.

    `returncode` and `signal` tell how its process ended (None: unknown, or it
    was still running).  `last_words` is the end of its stderr.  The call may
    have had its effect: never send it again without asking.
    """

    def __init__(self, end: ConnectionEnd) -> None:
        super().__init__(end.text(), hint=end.hint)
        self.server = end.server
        self.returncode = end.returncode
        self.signal = end.signal
        self.last_words = end.last_words


class NotWritten(ServerDied):
    """The connection ended before one byte of this request was written, so sending it elsewhere is safe."""


class LineTooLong(ServerDied):
    """The server wrote a line longer than `max_line_bytes`."""


class ServerStoppedReading(ServerDied):
    """The server took nothing from its stdin for `write_timeout` seconds."""


class ConnectFailed(ServerFailed):
    """A server could not be reached, or did not complete the handshake."""


class ConnectTimedOut(ConnectFailed):
    """A server did not complete the handshake within `connect_timeout` seconds."""


class CallTimedOut(SextonError):
    """A request was not answered in time.  The server has been told to stop working on it."""


class InvalidToolResult(SextonError):
    """A tool's structured result does not match the schema that the server itself declared for it."""


class InvalidAnswer(SextonError):
    """A server answered a request with something that is no answer to it.  The call may have had its effect."""


def invalid_answer(server: str, method: str, fault: str) -> InvalidAnswer:
    return InvalidAnswer(
        f"server {server!r} gave an answer to {method} that is not what the protocol says: {fault}.",
        hint="report this to the makers of the server",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEnd:
    """Why a connection ended.  `what` is the sentence after the server's name."""

    server: str
    what: str
    error: type[ServerDied] = ServerDied
    returncode: int | None = None
    signal: int | None = None
    last_words: str = ""
    hint: str | None = None

    def text(self) -> str:
        """Return the whole message, with the last words on lines of their own."""
        return f"server {self.server!r} {self.what}." + quoted_last_words(self.last_words)

    def failure(self, *, written: bool) -> ServerDied:
        """Return the error for one call; `written` is False only when nothing of it reached the pipe."""
        return self.error(self) if written else NotWritten(self)


def words_of(error: BaseException) -> str:
    """Return an error as part of a longer sentence, without its hint and its full stop."""
    return (error.what if isinstance(error, SextonError) else str(error)).removesuffix(".")


def quoted_last_words(stderr_tail: str, *, lines: int = 8) -> str:
    """Return the last non-empty lines of `stderr_tail` as an indented paragraph, or nothing."""
    said = [line.rstrip() for line in stderr_tail.splitlines() if line.strip()][-lines:]
    if not said:
        return ""
    return "\n  Its last words: " + "\n    ".join(said)


def words_of_gone(members: int, *, had_exited: bool) -> str:
    """Say that the processes of a server are gone: those that it had, or, when it had exited itself, that it left."""
    if not members:
        return "Its processes are gone"
    many = f"{members} processes" if members > 1 else "process"
    verb = "are" if members > 1 else "is"
    return f"The {many} that it left {verb} gone" if had_exited else f"Its {many} {verb} gone"
