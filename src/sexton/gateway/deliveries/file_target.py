"""Files: each delivery is appended; a full file becomes `<name>.1`, the one before `<name>.2`, and so on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import anyio
import anyio.to_thread

from sexton.gateway.deliveries.parts import Part, TextLimits
from sexton.gateway.deliveries.target import SendDelayed

# As far back as a repeat is looked for: what was written just before a crash is at the end.
_LOOK_BACK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """`older` is how many full files are kept beside the one that grows."""

    path: Path
    form: Literal["text", "jsonl"] = "text"
    max_bytes: int = 16 << 20
    older: int = 4
    give_up_after: float = 86_400.0


@final
class FileTarget:
    """Appends each delivery once, on disk when `send` returns.

    A delivery whose key the end of the file has already (a crash came between
    its writing and the outbox) is not written again; half of one is ended.
    """

    limits = TextLimits(titles=True)

    def __init__(self, config: FileConfig) -> None:
        self.config = config
        self._one_at_a_time = anyio.Lock()

    @property
    def give_up_after(self) -> float:
        return self.config.give_up_after

    def refusal(self, to: str | None) -> str | None:
        return None if to is None else "a file has no recipients, only its name"

    async def send(self, part: Part) -> str | None:
        entry, mark = _entry(part, self.config.form)
        async with self._one_at_a_time:
            try:
                await anyio.to_thread.run_sync(self._append, entry, mark)
            except OSError as error:
                raise SendDelayed(
                    f"{self.config.path} cannot be written: {error.strerror or error}.",
                    hint="look at the disk, and at owner and mode of the file and its folder",
                ) from error
        return str(self.config.path)

    async def aclose(self) -> None:
        """There is nothing to let go of: the file is opened for each delivery."""

    def _append(self, entry: bytes, mark: bytes) -> None:
        path = self.config.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            end = os.pread(fd, _LOOK_BACK, max(0, size - _LOOK_BACK))
            if mark in end:
                return
            if size and size + len(entry) > self.config.max_bytes:
                os.close(fd)
                fd = self._rotate()
                end = b""
            _write_whole(fd, entry if not end or end.endswith(b"\n") else b"\n" + entry)
        finally:
            os.close(fd)

    def _rotate(self) -> int:
        for number in range(self.config.older, 0, -1):
            newer = self._rotated(number - 1)
            if newer.exists():
                newer.replace(self._rotated(number))
        if not self.config.older:
            self.config.path.unlink()
        return os.open(self.config.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotated(self, number: int) -> Path:
        return self.config.path.with_name(f"{self.config.path.name}.{number}") if number else self.config.path


def _write_whole(fd: int, entry: bytes) -> None:
    """All of it on disk, or none of it: what a full disk has taken is taken back."""
    size = os.fstat(fd).st_size
    written = os.write(fd, entry)
    if written < len(entry):
        os.ftruncate(fd, size)
        raise OSError(f"only {written} of {len(entry)} bytes were written")
    os.fsync(fd)


def _entry(part: Part, form: Literal["text", "jsonl"]) -> tuple[bytes, bytes]:
    """What is appended, and its last piece, by which a repeat is known."""
    if form == "jsonl":
        document = {"at": part.created_at, "title": part.title, "text": part.text, "job": part.job, "run": part.run}
        mark = f',"key":{json.dumps(part.key)}}}\n'
        body = json.dumps({**document, **part.facts}, ensure_ascii=False, separators=(",", ":"))
        return f"{body[:-1]}{mark}".encode("utf-8", "replace"), mark.encode()
    mark = f"--- end of {part.key}\n"
    heading = f"--- {part.created_at} {part.title or 'message'}\n"
    return f"{heading}{part.text.rstrip()}\n{mark}".encode("utf-8", "replace"), mark.encode()
