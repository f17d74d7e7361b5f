"""What an HTTP answer means for a delivery (pure)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sexton.gateway.deliveries.target import SendDelayed, SendFailed

# The receiver has judged this very message, so that it would judge a repeat alike; 410: it wants no more of any.
_FOR_GOOD = frozenset({400, 410, 413, 415, 422})
LONGEST_RETRY_AFTER = 86_400.0


def refusal_of(status: int, *, who: str, said: str, retry_after: str | None, now: datetime) -> SendDelayed | SendFailed:
    """The error for an answer that is not 2xx.

    Everything that a person or time can mend (a wrong token, a missing page,
    an overload) is tried again, for as long as the target's patience lasts.
    """
    words = " ".join(said.split())[:300]
    told = f"{who} answered with status {status}" + (f": {words}" if words else ".")
    if status in _FOR_GOOD:
        return SendFailed(told)
    return SendDelayed(told, after=seconds_of(retry_after, now=now))


def seconds_of(retry_after: str | None, *, now: datetime) -> float | None:
    """The value of a Retry-After header (RFC 9110, 10.2.3: seconds or a date) in seconds, at most a day."""
    said = (retry_after or "").strip()
    if not said:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            moment = parsedate_to_datetime(said)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None
