"""What is said of one model on this machine: frozen data."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXTRA: Final = "sexton[local]"
"""What has to be installed to run a model here."""

SLOTS: Final = 2
"""Answers that one server writes at the same time; further ones wait inside it, in the order in which they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """One `[models.NAME]` with `provider = "local"`.  Times are in seconds, `context` in tokens of one conversation.

    `file` is a path, or a name of `MODEL_FILES`.  `threads` None: half of the cores that
    we may use, for a thread that has to wait for its core makes all others wait (docs/benchmarks.md).
    """

    name: str
    file: Path | str
    context: int = 8_192
    threads: int | None = None
    idle_timeout: float = 600.0
    start_timeout: float = 300.0


def is_installed() -> bool:
    """Whether the extra is there.  It is not loaded: only the server's own process does that."""
    return importlib.util.find_spec("xllamacpp") is not None
