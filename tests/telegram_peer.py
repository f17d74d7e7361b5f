"""A peer that behaves as Telegram's Bot API does (https://core.telegram.org/bots/api), on loopback.

Updates stay until a later `offset` confirms them; one reader at a time, and a new one ends the one before with 409
(`conflicts` counts those that were still there); texts are bounded in UTF-16 units; floods get 429 with `retry_after`;
what is wrong gets Telegram's own words.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote

TOKEN = "1234567:AAtest-token-of-a-bot-that-is-none"
BOT = {"id": 1234567, "is_bot": True, "first_name": "Sexton", "username": "sexton_bot"}


class Refused(Exception):
    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.code = code
        self.document: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
        if parameters:
            self.document["parameters"] = parameters


@dataclass(kw_only=True)
class TelegramPeer:
    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[int, str] = field(default_factory=dict)
    """What the bot said as it stands now, by the id of the message."""
    keeps: bool = False
    """Messages cannot be deleted any more."""
    files: list[tuple[str, bytes]] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    """What the next messages get, one each."""
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Files that people sent, by their id."""
    chats: set[str] = field(default_factory=lambda: {"7", "-100"})
    offsets: list[int] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    reader: int = 0
    readers: list[str] = field(default_factory=list)
    """Who asked for updates, each time: what stands before `/bot` in the address."""
    conflicts: int = 0
    has_rival: bool = False
    """Another program reads with the same token."""
    next_id: int = 100
    changed: threading.Condition = field(default_factory=threading.Condition)
    closing: bool = False

    def write(self, text: str, *, sender: int = 7, chat: int | None = None, **more: Any) -> int:
        """Somebody writes; the id of the update."""
        with self.changed:
            self.next_id += 1
            chat_id = sender if chat is None else chat
            kind = {"type": "private", "first_name": "Ada"} if chat_id > 0 else {"type": "supergroup", "title": "All"}
            message = {
                "message_id": self.next_id,
                "date": 1_795_000_000,
                "chat": {"id": chat_id, **kind},
                "from": {"id": sender, "is_bot": False, "first_name": "Ada"},
                "text": text,
                **more,
            }
            self.updates.append({"update_id": self.next_id, "message": message})
            self.changed.notify_all()
            return self.next_id

    @property
    def texts(self) -> list[str]:
        return [str(one["text"]) for one in self.sent]

    def answer(
        self,
        method: str,
        said: Mapping[str, Any],
        files: Mapping[str, tuple[str, bytes]],
        *,
        asker: str = "",
        is_there: Callable[[], bool] = lambda: True,
    ) -> Any:
        handlers: dict[str, Callable[[], Any]] = {
            "getMe": lambda: BOT,
            "getUpdates": lambda: self._updates(said, asker, is_there),
            "sendMessage": lambda: self._message(said),
            "editMessageText": lambda: self._edit(said),
            "deleteMessage": lambda: self._delete(said),
            "sendDocument": lambda: self._document(said, files),
            "sendPhoto": lambda: self._photo(said, files),
            "getFile": lambda: self._file(said),
            "sendChatAction": lambda: self._action(said),
        }
        if method not in handlers:
            raise Refused(404, "Not Found: method not found")
        return handlers[method]()

    def _action(self, said: Mapping[str, Any]) -> bool:
        self.actions.append(dict(said))
        return True

    def _updates(self, said: Mapping[str, Any], asker: str, is_there: Callable[[], bool]) -> list[dict[str, Any]]:
        conflict = Refused(409, "Conflict: terminated by other getUpdates request")
        if self.has_rival:
            raise conflict
        with self.changed:
            self.reader += 1
            reader = self.reader
            self.readers.append(asker)
            self.changed.notify_all()
            if said.get("offset"):
                offset = int(said["offset"])
                self.offsets.append(offset)
                self.updates = [one for one in self.updates if one["update_id"] >= offset]
            over = lambda: self.updates or self.closing or self.reader != reader  # noqa: E731
            self.changed.wait_for(over, timeout=float(said.get("timeout", 0)))
            if self.reader != reader:
                self.conflicts += is_there()
                raise conflict
            return list(self.updates[:100])

    def _message(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if self.refusals:
            raise self.refusals.pop(0)
        self._check_chat(said)
        text = str(said.get("text", ""))
        if not text.strip():
            raise Refused(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > 4096:
            raise Refused(400, "Bad Request: message is too long")
        self.sent.append(dict(said))
        made = self._sent(said) | {"text": text}
        self.standing[made["message_id"]] = text
        return made

    def _edit(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if self.refusals:
            raise self.refusals.pop(0)
        message = int(said["message_id"])
        if message not in self.standing:
            raise Refused(400, "Bad Request: message to edit not found")
        if self.standing[message] == said["text"]:
            raise Refused(400, "Bad Request: message is not modified: specified new message content is the same")
        self.standing[message] = str(said["text"])
        return self._sent(said) | {"message_id": message, "text": said["text"]}

    def _delete(self, said: Mapping[str, Any]) -> bool:
        if self.refusals:
            raise self.refusals.pop(0)
        if self.keeps:
            raise Refused(400, "Bad Request: message can't be deleted for everyone")
        if self.standing.pop(int(said["message_id"]), None) is None:
            raise Refused(400, "Bad Request: message to delete not found")
        return True

    def _document(self, said: Mapping[str, Any], files: Mapping[str, tuple[str, bytes]]) -> dict[str, Any]:
        self._check_chat(said)
        name, content = files[str(said.get("document", "")).removeprefix("attach://") or "document"]
        self.files.append((name, content))
        return self._sent(said) | {"document": {"file_id": "f", "file_unique_id": "u", "file_name": name}}

    def _photo(self, said: Mapping[str, Any], files: Mapping[str, tuple[str, bytes]]) -> dict[str, Any]:
        self._check_chat(said)
        name, content = files[str(said.get("photo", "")).removeprefix("attach://") or "photo"]
        if len(content) < 16:
            raise Refused(400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
        self.pictures.append((name, content))
        return self._sent(said) | {"photo": [{"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}]}

    def _file(self, said: Mapping[str, Any]) -> dict[str, Any]:
        file_id = str(said["file_id"])
        if file_id not in self.stored:
            raise Refused(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        return {"file_id": file_id, "file_unique_id": file_id, "file_path": f"documents/{file_id}"}

    def _check_chat(self, said: Mapping[str, Any]) -> None:
        if str(said["chat_id"]) not in self.chats:
            raise Refused(400, "Bad Request: chat not found")

    def _sent(self, said: Mapping[str, Any]) -> dict[str, Any]:
        self.next_id += 1
        chat = {"id": int(said["chat_id"]), "type": "private"}
        return {"message_id": self.next_id, "date": 1_795_000_000, "chat": chat, "from": BOT}


@contextmanager
def telegram_peer() -> Iterator[TelegramPeer]:
    """Its threads have ended when the block is left."""
    peer = TelegramPeer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                said, files = _read(raw, self.headers.get("content-type", ""))
                asker, bot, rest = self.path.partition("/bot")
                found = peer.answer(_method(bot + rest), said, files, asker=asker, is_there=self._is_there)
                status, document = 200, {"ok": True, "result": found}
            except Refused as refused:
                status, document = refused.code, refused.document
            with suppress(BrokenPipeError, ConnectionResetError):  # The reader went away in a long poll.
                self._reply(status, document)

        def do_GET(self) -> None:
            content = peer.stored.get(unquote(self.path).removeprefix(f"/file/bot{TOKEN}/documents/"))
            if content is None:
                self._reply(404, {"ok": False, "error_code": 404, "description": "Not Found"})
                return
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _is_there(self) -> bool:
            """Whether whoever asked still waits for the answer."""
            try:
                return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                return True
            except OSError:
                return False

        def _reply(self, status: int, document: Mapping[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at the peer."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        with peer.changed:
            peer.closing = True
            peer.changed.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()  # Waits for the threads of requests that are under way.


def _method(path: str) -> str:
    prefix = f"/bot{TOKEN}/"
    if not path.startswith(prefix):
        raise Refused(401, "Unauthorized")
    return path.removeprefix(prefix)


def _read(raw: bytes, content_type: str) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]]]:
    """The fields of a form or of JSON, and the files of a multipart form."""
    if content_type.startswith("application/json"):
        return json.loads(raw), {}
    if not content_type.startswith("multipart/"):
        return dict(parse_qsl(raw.decode())), {}
    whole = message_from_bytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + raw, policy=policy.HTTP)
    said: dict[str, Any] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for part in whole.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content: Any = part.get_payload(decode=True)
        if filename := part.get_filename():
            files[name] = (filename, content)
        else:
            said[name] = content.decode()
    return said, files
