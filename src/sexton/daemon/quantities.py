"""Durations and sizes as people write them (pure).

A duration is `500ms`, `30s`, `10m`, `1h30m`, `2d` or `1w`; a size is `512MiB`,
`2GB` or `64KiB`.  A bare number is refused: nobody remembers which unit a file
written last year meant.
"""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")

DURATION_EXAMPLES = "'500ms', '30s', '10m', '1h30m' or '2d'"
SIZE_EXAMPLES = "'64KiB', '512MiB' or '2GiB'"


def parse_duration(text: str) -> float:
    """The number of seconds that `text` names.  Raises ValueError with a sentence for the reader."""
    rest, seconds = text.strip(), 0.0
    if not rest:
        raise ValueError(f"is empty; a duration looks like {DURATION_EXAMPLES}")
    while rest:
        part = _DURATION_PART.match(rest)
        if part is None:
            raise ValueError(f"is {text!r}, which is no duration; {_duration_advice(text)}")
        seconds += float(part[1]) * _SECONDS[part[2]]
        rest = rest[part.end() :]
    return seconds


def parse_size(text: str) -> int:
    """The number of bytes that `text` names.  Raises ValueError with a sentence for the reader."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"is {text!r}, which is no size; {_size_advice(match)}")
    return int(float(match[1]) * _BYTES[match[2]])


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back: 90 is `1m30s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    parts, rest = [], round(seconds)
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _duration_advice(text: str) -> str:
    bare = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", bare):
        return f"name the unit: '{bare}s' or '{bare}m'"
    return f"write {DURATION_EXAMPLES}"


def _size_advice(match: re.Match[str] | None) -> str:
    if match and (unit := {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}.get(match[2][0].lower())):
        return f"did you mean '{match[1]}{unit}'?"
    return f"write {SIZE_EXAMPLES}"
