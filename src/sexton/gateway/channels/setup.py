"""One channel as the settings have it: frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sexton.gateway.channels.access import AccessRules
from sexton.gateway.channels.chats import WhenBusy
from sexton.gateway.channels.kind import ChannelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSetup:
    """`names` are short names for chats, `home` the chat that is meant where none is named.

    `settings` is what a chat there may do, as the agent has it.  `progress`
    are the seconds of work after which it is shown how far a turn is; None: never.
    """

    name: str
    kind: str
    options: ChannelOptions
    rules: AccessRules = field(default_factory=AccessRules)
    when_busy: WhenBusy = "queue"
    settings: Any = None
    home: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    give_up_after: float = 86_400.0
    progress: float | None = 20.0

    def chat_of(self, to: str | None) -> str | None:
        """The platform's own name of a recipient; None if none is named and there is no `home`."""
        meant = to or self.home
        return None if meant is None else self.names.get(meant, meant)
