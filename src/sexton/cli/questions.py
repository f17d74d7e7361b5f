"""What a turn asks the person at the terminal: may a call be made, and what a server wants filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from sexton.cli.output import printable, say

_YES, _NO = frozenset({"y", "yes", "true"}), frozenset({"n", "no", "false"})


def answer_to(event: Mapping[str, Any]) -> dict[str, Any]:
    """Ask what `event` (of an approval) asks; returns what the API takes.  Ctrl-D is a no, Ctrl-C KeyboardInterrupt."""
    try:
        return _filled_in(event) if event["kind"] == "elicitation" else {"yes": _may(event)}
    except EOFError:
        return {"yes": False}


def _may(event: Mapping[str, Any]) -> bool:
    asked = event["question"]
    say(Text(printable(json.dumps(asked.get("arguments", asked), indent=2, ensure_ascii=False)).plain, style="dim"))
    what = f"{event['server']}.{event['tool']}" if event["tool"] else event["server"]
    question = f"Call {what}? [y/N] " if event["kind"] == "call" else f"May {what} ask the model? [y/N] "
    return _prompt(question).lower() in _YES


def _filled_in(event: Mapping[str, Any]) -> dict[str, Any]:
    asked = event["question"]
    say(f"{event['server']} asks: {asked.get('message', '')} (Ctrl-D: no)")
    if url := asked.get("url"):
        say(f"It wants you to open {url}")
    schema = asked.get("schema") or {}
    needed = schema.get("required") or ()
    properties = schema.get("properties") or {}
    if not properties:
        return {"yes": _prompt("Go on? [y/N] ").lower() in _YES, "content": {}}
    given = {name: _value(name, shape, is_needed=name in needed) for name, shape in properties.items()}
    return {"yes": True, "content": {name: value for name, value in given.items() if value is not None}}


def _value(name: str, shape: Mapping[str, Any], *, is_needed: bool) -> Any:
    """Ask until it is what the schema says; None: left out."""
    hints = filter(None, [_kind(shape), "" if is_needed else "may be left out"])
    hint = ", ".join(hints)
    while True:
        said = _prompt(f"{name} ({hint}): " if hint else f"{name}: ")
        if not said and not is_needed:
            return None
        try:
            return _read(said, shape)
        except ValueError as error:
            say(str(error))


def _kind(shape: Mapping[str, Any]) -> str:
    if isinstance(choices := shape.get("enum"), list):
        return " | ".join(map(str, choices))
    return {"integer": "integer", "number": "number", "boolean": "yes or no"}.get(str(shape.get("type")), "")


def _read(said: str, shape: Mapping[str, Any]) -> Any:
    """What was typed, as the schema wants it.  Raises ValueError, in words."""
    if not said:
        raise ValueError("This is needed.")
    if isinstance(choices := shape.get("enum"), list):
        return _choice(said, choices)
    match shape.get("type"):
        case "boolean":
            if said.lower() not in _YES | _NO:
                raise ValueError("Say yes or no.")
            return said.lower() in _YES
        case "integer" | "number" as kind:
            return _number(said, kind)
    return said


def _choice(said: str, choices: list[Any]) -> Any:
    for one in choices:
        if said == str(one):
            return one
    raise ValueError(f"It is one of: {', '.join(map(str, choices))}.")


def _number(said: str, kind: str) -> int | float:
    try:
        return int(said) if kind == "integer" else float(said)
    except ValueError:
        article = "no integer" if kind == "integer" else "no number"
        raise ValueError(f"This is {article}.") from None


def _prompt(question: str) -> str:
    from prompt_toolkit import prompt

    return prompt(question).strip()
