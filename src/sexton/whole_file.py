"""Files that are replaced in one step: whoever reads one finds the old text or the new one, never a part."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, *, mode: int = 0o600, durable: bool = False) -> None:
    """Put `text` (as UTF-8) in the place of what is at `path`; only its user can read it, unless `mode` says more.

    `durable`: it outlives a power failure (fsync(2)), which can take seconds on a busy disk.  Raises OSError, and then
    `path` is as it was and nothing is left beside it.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
