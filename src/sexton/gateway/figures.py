"""Durations, ages, sizes and times as a person reads them (pure)."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """How long something took: `12 ms`, `0.8 s`, `42 s`, `3m 20s`."""
    if seconds is None:
        return ""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return _two_units(seconds)


def age(seconds: float | None) -> str:
    """How old something is, in the two largest units."""
    return "" if seconds is None else _two_units(seconds)


def size(count: float | None) -> str:
    """Bytes, in powers of 1000 as most tools print them."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def interval(seconds: float) -> str:
    """How often something comes: `30s`, `1h30m`; reads back as a duration of the configuration."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_time(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)


def from_now(time: datetime | None, now: datetime) -> str:
    """`in 12s`, `3m 20s ago`, `now`."""
    if time is None:
        return ""
    seconds = (time - now).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {_two_units(seconds)}" if seconds > 0 else f"{_two_units(-seconds)} ago"


def local_time(time: datetime | None, now: datetime) -> str:
    """Today `14:03:07`, else `Nov 22 14:03:07`, another year with its number; in the zone of `now`."""
    if time is None:
        return ""
    there = time.astimezone(now.tzinfo)
    if there.date() == now.date():
        return f"{there:%H:%M:%S}"
    return f"{there:%b %d %H:%M:%S}" if abs(now - there) < timedelta(days=300) else f"{there:%Y-%m-%d %H:%M:%S}"


def first_line(text: str | None) -> str:
    """The first line with something on it; the rest is hinted at.  A JSON object is told by its keys and values."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        return ""
    if lines[0][0] == "{":
        return _told_object(" ".join(lines))
    return lines[0] if len(lines) == 1 else f"{lines[0]} (+{counted(len(lines) - 1, 'line')})"


def _told_object(text: str) -> str:
    """`key: value, …`; the text itself if it was cut off, or is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in document.items()
    )


def counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def node_name(node_id: str | None) -> str:
    """The name in the id of a gateway, `<name>-<16 digits>`; of a long name its first 40 characters."""
    return (node_id or "").rpartition("-")[0] or (node_id or "")


def _two_units(seconds: float) -> str:
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0") or len(parts) == 1)
