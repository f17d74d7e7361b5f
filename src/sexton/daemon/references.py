"""`${env:NAME}` and `${file:PATH}`: where secrets stand instead of in the settings file.

A value that came from a reference is a `Secret`: its text is what programs
get, its repr is not.  `$${` stands for a literal `${`.  Any other `${…}` is
left alone, since commands such as `sh -c` use it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

_REFERENCE = re.compile(r"\$?\$\{(env|file):([^}]*)\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_FILE = 1 << 20
# What these say stands everywhere, and is no secret.
_NO_SECRETS = frozenset(
    {"HOME", "USER", "LOGNAME", "HOSTNAME", "LANG", "SHELL", "TERM", "TZ", "PATH", "PWD", "DISPLAY"}
)
HIDDEN = "•••"


@final
class Secret(str):
    """Text that no repr, and so no dataclass repr, log or traceback of locals, shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{HIDDEN}'"


class ReferenceFails(ValueError):
    """A reference points at nothing.  The text names the reference, never a value."""


def has_reference(text: str) -> bool:
    """Whether `resolve` would put something else in its place."""
    return any(not found[0].startswith("$$") for found in _REFERENCE.finditer(text))


def _learn_nothing(_: str) -> None:
    """For a caller that keeps no secrets."""


def resolve(
    text: str,
    *,
    environment: Mapping[str, str],
    folder: Path,
    learn: Callable[[str], None] = _learn_nothing,
    spelt: Callable[[str], str] = str,
) -> str:
    """`text` with its references replaced: a `Secret` if there were any, and `learn` is told each value.

    `spelt` writes a value as the rest of the text needs it, for example in an address.

    A relative `${file:…}` starts at `folder`; the newline at the end of a
    file is dropped.  Raises ReferenceFails.
    """
    if not has_reference(text):
        return text.replace("$${", "${")

    def value(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        read = _from_file(found[2], folder) if found[1] == "file" else _from_environment(found[2], environment)
        if found[2] not in _NO_SECRETS:
            learn(read)
        return spelt(read)

    return Secret(_REFERENCE.sub(value, text))


def expand_home(text: str) -> str:
    """`~` and `~/…` as the user's home folder; a secret stays one."""
    if text != "~" and not text.startswith("~/"):
        return text
    return type(text)(str(Path.home()) + text[1:])


def _from_environment(name: str, environment: Mapping[str, str]) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ReferenceFails(f"refers to ${{env:{name}}}, and {name!r} is no name of an environment variable")
    if name not in environment:
        raise ReferenceFails(
            f"refers to ${{env:{name}}}, and no environment variable {name} is set (export {name}=… before the start)"
        )
    return environment[name]


def _from_file(written: str, folder: Path) -> str:
    path = folder / expand_home(written.strip())
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise ReferenceFails(
            f"refers to ${{file:{written}}}, and {path} cannot be read: {problem.strerror}"
        ) from problem
    if len(content) > _LARGEST_FILE:
        raise ReferenceFails(f"refers to ${{file:{written}}}, and {path} is larger than 1 MiB, so hardly a secret")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as problem:
        raise ReferenceFails(f"refers to ${{file:{written}}}, and {path} is not UTF-8 text") from problem
