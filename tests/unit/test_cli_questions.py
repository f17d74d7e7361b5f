"""What a person at the terminal fills in for a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sexton.cli import questions

PROPERTIES = {
    "place": {"type": "string"},
    "days": {"type": "integer"},
    "share": {"type": "number"},
    "sure": {"type": "boolean"},
    "unit": {"type": "string", "enum": ["C", "F"]},
}
EVENT: dict[str, Any] = {
    "kind": "elicitation",
    "server": "raw",
    "tool": "",
    "question": {"message": "Where?", "schema": {"properties": PROPERTIES, "required": ["place", "unit"]}},
}

Typed = Callable[..., list[str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Type these lines, one for each question; returns the questions as they come."""

    def typing(*lines: str) -> list[str]:
        left, asked = iter(lines), list[str]()

        def prompt(question: str) -> str:
            asked.append(question)
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr(questions, "_prompt", prompt)
        return asked

    return typing


def test_each_field_is_asked_for_until_it_fits(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    asked = typed("", "Graz", "many", "3", "half", "0.5", "perhaps", "no", "", "K", "C")
    content = {"place": "Graz", "days": 3, "share": 0.5, "sure": False, "unit": "C"}
    assert questions.answer_to(EVENT) == {"yes": True, "content": content}
    assert asked[:3] == ["place: ", "place: ", "days (integer, may be left out): "]
    assert asked[-1] == "unit (C | F): "
    shown = capsys.readouterr().out
    for said in (
        "raw asks: Where?",
        "This is no integer.",
        "This is no number.",
        "Say yes or no.",
        "It is one of: C, F.",
    ):
        assert said in shown
    assert shown.count("This is needed.") == 2


def test_what_may_be_left_out_is_left_out_and_ctrl_d_is_a_no(typed: Typed) -> None:
    typed("Graz", "", "", "", "F")
    assert questions.answer_to(EVENT) == {"yes": True, "content": {"place": "Graz", "unit": "F"}}
    typed("Graz", "")
    assert questions.answer_to(EVENT) == {"yes": False}


@pytest.mark.parametrize(("said", "yes"), [("y", True), ("YES", True), ("", False), ("no", False), ("please", False)])
def test_only_a_yes_is_a_yes(typed: Typed, said: str, yes: bool) -> None:
    call = {"kind": "call", "server": "small", "tool": "echo", "question": {"arguments": {"text": "hi"}}}
    asked = typed(said)
    assert questions.answer_to(call) == {"yes": yes}
    assert asked == ["Call small.echo? [y/N] "]
    sampling = {"kind": "sampling", "server": "small", "tool": "", "question": {"messages": []}}
    asked = typed(said)
    assert questions.answer_to(sampling) == {"yes": yes}
    assert asked == ["May small ask the model? [y/N] "]


def test_an_input_without_fields_asks_for_a_yes(typed: Typed) -> None:
    event = {**EVENT, "question": {"message": "Open it", "url": "https://example.org/"}}
    typed("y")
    assert questions.answer_to(event) == {"yes": True, "content": {}}
