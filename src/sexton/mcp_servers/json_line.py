"""One JSON message per line, written and read fast, and without stopping everything for a big one.

Both of Python's fast parsers hold the interpreter's lock from the first byte
to the last, so moving them to a thread frees nobody.  `decode_slowly` calls
back into Python for every object and number, and there the interpreter lets
other threads in: the longest stop for 40 MB of small objects falls from 0.5 s
to 0.08 s.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json, to_json

from sexton.mcp_servers.collector import collector_resting

BIG_LINE = 256 * 1024
"""Lines of more bytes than this are parsed in a worker thread, by `decode_slowly`."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"'
_ID = rb'"id"\s*:\s*"?(\d{1,18})"?'
_HEAD = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb"\s*,\s*)?" + _ID + rb"\s*,\s*(?:" + _VERSION + rb'\s*,\s*)?"(?:result|error)"\s*:'
)
_BEGIN = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb'\s*,\s*)?"(?:result|error)"\s*:')
_TAIL = re.compile(
    rb"[}\]\"]\s*,\s*(?:" + _VERSION + rb"\s*,\s*" + _ID + rb"|" + _ID + rb"\s*,\s*" + _VERSION + rb")\s*\}\s*"
)
_LONGEST_TAIL = 200


def encode(message: dict[str, Any]) -> bytes:
    """Return `message` as one line of UTF-8 with its newline."""
    try:
        return to_json(message) + b"\n"
    except ValueError:  # half a surrogate pair, which only the escapes of ASCII can carry
        return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Any:
    """Return the value that `line` holds.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return from_json(line)
    except ValueError:
        # Also right, but not for pydantic's parser: half a surrogate pair, as JavaScript writes
        # it, and a byte order mark.
        return _decode_with(json.JSONDecoder(), line)


def id_in_broken_answer(line: bytes) -> int | None:
    """Return the request that `line` was meant to answer, where a broken line still shows that.

    Only its first and last members are looked at, as the SDKs write them: an
    `id` in the middle may belong to anything.
    """
    line = line.removeprefix(_BYTE_ORDER_MARK)
    found = _HEAD.match(line)
    if found is None and _BEGIN.match(line):
        end = line[-_LONGEST_TAIL:]
        found = next((tail for tail in _TAIL.finditer(end) if tail.end() == len(end)), None)
    if found is None:
        return None
    return int(next(digits for digits in found.groups() if digits))


def decode_slowly(line: bytes) -> Any:
    """Like `decode`, for a worker thread: lets other threads run while it parses."""
    with collector_resting():
        return _decode_with(_YIELDING_DECODER, line)


def _decode_with(decoder: json.JSONDecoder, line: bytes) -> Any:
    try:
        return decoder.decode(line.removeprefix(_BYTE_ORDER_MARK).decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _same(value: dict[str, Any]) -> dict[str, Any]:
    return value


def _integer(digits: str) -> int:
    return int(digits)


def _number(digits: str) -> float:
    return float(digits)


_YIELDING_DECODER = json.JSONDecoder(object_hook=_same, parse_int=_integer, parse_float=_number)
