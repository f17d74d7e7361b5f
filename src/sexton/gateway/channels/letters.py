"""Mail as messages, and messages as mail (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses
from html.parser import HTMLParser

from sexton.gateway.channels.channel import Incoming
from sexton.gateway.channels.files import IncomingFile
from sexton.gateway.deliveries import Part

_LONGEST_TEXT = 200_000
_QUOTE_HEAD = re.compile(
    r"^(On .{0,200}wrote:|Am .{0,200}schrieb .{0,100}:|Op .{0,200}schreef .{0,100}:|-+ ?Original)", re.I
)


def incoming_of(
    raw: bytes, *, fallback_key: str, own: Collection[str], authserv: str | None, is_cut: bool = False
) -> Incoming | None:
    """The message that a mail is; None if it is not to be answered: from a program, a list, ourselves, or forged.

    `is_cut`: `raw` is only the beginning of it, so what it holds last is not whole.
    """
    mail = message_from_bytes(raw, policy=policy.default)
    senders = [address.lower() for _, address in getaddresses(mail.get_all("from", []))]
    if len(senders) != 1 or "@" not in senders[0] or senders[0] in own or is_automatic(mail):
        return None
    if authserv is not None and not _is_authentic(mail, authserv):
        return None
    sender, message_id = senders[0], _one_line(mail.get("message-id"))
    subject, references = _one_line(mail.get("subject")), _references(mail)
    root = references[0] if references else message_id or fallback_key
    text = own_words(text_of(mail))
    reply_subject = subject if re.match(r"(re|aw|antw)\s*:", subject, re.I) else f"Re: {subject}".strip()
    return Incoming(
        key=message_id[:255] or fallback_key,
        sender=sender,
        author=_author(mail) or sender,
        chat=sender,
        thread=f"{sender[:200]}/{hashlib.sha256(root.encode()).hexdigest()[:16]}",
        text=text if references or not subject else f"{subject}\n\n{text}".strip(),
        files=files_of(mail, is_cut=is_cut),
        context={
            "subject": reply_subject,
            "in_reply_to": message_id,
            "references": " ".join([*references[-20:], message_id] if message_id else references[-20:]),
        },
    )


def compose(part: Part, *, sender: str, now: datetime) -> EmailMessage:
    """The mail of a part.  Its Message-ID comes of the key: a repeat is the same mail, which clients show once."""
    mail = EmailMessage(policy=policy.SMTP)
    facts = part.facts
    answers = bool(facts.get("reply"))
    first_line = next(iter(part.text.strip().splitlines()), "") or "Message"
    mail["From"], mail["To"] = sender, part.to or ""
    mail["Subject"] = _one_line(facts.get("subject") or part.title or first_line[:100])
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{hashlib.sha256(part.key.encode()).hexdigest()[:32]}@{sender.rpartition('@')[2]}>"
    for header in ("in_reply_to", "references"):
        if value := _one_line(facts.get(header)):
            mail[header.replace("_", "-").title()] = value
    # RFC 3834: so that no program answers it.
    mail["Auto-Submitted"] = "auto-replied" if answers else "auto-generated"
    mail.set_content(part.text.encode("utf-8", "replace").decode())
    for file in part.attachments:
        main, _, rest = file.content_type.partition("/")
        mail.add_attachment(file.content, maintype=main, subtype=rest.partition(";")[0], filename=file.name)
    return mail


def is_automatic(mail: EmailMessage) -> bool:
    """Whether a program or a list sent it (RFC 3834, RFC 2919, and what is used besides)."""
    submitted = _one_line(mail.get("auto-submitted", "no")).lower()
    if submitted.partition(";")[0].strip() != "no":
        return True
    if _one_line(mail.get("precedence")).lower() in {"bulk", "list", "junk", "auto_reply"}:
        return True
    if any(name in mail for name in ("list-id", "list-unsubscribe", "x-auto-response-suppress", "x-autoreply")):
        return True
    return _one_line(mail.get("return-path")).strip() == "<>" or mail.get_content_type() == "multipart/report"


def _is_authentic(mail: EmailMessage, authserv: str) -> bool:
    """Whether our own server, in the topmost of its Authentication-Results, says that DMARC passed (RFC 8601).

    What stands below may have been written by the sender.
    """
    results = [_one_line(value) for value in mail.get_all("authentication-results", [])]
    if not results:
        return False
    server, _, rest = results[0].partition(";")
    return server.split(maxsplit=1)[:1] == [authserv] and re.search(r"\bdmarc\s*=\s*pass\b", rest, re.I) is not None


def text_of(mail: EmailMessage) -> str:
    """Its text, or what its HTML says."""
    body = mail.get_body(preferencelist=("plain", "html"))
    if body is None:
        return ""
    try:
        text = str(body.get_content())
    except (LookupError, UnicodeError):  # An unknown charset.
        text = bytes(body.get_payload(decode=True) or b"").decode("utf-8", "replace")
    text = _text_of_html(text) if body.get_content_type() == "text/html" else text
    return text.replace("\r\n", "\n").strip()[:_LONGEST_TEXT]


def files_of(mail: EmailMessage, *, is_cut: bool = False) -> tuple[IncomingFile, ...]:
    """What is attached, and pictures within the text."""
    text = mail.get_body(preferencelist=("plain", "html"))
    found: list[IncomingFile] = []
    for part in mail.walk():
        attached = part.get_content_disposition() == "attachment" or part.get_filename() is not None
        picture = part.get_content_maintype() == "image"
        if part is text or part.is_multipart() or not (attached or picture):
            continue
        kind = part.get_content_type()
        name = _one_line(part.get_filename())[:200] or f"{part.get_content_maintype()}-{len(found) + 1}"
        content = part.get_payload(decode=True)
        found.append(IncomingFile(name=name, content_type=kind, content=content if isinstance(content, bytes) else b""))
    if is_cut and found:
        last = found[-1]
        found[-1] = IncomingFile(name=last.name, content_type=last.content_type, why="the mail is too large")
    return tuple(found)


def own_words(text: str) -> str:
    """Without what is quoted at its end and without its signature."""
    lines = text.split("\n-- \n", maxsplit=1)[0].splitlines()
    while lines and (not lines[-1].strip() or lines[-1].startswith(">")):
        lines.pop()
    for number, line in enumerate(lines):
        if _QUOTE_HEAD.match(line.strip()) and all(not rest or rest.startswith(">") for rest in lines[number + 1 :]):
            lines = lines[:number]
            break
    return "\n".join(lines).strip() or text


def _references(mail: EmailMessage) -> list[str]:
    found = re.findall(r"<[^<>\s]+>", _one_line(mail.get("references")))
    return found or re.findall(r"<[^<>\s]+>", _one_line(mail.get("in-reply-to")))


def _author(mail: EmailMessage) -> str:
    return _one_line(getaddresses(mail.get_all("from", []))[0][0])[:200]


def _one_line(value: object) -> str:
    return " ".join(str(value or "").split())[:2_000]


def _text_of_html(html: str) -> str:
    reader = _HtmlText()
    reader.feed(html)
    reader.close()
    return re.sub(r"\n{3,}", "\n\n", "".join(reader.pieces()))


class _HtmlText(HTMLParser):
    """What a reader sees of HTML, with a line end for each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._hidden = 0

    def pieces(self) -> Iterator[str]:
        return iter(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in {"script", "style", "head"}:
            self._hidden += 1
        if tag in {"br", "p", "div", "li", "tr", "h1", "h2", "h3", "blockquote"}:
            self._pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style", "head"}:
            self._hidden = max(0, self._hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._pieces.append(re.sub(r"\s+", " ", data))
