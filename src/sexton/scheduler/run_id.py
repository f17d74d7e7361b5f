"""Ids of runs: UUIDs of version 7 (RFC 9562), which sort by the time they were made."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime, timedelta
from itertools import count

from sexton.scheduler.job import EPOCH

_sequence = count()


def new_run_id(now: datetime) -> str:
    """Ids made by one process within one millisecond sort in the order they were made (RFC 9562, 6.2 method 1)."""
    sequence = next(_sequence) & 0xFFF
    number = _milliseconds(now) << 80 | 0x7 << 76 | sequence << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=number))


def run_id_floor(time: datetime) -> str:
    """Sorts before every id that is made at that time or later, and after every one made before."""
    return str(uuid.UUID(int=_milliseconds(time) << 80))


def _milliseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(milliseconds=1)
