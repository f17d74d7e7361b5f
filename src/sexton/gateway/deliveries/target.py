"""What the outbox needs of a way to send, and the two ways in which one can fail."""

from __future__ import annotations

from typing import Protocol

from sexton.errors import SextonError
from sexton.gateway.deliveries.parts import Part, TextLimits


class SendDelayed(SextonError):
    """Not now: it is tried again, not before `after` seconds if that is given (a receiver's Retry-After)."""

    def __init__(self, what: str, *, after: float | None = None, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.after = after


class SendFailed(SextonError):
    """Never: the receiver refused this message, or there is no such recipient."""


class Target(Protocol):
    """One way to send, under one name in the settings."""

    @property
    def limits(self) -> TextLimits: ...

    @property
    def give_up_after(self) -> float:
        """Seconds after which a delivery that could not be sent is told as failed."""
        ...

    def refusal(self, to: str | None) -> str | None:
        """Why nothing can be sent to that recipient (None: the target's own), in a clause; or None."""
        ...

    async def send(self, part: Part) -> str | None:
        """Send one part; what the receiver calls it, if it says.

        A repeat carries the same key.  Raises `SendDelayed` and `SendFailed`;
        what else it raises is taken for a defect and tried again.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections.  Nothing is sent any more."""
        ...
