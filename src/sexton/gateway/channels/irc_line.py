"""Lines of IRC, read and written (pure).  RFC 1459, RFC 2812, and IRCv3's message tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# 512 bytes with the line's end (RFC 1459, 2.3), less what the server puts before it: `:nick!user@host `.
LONGEST_LINE = 510 - 100
_UNESCAPED = {":": ";", "s": " ", "\\": "\\", "r": "\r", "n": "\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class IrcLine:
    """`source` is `nick!user@host` or a server's name."""

    command: str
    parameters: tuple[str, ...] = ()
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def nick(self) -> str:
        return self.source.partition("!")[0]


def parse_line(text: str) -> IrcLine | None:
    """None if it is no line of IRC."""
    tags: dict[str, str] = {}
    source = ""
    if text.startswith("@"):
        written, _, text = text[1:].partition(" ")
        tags = dict(_tags(written))
    text = text.lstrip(" ")
    if text.startswith(":"):
        source, _, text = text[1:].partition(" ")
    head, colon, rest = text.lstrip(" ").partition(" :")
    words = head.split()
    if not words:
        return None
    parameters = (*words[1:], rest) if colon else tuple(words[1:])
    return IrcLine(command=words[0].upper(), parameters=parameters, source=source, tags=tags)


def _tags(written: str) -> Iterator[tuple[str, str]]:
    for one in written.split(";"):
        name, _, value = one.partition("=")
        yield name, _unescaped(value)


def _unescaped(value: str) -> str:
    pieces = iter(value)
    return "".join(_UNESCAPED.get(following := next(pieces, ""), following) if one == "\\" else one for one in pieces)


def privmsg_lines(to: str, text: str) -> Iterator[str]:
    """The lines that say `text` to somebody: one or more for each line of it, none longer than a server passes on."""
    room = LONGEST_LINE - len(f"PRIVMSG {to} :".encode())
    for line in clean(text).split("\n"):
        rest = line.rstrip()
        while rest:
            piece = rest.encode()[:room].decode("utf-8", "ignore")
            if len(piece) < len(rest) and (space := piece.rfind(" ", len(piece) // 2)) > 0:
                piece = piece[:space]
            yield f"PRIVMSG {to} :{piece}"
            rest = rest[len(piece) :].lstrip()


def clean(text: str) -> str:
    """Without what would end the line, so that no text can be a command."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").encode("utf-8", "replace").decode()
