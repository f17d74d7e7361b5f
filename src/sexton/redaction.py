"""Keeps secrets out of what is written down, shown and answered.

A `Redactor` knows the secrets that the settings refer to, and what secrets usually look like.  It promises that a
secret which it was told of leaves it as `HIDDEN`, also where it stands in JSON.  It cannot know a secret that nobody
told it of and that looks like any other text; nor one that a program spells otherwise, such as in base64.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, final

HIDDEN = "•••"
# Shorter ones would be found in innocent text everywhere.
SHORTEST = 6
SECRET_NAME = re.compile(
    r"token|secret|password|passwd|passphrase|api_?-?key|access_?-?key|private_?-?key|credential|authorization|cookie",
    re.I,
)
_SCHEMES = r"(?:basic|bearer|token|digest)\s"
_AUTHORIZATION = rf"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:{_SCHEMES}\s*)?)(?!{_SCHEMES})[^\s\"',;]{{6,}}"
# What a text must contain for its pattern to be worth a try, and the pattern; what its groups hold stays.
_SHAPES = tuple(
    (mark, re.compile(pattern))
    for mark, pattern in (
        ("uthorization", _AUTHORIZATION),
        ("earer", r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{20,}"),
        ("://", r"(://[^/\s:@\"']*:)[^/\s@\"']+(?=@)"),
        ("sxt_", r"()\bsxt_[A-Za-z0-9]{8}_[\w-]{30,}"),
        ("/login?code=", r"(/login\?code=)[\w-]+"),
        ("sk-", r"()\bsk-[\w-]{20,}"),
        ("gh", r"()\bgh[pousr]_[A-Za-z0-9]{20,}"),
        ("github_pat_", r"()\bgithub_pat_\w{20,}"),
        ("glpat-", r"()\bglpat-[\w-]{16,}"),
        ("xox", r"()\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("AKIA", r"()\bAKIA[A-Z0-9]{16}\b"),
        ("AIza", r"()\bAIza[\w-]{35}"),
        (":AA", r"()(?<!\d)\d{6,12}:AA[\w-]{30,}"),  # Telegram's bots
        ("eyJ", r"()\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),  # JSON Web Tokens
        ("PRIVATE KEY", r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]+?(?=-----END|\Z)"),
    )
)

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')  # RFC 8259, section 7


@final
class Redactor:
    """Replaces secrets; it only ever learns, for what was a secret is in old lines too."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Further secrets; those that are too short, or the path of something, are left out."""
        fresh = {form for secret in secrets if _is_worth_it(secret) for form in _forms(secret)}
        if not fresh <= set(self._known):
            # The longest first, for one may be part of another.
            self._known = tuple(sorted({*self._known, *fresh}, key=len, reverse=True))

    def known(self, text: str) -> str:
        """The text without the secrets that we were told of, also where they are written as in JSON."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def json(self, text: str) -> str:
        """A JSON document, its strings without the secrets that we were told of.  It stays valid, whatever they are.

        A secret may look like a part of an escape, a number or a few members: only what strings say is replaced.
        """
        if not any(secret in text for secret in self._known):
            return text
        return _JSON_STRING.sub(self._json_string, text)

    def _json_string(self, found: re.Match[str]) -> str:
        said: str = json.loads(found[0])
        hidden = self.known(said)
        return found[0] if hidden == said else json.dumps(hidden, ensure_ascii=False)

    def text(self, text: str) -> str:
        """The text without the secrets that we were told of, nor anything that looks like one."""
        text = self.known(text)
        for mark, shape in _SHAPES:
            if mark in text:
                text = shape.sub(rf"\1{HIDDEN}", text)
        return text

    def document(self, value: Any) -> Any:
        """A JSON value, each text in it as `text` has it, and whole where its key says that it is a secret."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {key: self._member(str(key), inner) for key, inner in value.items()}
            case list() | tuple():
                return [self.document(inner) for inner in value]
        return value

    def _member(self, key: str, value: Any) -> Any:
        return HIDDEN if isinstance(value, str) and value and SECRET_NAME.search(key) else self.document(value)


def _is_worth_it(secret: str) -> bool:
    return len(secret) >= SHORTEST and not secret.startswith(("/", "~", "./", "../"))


def _forms(secret: str) -> Iterable[str]:
    """As it is, and as it stands in JSON, with and without other alphabets escaped."""
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
