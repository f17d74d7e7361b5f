"""When the next attempt is made, and when there is none (pure)."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sexton.gateway.deliveries.delivery import Delivery

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 900.0


def next_attempt(delivery: Delivery, *, now: datetime, after: float | None, give_up_after: float) -> datetime | None:
    """The time of the attempt after the one that failed `now`; None: it is time to give up.

    The pause doubles from 2 s up to 15 minutes, varied by a quarter either
    way; a receiver's `after` (seconds) is waited out.  The last attempt is
    made at the very end of the time that there is.
    """
    end = delivery.since + timedelta(seconds=give_up_after)
    if now >= end:
        return None
    pause = timedelta(seconds=max(_pause(delivery), after or 0.0))
    return max(now, min(now + pause, end)) if not after else now + pause


def _pause(delivery: Delivery) -> float:
    doubled = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(0, delivery.attempts - 1), 30))
    told = f"{delivery.id}:{delivery.target}:{delivery.attempts}"
    share = int.from_bytes(hashlib.sha256(told.encode()).digest()[:4]) / 2**32
    return doubled * (0.75 + share / 2)
