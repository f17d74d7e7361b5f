"""A form for the arguments of a tool, from the JSON schema of its input (pure).

What a form cannot hold (nested lists, choices between objects, deep nesting) becomes a field for JSON, so that every
tool can be tried.  The schema comes from the server: nothing in it is trusted, whatever cannot be read is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEEPEST = 2
MOST_FIELDS = 100
MOST_OPTIONS = 200
_LONG_TEXT = ("content", "text", "body", "message", "prompt", "query", "code", "sql", "script", "markdown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input.  `kind`: text, long, integer, number, boolean, choice, lines (one item a line), json or group.

    `path` leads to its value, as JSON; `value` is the default as text; `options` are JSON values, for a choice;
    `items` is the kind of each line; `children` the fields of a group.
    """

    name: str
    path: str
    kind: str
    title: str
    description: str
    is_required: bool
    value: str = ""
    options: Sequence[tuple[str, str]] = ()
    items: str = "text"
    minimum: str | None = None
    maximum: str | None = None
    children: Sequence[Field] = ()


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields for an object of that schema, the required ones first."""
    return _fields(schema, schema, path=())


def _fields(schema: Mapping[str, Any], root: Mapping[str, Any], *, path: tuple[str, ...]) -> tuple[Field, ...]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping):
        return ()
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    fields = [
        _field(str(name), one if isinstance(one, Mapping) else {}, root, path=(*path, str(name)), needed=name in needed)
        for name, one in list(properties.items())[:MOST_FIELDS]
    ]
    return tuple(sorted(fields, key=lambda field: not field.is_required))


def _field(
    name: str, schema: Mapping[str, Any], root: Mapping[str, Any], *, path: tuple[str, ...], needed: bool
) -> Field:
    schema = _resolved(schema, root)
    kind = _kind(name, schema, root, depth=len(path))
    return Field(
        name=name,
        path=json.dumps(path),
        kind=kind,
        title=_text(schema.get("title")) or name,
        description=_text(schema.get("description")),
        is_required=needed,
        value=_default(schema, kind),
        options=_options(schema) if kind == "choice" else (),
        items=_items_kind(schema, root) if kind == "lines" else "text",
        minimum=_bound(schema, "minimum"),
        maximum=_bound(schema, "maximum"),
        children=_fields(schema, root, path=path) if kind == "group" else (),
    )


def _kind(name: str, schema: Mapping[str, Any], root: Mapping[str, Any], *, depth: int) -> str:
    if _options(schema):
        return "choice"
    match schema.get("type"):
        case "string":
            return "long" if name.lower() in _LONG_TEXT and "format" not in schema else "text"
        case "integer" | "number" | "boolean" as kind:
            return str(kind)
        case "array" if _items_kind(schema, root) != "json":
            return "lines"
        case "object" if schema.get("properties") and depth < DEEPEST:
            return "group"
        case _:
            return "json"


def _items_kind(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return "json"
    match _resolved(items, root).get("type"):
        case "string":
            return "text"
        case "integer" | "number" as kind:
            return str(kind)
        case _:
            return "json"


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with a reference into the same document followed, and `null` taken out of what it may be."""
    for _ in range(8):
        if isinstance(reference := schema.get("$ref"), str):
            schema = {**_lookup(reference, root), **{key: schema[key] for key in schema if key != "$ref"}}
        elif one := _only_choice(schema):
            schema = {**{key: schema[key] for key in schema if key not in {"anyOf", "oneOf", "allOf"}}, **one}
        elif isinstance(kinds := schema.get("type"), list) and len(rest := [k for k in kinds if k != "null"]) == 1:
            schema = {**schema, "type": rest[0]}
        else:
            return schema
    return {}


def _only_choice(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(key)
        if not isinstance(choices, list):
            continue
        left = [one for one in choices if isinstance(one, Mapping) and one.get("type") != "null"]
        if len(left) == 1:
            return left[0]
    return None


def _lookup(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    place: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        place = place.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    return place if isinstance(place, Mapping) and place is not root else {}


def _options(schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(JSON, what is shown) of each value that it may have."""
    values = schema.get("enum")
    if not isinstance(values, list) or not 0 < len(values) <= MOST_OPTIONS:
        return ()
    return tuple((json.dumps(value), value if isinstance(value, str) else json.dumps(value)) for value in values)


def _default(schema: Mapping[str, Any], kind: str) -> str:
    if (value := schema.get("default")) is None:
        return ""
    match kind:
        case "text" | "long":
            return value if isinstance(value, str) else ""
        case "lines":
            return "\n".join(map(str, value)) if isinstance(value, list) else ""
        case "group":
            return ""
        case _:
            return json.dumps(value)


def _bound(schema: Mapping[str, Any], key: str) -> str | None:
    value = schema.get(key)
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
