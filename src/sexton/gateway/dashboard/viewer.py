"""Who looks at a page: their time zone and theme, which their browser says in cookies, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from markupsafe import Markup
from starlette.requests import Request

from sexton.gateway.http import Caller, Scope, caller_of

ZONE_COOKIE = "sexton_zone"
THEME_COOKIE = "sexton_theme"
_THEMES = frozenset({"light", "dark"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """`zone_known` False: the times are the gateway's until the browser has told its own zone."""

    now: datetime
    zone: tzinfo
    zone_known: bool
    theme: str | None
    caller: Caller
    csrf_token: str

    def may(self, scope: str) -> bool:
        return self.caller.may(Scope(scope))

    def clock(self, said: str | datetime | None) -> str:
        """Today `14:03:07`, else with the day."""
        if said is None:
            return ""
        there = _time(said).astimezone(self.zone)
        today = self.now.astimezone(self.zone)
        if there.date() == today.date():
            return f"{there:%H:%M:%S}"
        return f"{there:%b %d, %H:%M}" if there.year == today.year else f"{there:%Y-%m-%d %H:%M}"

    def full(self, said: str | datetime | None) -> str:
        return "" if said is None else f"{_time(said).astimezone(self.zone):%A %Y-%m-%d %H:%M:%S %Z}"

    def at(self, said: str | datetime | None) -> Markup:
        """The time of day as an element that also has the whole date."""
        return _element(said, self.clock(said), self.full(said))

    def ago(self, said: str | datetime | None) -> Markup:
        """How long ago, or in how long; counts on in the browser."""
        if said is None:
            return Markup("")
        seconds = (_time(said) - self.now).total_seconds()
        text = f"in {brief(seconds)}" if seconds > 0 else f"{brief(-seconds)} ago"
        return _element(said, text, self.full(said), counts="relative")

    def since(self, said: str | datetime | None) -> Markup:
        """How long it has lasted by now; counts on in the browser."""
        if said is None:
            return Markup("")
        text = brief((self.now - _time(said)).total_seconds())
        return _element(said, text, f"since {self.full(said)}", counts="elapsed")


def viewer_of(request: Request, now: datetime) -> Viewer:
    zone, known = _zone(request.cookies.get(ZONE_COOKIE, ""))
    theme = request.cookies.get(THEME_COOKIE)
    return Viewer(
        now=now,
        zone=zone,
        zone_known=known,
        theme=theme if theme in _THEMES else None,
        caller=caller_of(request),
        csrf_token=getattr(request.state, "csrf_token", ""),
    )


def brief(seconds: float) -> str:
    """`12s`, `3m 20s`, `42m`, `5h 12m`, `3d 4h`: never more than one looks at.  The script has the same rule."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 600:
        return f"{whole // 60}m {whole % 60}s" if whole % 60 else f"{whole // 60}m"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m" if whole % 3600 // 60 else f"{whole // 3600}h"
    return f"{whole // 86400}d {whole % 86400 // 3600}h" if whole % 86400 // 3600 else f"{whole // 86400}d"


def _element(said: str | datetime | None, text: str, title: str, *, counts: str = "") -> Markup:
    if said is None:
        return Markup("")
    attribute = Markup(' data-counts="{}"').format(counts) if counts else Markup("")
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        _time(said).astimezone(UTC).isoformat(timespec="milliseconds"), title, attribute, text
    )


def _time(said: str | datetime) -> datetime:
    return said if isinstance(said, datetime) else datetime.fromisoformat(said)


@lru_cache(maxsize=64)
def _zone(said: str) -> tuple[tzinfo, bool]:
    """The zone of that name, which came from outside; the machine's own if there is none such."""
    name = said.replace("%2F", "/")
    try:
        return (ZoneInfo(name), True) if name and len(name) < 64 else (_own_zone(), False)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return _own_zone(), False


def _own_zone() -> tzinfo:
    return datetime.now().astimezone().tzinfo or UTC
