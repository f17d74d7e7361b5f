"""What is wrong with a settings file, all of it at once, in words that lead to the place (pure)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sexton.daemon.toml_lines import KeyPath
from sexton.errors import UsageError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong.  `what` continues the key: "is 'shard'; allowed: 'shared', 'exclusive'"."""

    line: int | None
    path: KeyPath
    what: str

    def text(self, file: str) -> str:
        """Where and what, in one or two lines."""
        place = f"{file}:{self.line}" if self.line else file
        key = dotted(self.path)
        return f"{place}: {key} {self.what}" if key else f"{place}: {self.what}"


class SettingsError(UsageError):
    """The settings file cannot be used.  `problems` are all that were found, in the order of the file."""

    def __init__(self, file: Path, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems), key=_place))
        count = len(self.problems)
        listing = "\n".join(f"  {problem.text(file.name)}" for problem in self.problems)
        super().__init__(
            f"{file} has {'a problem' if count == 1 else f'{count} problems'}:\n{listing}",
            hint=f"correct {file.name} and try again.",
        )


def dotted(path: KeyPath) -> str:
    """A key path as TOML writes it: `servers.time.args[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else f'"{part}"')
    return text


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """ "; did you mean 'time'?" or, where nothing is near, "; there are: 'git', 'time'", or "" where nothing is."""
    names = sorted(set(valid))
    if near := nearest(name, names):
        return f"; did you mean {near!r}?"
    return f"; there {'is' if len(names) == 1 else 'are'}: {listed(names)}" if names else ""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The one of `valid` that `name` is most likely a slip of the keyboard for."""
    by_folded = {candidate.casefold(): candidate for candidate in valid}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def listed(names: Iterable[str]) -> str:
    """Names for the reader, quoted; a long list is cut."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - 24} more" if len(quoted) > 24 else ""
    return ", ".join(quoted[:24]) + more


def _place(problem: Problem) -> tuple[int, str]:
    return (problem.line or 0, dotted(problem.path))
