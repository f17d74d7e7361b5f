"""The time where the reader is."""

from __future__ import annotations

from datetime import datetime


def now() -> datetime:
    """Now, aware, in the machine's own time zone."""
    return datetime.now().astimezone()
