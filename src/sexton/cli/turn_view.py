"""A turn as it comes, for a terminal: the model's words, and a line for each tool call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO, final

from rich.text import Text

from sexton.cli.output import console_for, printable
from sexton.gateway.figures import duration

_LONGEST = 100


@final
class TurnView:
    """Shows the events of one turn.

    `quiet`: only the model's words, as a script wants them.  Where they do not go to a terminal they come message by
    message, for what has gone into a pipe cannot be taken back when an answer breaks off.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._console = console_for(stream)
        self._quiet = quiet
        self._in_line = False
        self._said_anything = False
        self._holds = quiet and not stream.isatty()
        self._held = ""

    def show(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"type": "text_delta", "text": str(text)}:
                self._say(text)
            case {"type": "tool_call_started", "server": server, "tool": tool, "arguments": arguments}:
                self._line(f"  {server}.{tool} {_short(arguments)}")
            case {"type": "tool_call_ended", "state": state, "seconds": seconds, "text": text}:
                said = "" if state == "done" else f": {text}"
                self._line(f"  {state} in {duration(seconds)}{said}")
            case {"type": "text_withdrawn", "characters": int(characters), "why": why}:
                self._take_back(characters, f"  {why}; this does not stand, and it is asked again")
            case {"type": "model_changed", "model": model, "why": why}:
                self._line(f"  {why}; {model!r} answers")
            case {"type": "turn_ended", "text": text, "state": state}:
                self._let_go()
                if not self._in_line and state == "done" and not self._said_anything:
                    self._write(text)
                self._end_line()

    def _say(self, text: str) -> None:
        if self._holds:
            self._held += text
        else:
            self._write(text)

    def _let_go(self) -> None:
        held, self._held = self._held, ""
        self._write(held)

    def _take_back(self, characters: int, note: str) -> None:
        if self._holds:
            self._held = self._held[: -characters or None]
        else:
            self._end_line()
            self._console.print(Text(printable(note).plain, style="dim"), soft_wrap=True)

    def _write(self, text: str) -> None:
        if not text:
            return
        self._said_anything = True
        self._stream.write(printable(text).plain)
        self._stream.flush()
        self._in_line = not text.endswith("\n")

    def _line(self, text: str) -> None:
        self._let_go()
        self._end_line()
        if not self._quiet:
            self._console.print(Text(printable(text).plain, style="dim"), soft_wrap=True)

    def _end_line(self) -> None:
        if self._in_line:
            self._stream.write("\n")
            self._stream.flush()
        self._in_line = False


def _short(arguments: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
