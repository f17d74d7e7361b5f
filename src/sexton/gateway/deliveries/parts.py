"""A message as its target can take it: whole, in several parts, as an attachment, or cut short (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sexton.gateway.deliveries.delivery import NOTHING, Attachment, Delivery
from sexton.journal import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """What a target can take in one message.

    `most` is the longest text by `measure` (None: any); a longer one is sent
    in up to `messages` parts, and what would need more is attached as a file
    where the target `attaches`, else cut.  Files go with the last part where
    the target keeps them `together`, else each in a part of its own.
    `titles`: it has a place of its own for a title, which elsewhere is the
    first line.
    """

    most: int | None = None
    messages: int = 4
    attaches: bool = False
    together: bool = False
    titles: bool = False
    measure: Callable[[str], int] = len


def utf16_length(text: str) -> int:
    """How Telegram counts, and Discord at most: in UTF-16 code units."""
    return len(text.encode("utf-16-le", "replace")) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One message to one recipient.

    `key` is the delivery's, with the target, and with the number of the part
    where there are `count` > 1; so it is unique and the same at every attempt.
    """

    key: str
    to: str | None
    text: str
    title: str | None = None
    attachments: tuple[Attachment, ...] = ()
    number: int = 1
    count: int = 1
    created_at: str = ""
    job: str | None = None
    run: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)


def parts_of(delivery: Delivery, limits: TextLimits, files: tuple[Attachment, ...] = ()) -> tuple[Part, ...]:
    """What is to be sent, in order; the `files` of the delivery last."""
    if not files:
        return _text_parts(delivery, limits)
    if not limits.attaches:
        note = f"[With {len(files)} {'file' if len(files) == 1 else 'files'}, which cannot be sent here.]"
        said = replace(delivery.message, text=f"{delivery.message.text}\n\n{note}".strip())
        return _text_parts(replace(delivery, message=said), limits)
    texts = _text_parts(delivery, limits)
    *first, last = texts
    if limits.together:
        return (*first, replace(last, attachments=(*last.attachments, *files)))
    own = tuple(
        replace(last, key=f"{delivery.key}:{delivery.target}:file{number}", text="", title=None, attachments=(file,))
        for number, file in enumerate(files, 1)
    )
    said_nothing = len(texts) == 1 and not last.text.strip() and not last.attachments
    return own if said_nothing else (*texts, *own)


def _text_parts(delivery: Delivery, limits: TextLimits) -> tuple[Part, ...]:
    message = delivery.message
    title = message.title if limits.titles else None
    text = message.text if limits.titles or not message.title else f"{message.title}\n\n{message.text}"
    whole = Part(
        key=f"{delivery.key}:{delivery.target}",
        to=delivery.to,
        title=title,
        text=text,
        created_at=delivery.created_at.isoformat(),
        job=delivery.job,
        run=delivery.run,
        facts=message.facts,
    )
    if limits.most is None or limits.measure(text) <= limits.most:
        return (whole,)
    pieces = split_text(text, limits.most, measure=limits.measure)
    if len(pieces) <= limits.messages:
        return tuple(
            replace(whole, key=f"{whole.key}:{number}", text=piece, number=number, count=len(pieces))
            for number, piece in enumerate(pieces, 1)
        )
    short = replace(whole, text=shortened(text, limits.most, measure=limits.measure, whole=_where(delivery, limits)))
    if not limits.attaches:
        return (short,)
    attachment = Attachment(
        name=f"{delivery.job or 'message'}.txt",
        content_type="text/plain; charset=utf-8",
        content=message.text.encode("utf-8", "replace"),
    )
    return (replace(short, attachments=(attachment,)),)


def _where(delivery: Delivery, limits: TextLimits) -> str:
    if limits.attaches:
        return "all of it is attached"
    return f"all of it: sexton deliveries show {delivery.id} --text"


def shortened(text: str, most: int, *, measure: Callable[[str], int] = len, whole: str) -> str:
    """The beginning of `text`, and in the last line how much is left out and where the `whole` is."""
    note = f"\n[… {len(text)} characters; {whole}]"
    head = text[: fitting(text, max(0, most - measure(note)), measure)]
    return head.rstrip() + f"\n[… {len(text) - len(head.rstrip())} characters; {whole}]"


def split_text(text: str, most: int, *, measure: Callable[[str], int] = len) -> tuple[str, ...]:
    """Pieces of at most `most`, broken between paragraphs, lines or words where that can be.

    A code block (``` … ```) that a break falls into is closed and opened again.
    """
    pieces: list[str] = []
    rest, opened = text, ""
    while measure(opened + rest) > most:
        room = most - measure(opened) - (measure("\n```") if opened or "```" in rest else 0)
        end = _breaking_point(rest, max(1, fitting(rest, room, measure)))
        piece = opened + rest[:end].rstrip()
        opened = _open_fence(piece)
        pieces.append(piece + ("\n```" if opened else ""))
        rest = rest[end:].lstrip("\n") if opened else rest[end:].lstrip()
    if rest.strip():
        pieces.append(opened + rest)
    return tuple(pieces)


def fitting(text: str, most: int, measure: Callable[[str], int]) -> int:
    """How many of the first characters measure at most `most`."""
    low, high = 0, min(len(text), most)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle]) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def _breaking_point(text: str, longest: int) -> int:
    """Where to break within the first `longest` characters, but not before their middle unless it must be."""
    for separator in ("\n\n", "\n", " "):
        found = text.rfind(separator, longest // 2, longest + 1)
        if found > 0:
            return found
    return longest


def _open_fence(piece: str) -> str:
    """The line that opens the code block in which `piece` ends, or nothing."""
    opened = ""
    for line in piece.splitlines():
        if line.lstrip().startswith("```"):
            opened = "" if opened else line.strip()[:40] + "\n"
    return opened
