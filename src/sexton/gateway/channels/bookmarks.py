"""How far we have read in each chat of a platform that keeps no single place for all of them (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

MOST = 100


@final
@dataclass(frozen=True, slots=True)
class Bookmarks:
    """The last message that was read, by chat; the chat that was heard last is last.  At most `MOST` are kept."""

    places: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> Bookmarks:
        """The reverse of `written`; nothing if it is something else."""
        try:
            found = json.loads(cursor or "{}")
        except ValueError:
            return cls()
        return cls({str(chat): str(place) for chat, place in found.items()}) if isinstance(found, dict) else cls()

    def moved(self, chat: str, place: str) -> Bookmarks:
        """With `place` as the last message of `chat`."""
        others = {name: at for name, at in self.places.items() if name != chat}
        kept = list(others.items())[-(MOST - 1) :]
        return Bookmarks({**dict(kept), chat: place})

    def written(self) -> str:
        return json.dumps(dict(self.places), separators=(",", ":"))
