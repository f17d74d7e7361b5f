"""What goes to the terminal: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sexton.errors import SextonError

_UNLIMITED = 10_000
GOOD, BAD, WARN, QUIET = "green", "red", "yellow", "dim"
_STATE_STYLES = {
    "ran": GOOD, "running": GOOD, "held": GOOD, "idle": GOOD, "ready": GOOD, "enforced": GOOD, "sent": GOOD,
    "connected": GOOD, "allowed": GOOD, "up": GOOD, "silent": BAD, "drained": WARN, "absent": QUIET,
    "failed": BAD, "down": BAD, "refused": BAD, "broken": BAD, "stuck": BAD, "died": BAD, "not_in_force": BAD,
    "missed": WARN, "skipped": WARN, "interrupted": WARN, "cancelled": WARN, "paused": WARN, "orphaned": WARN,
    "best_effort": WARN, "draining": WARN, "queued": QUIET, "waiting": QUIET, "connecting": QUIET, "stopped": QUIET,
}  # fmt: skip


def console_for(stream: TextIO) -> Console:
    """A terminal's width and colours (never with NO_COLOR); elsewhere plain text that is not cut or wrapped."""
    if stream.isatty():
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, width=_UNLIMITED, color_system=None, force_terminal=False)


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8") + "\n")


def say(line: str | Text) -> None:
    """One line, wrapped by the terminal itself, so that it can be copied whole."""
    console_for(sys.stdout).print(printable(line), soft_wrap=True)


def styled_state(state: str) -> Text:
    return Text(state.replace("_", " "), style=_STATE_STYLES.get(state, ""))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    free: Sequence[str] = (),
) -> None:
    """Aligned columns; one that is empty in every row is left out.

    `right` names the columns that hold numbers, `free` those with text of any length, which a terminal that is too
    narrow cuts short; elsewhere nothing is cut.
    """
    filled = [[printable(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(columns)) if any(row[index].plain for row in filled)]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index in kept:
        name = columns[index]
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name not in free)
    for row in filled:
        table.add_row(*(_one_line(row[index]) for index in kept))
    _print_without_trailing_blanks(table)


def _one_line(text: Text) -> Text:
    line = text.copy()
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def printable(text: str | Text) -> Text:
    """Without control characters, so that no tool's output can steer the terminal; line ends and tabs stay."""
    if isinstance(text, Text):
        return text
    return Text("".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text))


def _print_without_trailing_blanks(table: Table) -> None:
    console = console_for(sys.stdout)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(line.rstrip(" ") + "\n" for line in capture.get().splitlines()))


def print_facts(title: str, facts: Iterable[tuple[str, str | Text]]) -> None:
    """One thing and what there is to know about it, a fact a line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, printable(value))
    say(Text(title, style="bold"))
    _print_without_trailing_blanks(table)


def tell_error(error: SextonError) -> None:
    """The words of the error, on standard error; a colour only for the first one, and only on a terminal."""
    console = console_for(sys.stderr)
    console.print(Text.assemble(("error: ", "bold red"), printable(error.what)), soft_wrap=True)
    if error.hint:
        console.print(Text.assemble(("Next: ", "bold"), printable(error.hint)), soft_wrap=True)
