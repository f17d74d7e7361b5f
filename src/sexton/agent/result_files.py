"""Results that are too long for a model at once, kept as files that it can read further."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import anyio.to_thread

from sexton.errors import SextonError

KEPT: Final = 14 * 86_400.0
"""Seconds for which a file is kept after it was written."""

MOST_READ: Final = 16_000


class NoSuchFile(SextonError):
    """The model named a file that is not one of its own."""


@final
class ResultFiles:
    """One folder per holder below `folder`; a file's name says nothing and leads nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, holder: str, text: str, *, key: str | None = None) -> str:
        """Write the text to a file of `holder`; return its name, which is the same for the same `key`."""
        stem = secrets.token_hex(6) if key is None else hashlib.sha256(key.encode()).hexdigest()[:12]
        name = f"{stem}.txt"
        await anyio.to_thread.run_sync(self._write, self._place(holder) / name, text)
        return name

    async def read(self, holder: str, name: str, *, offset: int, length: int) -> tuple[str, int]:
        """`length` characters (at most `MOST_READ`) from `offset`, and how many the file has.  Raises NoSuchFile."""
        path = self._place(holder) / name
        if Path(name).name != name or not await anyio.to_thread.run_sync(path.is_file):
            raise NoSuchFile(f"There is no kept result {name!r} in this conversation.")
        text = await anyio.to_thread.run_sync(lambda: path.read_text(encoding="utf-8"))
        return text[max(0, offset) : max(0, offset) + min(max(1, length), MOST_READ)], len(text)

    async def forget(self, holder: str) -> None:
        """Remove everything of a holder."""
        place = self._place(holder)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))

    async def forget_old(self) -> None:
        """Remove folders to which nothing was written for `KEPT` seconds."""
        await anyio.to_thread.run_sync(self._remove_old, time.time() - KEPT)

    def _remove_old(self, before: float) -> None:
        for place in self._places():
            if place.stat().st_mtime < before:
                shutil.rmtree(place, ignore_errors=True)

    def _places(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from self._folder.iterdir()

    def _place(self, holder: str) -> Path:
        return self._folder / holder.replace(":", "-").replace("/", "-")

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text.encode("utf-8", "replace").decode(), encoding="utf-8")
        path.chmod(0o600)
