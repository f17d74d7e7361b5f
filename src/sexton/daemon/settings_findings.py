"""What one pass over a settings file has found so far; every reader of a table adds to it and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sexton.daemon.references import ReferenceFails, expand_home, has_reference, resolve
from sexton.daemon.settings_problems import Problem
from sexton.daemon.toml_lines import KeyLines, KeyPath


@dataclass(slots=True, kw_only=True)
class Findings:
    """Problems and warnings with their lines, and the references of one file put in.

    `folder` is where relative paths start, `environment` what `${env:…}` reads.
    """

    folder: Path
    lines: KeyLines
    environment: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set, repr=False)

    def problem(self, path: KeyPath, what: str) -> None:
        self.problems.append(Problem(line=self.lines.of(path), path=path, what=what))

    def warning(self, path: KeyPath, what: str) -> None:
        self.warnings.append(Problem(line=self.lines.of(path), path=path, what=what))

    def note(self, at: KeyPath, wrong: list[tuple[KeyPath, str]]) -> None:
        """What `read_table` said about the table at `at`."""
        for path, what in wrong:
            self.problem((*at, *path), what)

    def has_problem_at(self, at: KeyPath) -> bool:
        return any(problem.path[: len(at)] == at for problem in self.problems)

    def resolved(self, path: KeyPath, text: str, *, spelt: Callable[[str], str] = str) -> str:
        """`text` with its references put in, each as `spelt` writes it; one that fails is a problem at `path`."""
        try:
            return resolve(text, environment=self.environment, folder=self.folder, learn=self.secrets.add, spelt=spelt)
        except ReferenceFails as fails:
            self.problem(path, str(fails))
            return ""

    def check_references(self, at: KeyPath, value: Any) -> None:
        """Say now what would fail later, of a value that is put in only when it is used."""
        for path, text in texts_in(at, value):
            self.resolved(path, text)

    def program(self, at: KeyPath, written: str) -> str:
        """A name without a slash is looked up in PATH; anything else is a path, from the folder of the file."""
        command = expand_home(self.resolved(at, written))
        if " " in command and "/" not in command and not has_reference(written):
            first, *rest = command.split()
            arguments = ", ".join(f'"{word}"' for word in rest)
            self.problem(at, f'is one program, not a command line; write command = "{first}" and args = [{arguments}]')
        return self.path_of(command) if "/" in command else command

    def path_of(self, written: str) -> str:
        """A path from the folder of the file, without `..`: the folder is free of links already."""
        return os.path.normpath(self.folder / written)

    def working_folder(self, at: KeyPath, written: str | None) -> Path:
        """The folder in which a program starts; not said: that of the file."""
        folder = self.folder / expand_home(self.resolved(at, written)) if written else self.folder
        if not folder.is_dir():
            self.problem(at, f"is {written!r}, and {folder} is no folder")
        return folder


def texts_in(at: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Every text in a tree of tables and lists, with its path."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts_in((*at, key), inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from texts_in((*at, place), inner)
