"""The append-only record of what happened; console, API and logs read it.

`Journal` owns the ring of recent events and the JSONL file behind it.  It
promises that ids only ever grow (also over restarts), that `append` neither
waits nor fails (a disk that is full or read-only costs the file's lines, not
the caller), and that a slow reader loses nothing up to the ring's size and is
told of the gap beyond it.  What the events mean is the business of those who
append them.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Self, TypeAlias

import anyio

from sexton.clock import Clock, SystemClock
from sexton.redaction import Redactor

JSON: TypeAlias = "bool | int | float | str | list[JSON] | Mapping[str, JSON] | None"
GAP = "journal.gap"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`kind` is `<noun>.<what happened>`, `subject` the name of the job, server or tree that it happened to."""

    id: int
    at: datetime
    kind: str
    subject: str
    data: Mapping[str, JSON]

    def as_json(self) -> dict[str, JSON]:
        return {"id": self.id, "at": self.at.isoformat(), "kind": self.kind, "subject": self.subject, "data": self.data}


class Journal:
    """Events in memory and, with a path, on disk.  Every method is called from the event loop's thread."""

    def __init__(
        self, file: EventFile | None, recent: Iterable[Event], *, clock: Clock, keep: int, redactor: Redactor
    ) -> None:
        self._file = file
        self._redactor = redactor
        self._clock = clock
        self._ring = deque(recent, maxlen=keep)
        self._last_id = self._ring[-1].id if self._ring else 0
        self._news: anyio.Event | None = None

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        clock: Clock | None = None,
        keep: int = 10_000,
        redactor: Redactor | None = None,
    ) -> Self:
        """Read the end of the file, when there is one, and continue after it.  Without a path: memory only.

        What `redactor` takes for a secret stands in no event.
        """
        file = EventFile(path) if path else None
        recent = file.read_last(keep) if file else ()
        return cls(file, recent, clock=clock or SystemClock(), keep=keep, redactor=redactor or Redactor())

    def close(self) -> None:
        if self._file:
            self._file.close()

    @property
    def last_id(self) -> int:
        """The id of the newest event; 0 when there has been none."""
        return self._last_id

    def append(self, kind: str, *, subject: str, **data: JSON) -> Event:
        """Record that it happened, now."""
        self._last_id += 1
        told = self._redactor.document(data)
        event = Event(id=self._last_id, at=self._clock.now(), kind=kind, subject=subject, data=told)
        self._ring.append(event)
        if self._file:
            self._file.write(event)
        if self._news:
            self._news.set()
            self._news = None
        return event

    def since(self, event_id: int) -> tuple[Event, ...]:
        """Events with a greater id, oldest first, as far back as the ring goes; a gap event first if it does not."""
        if not self._ring or event_id >= self._last_id:
            return ()
        oldest = self._ring[0].id
        if event_id + 1 < oldest:
            return (self._gap(event_id + 1, oldest - 1), *self._ring)
        return tuple(islice(self._ring, event_id + 1 - oldest, None))

    async def subscribe(self, after: int | None = None) -> AsyncIterator[Event]:
        """Every event after that id (None: from now on), as they come, for ever.

        An event of kind `journal.gap` stands for those that left the ring before this reader took them.
        """
        cursor = self._last_id if after is None else after
        while True:
            for event in self.since(cursor):
                cursor = event.id
                yield event
            if cursor >= self._last_id:
                await self._wait_news()

    async def wait_after(self, event_id: int) -> None:
        """Return once there is an event with a greater id."""
        while self._last_id <= event_id:
            await self._wait_news()

    async def _wait_news(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()

    def _gap(self, first: int, last: int) -> Event:
        lost: dict[str, JSON] = {"first": first, "last": last, "lost": last - first + 1}
        return Event(id=last, at=self._clock.now(), kind=GAP, subject="journal", data=lost)


class EventFile:
    """One event per line.  When the file is full it becomes `<name>.1`, the one before `<name>.2`, and so on."""

    def __init__(self, path: Path, *, max_bytes: int = 16 * 1024 * 1024, older: int = 4) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._older = older
        self._fd: int | None = None
        self._size = 0
        self._waiting: deque[bytes] = deque(maxlen=10_000)
        self._failing = False

    def read_last(self, count: int) -> list[Event]:
        """The last events of this file and, when it is young, of the one before.  Torn lines are left out."""
        lines: deque[str] = deque(maxlen=count)
        for path in (self._rotated(1), self.path):
            try:
                lines.extend(path.read_text(encoding="utf-8", errors="replace").splitlines())
            except OSError:  # Not there yet, or not readable: appending will tell.
                continue
        events: list[Event] = []
        for event in filter(None, map(_parse, lines)):
            if not events or event.id > events[-1].id:
                events.append(event)
        return events

    def write(self, event: Event) -> None:
        """Append a line.  What cannot be written now waits, and goes first the next time."""
        self._waiting.append(json.dumps(event.as_json(), separators=(",", ":"), default=str).encode() + b"\n")
        try:
            self._write_waiting()
        except OSError as error:
            self._note_failure(error)
        else:
            self._failing = False

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write_waiting(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            if self._size + len(line) > self._max_bytes:
                self._rotate()
            self._write_line(self._descriptor(), line)
            self._waiting.popleft()

    def _write_line(self, fd: int, line: bytes) -> None:
        """A line that does not fit whole is taken back, so that the next one does not run into it."""
        written = os.write(fd, line)
        if written < len(line):
            os.ftruncate(fd, self._size)
            raise OSError(f"only {written} of {len(line)} bytes were written")
        self._size += written

    def _descriptor(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
            self._end_torn_line(self._fd)
        return self._fd

    def _end_torn_line(self, fd: int) -> None:
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            self._size += os.write(fd, b"\n")

    def _rotate(self) -> None:
        self.close()
        for number in range(self._older, 0, -1):
            newer = self._rotated(number - 1)
            if newer.exists():
                newer.replace(self._rotated(number))
        self._size = 0

    def _rotated(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def _note_failure(self, error: OSError) -> None:
        if not self._failing:
            LOG.error("events cannot be written to %s (%s); they are kept in memory and tried again", self.path, error)
        self._failing = True


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
        at = datetime.fromisoformat(event["at"]).astimezone(UTC)
        return Event(id=int(event["id"]), at=at, kind=event["kind"], subject=event["subject"], data=event["data"])
    except (ValueError, KeyError, TypeError):  # A line that a crash or a full disk cut short.
        return None
