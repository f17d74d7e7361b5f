"""What `sexton up` shows: one line per event that a person likes to watch.

Time, symbol, subject, what happened.  Colours and symbols beyond ASCII only where they can be shown; good news
is cut to the width of a terminal, bad news never.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.text import Text

from sexton.cli.output import console_for, printable
from sexton.gateway.event_lines import EventLine, Mark, line_of
from sexton.gateway.holders import RunNames

_ABOUT_THE_GATEWAY = ("gateway.", "clock.", "database.", "journal.")  # their subject is the name of the machine
_NARROWEST, _WIDEST = 10, 24  # columns of the subject


class Event(Protocol):
    """One entry of the journal."""

    @property
    def at(self) -> datetime: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


class EventConsole:
    """Writes events to a stream.  A stream that nobody reads any more is no reason to stop the gateway."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._console = console_for(stream)
        self._is_terminal = stream.isatty()
        self._plain_symbols = not _can_show(stream, "▶✔✘●○◆·")
        self._subject_width = _NARROWEST
        self._jobs = RunNames()
        self._is_up = False
        self._gone = False

    def show(self, event: Event) -> None:
        """Print the event, if it is one that a person likes to see."""
        self._jobs.learn(event)
        if event.kind == "gateway.ready":
            self._is_up = True
            self.say(f"ready {event.data['url']}")
        elif event.kind.startswith("job.") and not self._is_up:
            return  # the jobs of the configuration, each time that it is new to the database
        elif line := line_of(event.kind, self._jobs.name_holders(event.data)):
            self._print(self._laid_out(event, line), may_cut=line.mark not in (Mark.FAILED, Mark.WARNING))
            for detail in line.details:
                self._print(Text.assemble(" " * self._indent(), printable(detail)))
            if line.hint:
                self._print(Text.assemble(" " * (self._indent() - 6), ("Next: ", "bold"), printable(line.hint)))

    def say(self, text: str) -> None:
        """A plain line of its own, as programs look for it."""
        self._write(text + "\n")

    def _laid_out(self, event: Event, line: EventLine) -> Text:
        symbol, ascii_symbol, style = line.mark.value
        subject = "gateway" if event.kind.startswith(_ABOUT_THE_GATEWAY) else printable(event.subject).plain
        self._subject_width = min(_WIDEST, max(self._subject_width, len(subject)))
        return Text.assemble(
            (f"{event.at.astimezone():%H:%M:%S}", "dim"),
            "  ",
            (ascii_symbol if self._plain_symbols else symbol, style),
            " ",
            (subject.ljust(self._subject_width), "bold"),
            "  ",
            printable(line.text),
        )

    def _indent(self) -> int:
        return 8 + 2 + 1 + 1 + self._subject_width + 2

    def _print(self, line: Text, *, may_cut: bool = False) -> None:
        if may_cut and self._is_terminal:
            line.truncate(self._console.width, overflow="ellipsis")
        rendered = io.StringIO()  # rich ends the process on a broken pipe, so it never sees the stream itself
        console = Console(file=rendered, force_terminal=self._is_terminal, highlight=False)
        console.print(line, soft_wrap=True)
        self._write(rendered.getvalue())

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # a broken pipe, or a terminal that was closed (EIO)
            self._gone = True


def _can_show(stream: TextIO, symbols: str) -> bool:
    try:
        symbols.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
