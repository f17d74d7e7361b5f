"""In which line of a TOML text each key stands (pure).

Neither `tomllib` nor `tomlkit` tells where a key was found, and an error
without a line is one that its reader has to look for.  This scanner walks the
text once.  It does not validate, `tomllib` does: on a text that is no TOML it
stops at the first thing that it cannot follow and keeps what it has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'"""(?:\\.|[^\\])*?"{3,5}(?!")',
        r"'''.*?'{3,5}(?!')",
        r'"(?:\\.|[^"\\\n])*"',
        r"'[^'\n]*'",
    )
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLines:
    """Line numbers, from 1, of the first place where each key stands.

    `twice` are keys that are given a second time, with that second line:
    `tomllib` refuses such a text, but says "at end of document".
    `stopped_at` is the line in which the scanner could not go on, if any.
    """

    lines: dict[KeyPath, int]
    twice: tuple[tuple[KeyPath, int], ...]
    stopped_at: int | None

    def of(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest of its parents that stands in the text."""
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                return line
            # Only tables in it stand in the text: [a.b] makes `a` too.
            if within := [line for key, line in self.lines.items() if key[:length] == path[:length]]:
                return min(within)
        return None


def scan_key_lines(text: str) -> KeyLines:
    """Every key, table and array element of `text` with its line."""
    scanner = _Scanner(text)
    stopped_at: int | None = None
    try:
        scanner.document()
    except _CannotFollow:
        stopped_at = scanner.line()
    return KeyLines(lines=scanner.lines, twice=tuple(scanner.twice), stopped_at=stopped_at)


class _CannotFollow(Exception):
    """The text is no TOML from here on."""


@dataclass(slots=True)
class _Scanner:
    text: str
    at: int = 0
    lines: dict[KeyPath, int] = field(default_factory=dict)
    twice: list[tuple[KeyPath, int]] = field(default_factory=list)
    tables_in: dict[KeyPath, int] = field(default_factory=dict)
    given: set[KeyPath] = field(default_factory=set)

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def document(self) -> None:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK)

    def header(self) -> KeyPath:
        line, is_array = self.line(), self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        path = self.within_arrays(self.key())
        self.expect("]]" if is_array else "]")
        if is_array:
            self.lines.setdefault(path, line)
            number = self.tables_in[path] = self.tables_in.get(path, -1) + 1
            path = (*path, number)
        self.give(path, line)
        return path

    def within_arrays(self, key: KeyPath) -> KeyPath:
        """`key` as seen from the document, with the index of the last table of each array on the way."""
        path: KeyPath = ()
        for number, part in enumerate(key, start=1):
            path = (*path, part)
            if number < len(key) and path in self.tables_in:
                path = (*path, self.tables_in[path])
        return path

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = (*table, *self.key())
        self.expect("=")
        self.give(path, line)
        for length in range(len(table) + 1, len(path)):
            self.lines.setdefault(path[:length], line)
        self.value(path)

    def give(self, path: KeyPath, line: int) -> None:
        if path in self.given:
            self.twice.append((path, line))
        self.given.add(path)
        self.lines.setdefault(path, line)

    def key(self) -> KeyPath:
        parts: list[str | int] = [self.key_part()]
        while self.text.startswith(".", self.at):
            self.at += 1
            parts.append(self.key_part())
        return tuple(parts)

    def key_part(self) -> str:
        self.skip(_SPACES)
        if found := _BARE_KEY.match(self.text, self.at):
            part, self.at = found[0], found.end()
        else:
            part = _unquoted(self.string())
        self.skip(_SPACES)
        return part

    def value(self, path: KeyPath) -> None:
        self.skip(_SPACES)
        match self.text[self.at : self.at + 1]:
            case "[":
                self.array(path)
            case "{":
                self.inline_table(path)
            case '"' | "'":
                self.string()
            case _:
                self.skip(_SCALAR)

    def array(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        self.skip(_BLANK)
        while not self.text.startswith("]", self.at):
            self.give((*path, number), self.line())
            self.value((*path, number))
            number += 1
            self.separator("]")
        self.at += 1

    def inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self.skip(_BLANK)
        while not self.text.startswith("}", self.at):
            self.pair(path)
            self.separator("}")
        self.at += 1

    def separator(self, closing: str) -> None:
        self.skip(_BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1
            self.skip(_BLANK)
        elif not self.text.startswith(closing, self.at):
            raise _CannotFollow

    def string(self) -> str:
        for pattern in _STRINGS:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                return found[0]
        raise _CannotFollow

    def expect(self, token: str) -> None:
        self.skip(_SPACES)
        if not self.text.startswith(token, self.at):
            raise _CannotFollow
        self.at += len(token)

    def skip(self, pattern: re.Pattern[str]) -> None:
        if found := pattern.match(self.text, self.at):
            self.at = found.end()


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1]
    return _ESCAPE.sub(lambda found: _unescaped(found[1]), text[1:-1])


def _unescaped(code: str) -> str:
    return chr(int(code[1:], 16)) if code[0] in "uU" else _ESCAPES.get(code, code)
