"""Who wants to know that one of a server's lists has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, final

TOOLS_CHANGED: Final = "notifications/tools/list_changed"
PROMPTS_CHANGED: Final = "notifications/prompts/list_changed"
RESOURCES_CHANGED: Final = "notifications/resources/list_changed"

Hear: TypeAlias = Callable[[str], None]
"""Takes the method of the notification: one of the three above."""


@final
class ListNews:
    """Tells every listener, at once and in order."""

    def __init__(self) -> None:
        self._listeners: list[Hear] = []

    def follow(self, hear: Hear) -> None:
        """Tell `hear` from here on."""
        self._listeners.append(hear)

    def tell(self, method: str) -> None:
        """A list has changed."""
        for hear in self._listeners:
            hear(method)
