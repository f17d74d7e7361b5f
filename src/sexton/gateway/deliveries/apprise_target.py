"""Everything that Apprise reaches: some 170 services, each by an address (https://github.com/caronc/apprise/wiki).

Needs the extra `sexton[notify]`; the library is loaded when the first target
of this kind is made.
"""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, final

from sexton.errors import UsageError
from sexton.gateway.deliveries.parts import Part, TextLimits
from sexton.gateway.deliveries.target import SendDelayed

# Where a service has no place for a title, Apprise puts it into the text.
_ROOM_FOR_TITLE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseConfig:
    """One service; its address holds its secrets."""

    url: str = field(repr=False)
    give_up_after: float = 86_400.0


@final
class AppriseTarget:
    """Hands each delivery to Apprise.

    It says only whether a service took it; why not stands in its log lines,
    which become the error.
    """

    def __init__(self, config: AppriseConfig) -> None:
        """Raises `UsageError` if the extra is not installed or the address is none that Apprise knows."""
        self.config = config
        with warnings.catch_warnings():  # Its modules warn of Python's that they load, and go on without.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._apprise = _load()
            self._notifier: Any = self._apprise.Apprise()
            is_known = self._notifier.add(config.url)
        if not is_known:
            raise UsageError(
                "Apprise does not know this kind of address.",
                hint="see how it is written for each service: https://github.com/caronc/apprise/wiki",
            )
        self.limits = TextLimits(most=_body_limit(self._notifier), messages=8, titles=True)

    @property
    def give_up_after(self) -> float:
        return self.config.give_up_after

    def refusal(self, to: str | None) -> str | None:
        return None if to is None else "its recipients stand in its url"

    async def send(self, part: Part) -> str | None:
        with _Complaints(self._apprise.logger) as complaints:
            went = await self._notifier.async_notify(body=part.text, title=part.title or "")
        if not went:
            raise SendDelayed(_without_secrets(" ".join(complaints.said) or "The service did not take it."))
        return None

    async def aclose(self) -> None:
        """Apprise keeps no connections."""


@final
class _Complaints(logging.Handler):
    """What a logger has to complain about while the block lasts."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> _Complaints:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def _load() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError as error:
        raise UsageError(
            "A target of type 'apprise' needs Apprise, which is not installed.",
            hint="install it: pip install 'sexton[notify]'",
        ) from error


def _body_limit(notifier: Any) -> int | None:
    """What the service takes, by the library's own table; what it splits itself, a repeat would send twice."""
    limits = [int(server.body_maxlen) for server in notifier if getattr(server, "body_maxlen", 0)]
    return max(100, min(limits) - _ROOM_FOR_TITLE) if limits else None


def _without_secrets(text: str) -> str:
    return re.sub(r"\w+://\S+", "(address)", text)
