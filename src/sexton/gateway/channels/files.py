"""Files that people send: which the agent can see or read, and what is said of the others (pure)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MOST_BYTES: Final = 20 << 20
"""Of one file.  Telegram hands over no larger ones to bots."""

MOST_PICTURE_BYTES: Final = 10 << 20
MOST_FILES: Final = 10
"""Of one message."""

_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingFile:
    """A file that came with a message.  Without `content`, `why` says what kept us from having it."""

    name: str
    content_type: str = "application/octet-stream"
    content: bytes | None = field(default=None, repr=False)
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """`refused` says of each file that is of no use what it is and why."""

    pictures: tuple[Picture, ...] = ()
    texts: tuple[TextFile, ...] = ()
    refused: tuple[str, ...] = ()


def too_large(name: str, content_type: str | None, size: int | None) -> IncomingFile | None:
    """The file without its content if it is larger than we take, so that it is not even fetched."""
    if size is None or size <= MOST_BYTES:
        return None
    why = f"it has {_size(size)}, and {_size(MOST_BYTES)} is the most"
    return IncomingFile(name=name, content_type=content_type or "", why=why)


def sort_files(files: Iterable[IncomingFile]) -> Sorted:
    """By what they hold, whatever they are called."""
    pictures: list[Picture] = []
    texts: list[TextFile] = []
    refused: list[str] = []
    for number, file in enumerate(files, 1):
        if number > MOST_FILES:
            refused.append(f"{file.name}: it is one of more than {MOST_FILES} files")
        elif file.content is None or (large := too_large(file.name, "", len(file.content))):
            refused.append(f"{file.name}: {file.why if file.content is None else large.why if large else ''}")
        elif media_type := picture_type(file.content):
            if len(file.content) > MOST_PICTURE_BYTES:
                told = f"{_size(len(file.content))}, and {_size(MOST_PICTURE_BYTES)} is the most for a picture"
                refused.append(f"{file.name}: it has {told}")
            else:
                pictures.append(Picture(name=file.name, media_type=media_type, data=file.content))
        elif (text := text_of(file.content)) is not None:
            texts.append(TextFile(name=file.name, text=text))
        else:
            refused.append(f"{file.name}: it is neither a picture nor text ({file.content_type or 'of no known kind'})")
    return Sorted(pictures=tuple(pictures), texts=tuple(texts), refused=tuple(refused))


def picture_type(content: bytes) -> str | None:
    """The MIME type of a picture of a kind that models see; None for anything else."""
    for beginning, media_type in _PICTURES:
        if content.startswith(beginning):
            return media_type
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def text_of(content: bytes) -> str | None:
    """The text that a file is: UTF-8, or UTF-16 with its mark; None if it is none."""
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if any(_is_binary(one) for one in set(text)) else text


def picture_name(name: str, media_type: str, number: int) -> str:
    """A file's name for a picture that may have none."""
    return name or f"picture-{number}.{media_type.partition('/')[2].partition('+')[0] or 'bin'}"


def _is_binary(one: str) -> bool:
    return unicodedata.category(one) == "Cc" and one not in "\t\n\r\f\x1b\x85"


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB".replace(".0 ", " ")
