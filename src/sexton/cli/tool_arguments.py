"""The arguments of a tool call as they are typed: JSON, or `key=value` pairs (pure)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sexton.errors import UsageError

_SHOWN = 60  # characters of the text around a mistake


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """One JSON object, or pairs.  A pair's value is JSON if it can be read as such, else it is text.

    `key:=value` insists on JSON, `key==value` (or quotes in JSON) on text.  Raises `UsageError` that points at the
    column of the mistake.
    """
    if not words:
        return {}
    if len(words) == 1 and (words[0].lstrip()[:1] in ("{", "[", '"') or "=" not in words[0]):
        return parse_object(words[0], what="The arguments")
    pairs: dict[str, Any] = {}
    for word in words:
        key, value = _parse_pair(word)
        if key in pairs:
            raise UsageError(f"The argument {key!r} is given twice.", hint="give a list as JSON: " + key + "='[1, 2]'")
        pairs[key] = value
    return pairs


def parse_object(text: str, *, what: str) -> dict[str, Any]:
    """A JSON object.  Raises `UsageError` that shows where the text goes wrong."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{what} are not JSON: {error.msg} at {_place(error)}.\n{_excerpt(error)}",
            hint='quote the whole text for the shell: \'{"key": "value"}\', or write key=value',
        ) from error
    except RecursionError as error:
        raise UsageError(f"{what} are nested too deeply.") from error
    if not isinstance(value, dict):
        raise UsageError(
            f"{what} must be a JSON object, not {_kind(value)}.", hint='write \'{"key": "value"}\', or key=value'
        )
    return value


def _parse_pair(word: str) -> tuple[str, Any]:
    key, sign, value = word.partition("=")
    if not sign or not key.rstrip(":"):
        raise UsageError(
            f"The argument {word!r} is not a pair.", hint="write key=value, or all arguments as one JSON object"
        )
    if key.endswith(":"):
        return key[:-1], _parse_json_value(key[:-1], value)
    if value.startswith("="):
        return key, value[1:]
    try:
        return key, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return key, value


def _parse_json_value(key: str, value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"The value of {key!r} is not JSON: {error.msg} at {_place(error)}.\n{_excerpt(error)}",
            hint=f"write {key}=value for text",
        ) from error


def _place(error: json.JSONDecodeError) -> str:
    return f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"


def _excerpt(error: json.JSONDecodeError) -> str:
    """The line of the mistake, cut to fit, with a mark below the column."""
    line = error.doc.split("\n")[error.lineno - 1]  # json counts line feeds, and nothing else, as ends of lines
    start = max(0, error.colno - 1 - _SHOWN // 2)
    shown = line[start : start + _SHOWN].replace("\t", " ")
    return f"  {shown}\n  {' ' * (error.colno - 1 - start)}^"


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
