"""The platforms that there are: ours by name, others by entry point."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sexton.clock import Clock
from sexton.errors import UsageError
from sexton.gateway.channels.channel import Channel

ENTRY_POINTS = "sexton.channels"


class ChannelOptions(BaseModel):
    """The keys of `[channels.NAME]` that only this platform has.  A field that is secret has `repr=False`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKind:
    """One platform: how its options look, and how a channel is made of them.

    `needs` are the options that must be given (which have defaults, so that
    all that is missing can be told at once).  `strangers` is whether they are
    told that they are, unless the settings say.  `forged` says how somebody
    could write under the name of another, where the platform does not vouch
    for its senders with these options.
    """

    name: str
    options: type[ChannelOptions]
    make: Callable[[str, Any, Clock], Channel]
    needs: tuple[str, ...] = ()
    strangers: Literal["tell", "ignore"] = "tell"
    forged: Callable[[Any], str | None] = lambda _: None


# Name, module of ours, and the extra that brings its library.
_OURS = {
    "email": ("sexton.gateway.channels.email", "email"),
    "telegram": ("sexton.gateway.channels.telegram", "telegram"),
    "irc": ("sexton.gateway.channels.irc", ""),
    "matrix": ("sexton.gateway.channels.matrix", "matrix"),
    "discord": ("sexton.gateway.channels.discord", "discord"),
    "slack": ("sexton.gateway.channels.slack", "slack"),
}


def kind_names() -> tuple[str, ...]:
    return (*_OURS, *(point.name for point in entry_points(group=ENTRY_POINTS)))


def find_kind(name: str) -> ChannelKind:
    """The platform of that name.  Raises `UsageError` if there is none, or what it needs is not installed."""
    if name in _OURS:
        module, extra = _OURS[name]
        try:
            found = importlib.import_module(module).KIND
        except ModuleNotFoundError as error:
            raise UsageError(
                f"needs {error.name}, which is not installed; run: pip install 'sexton[{extra}]'"
            ) from error
        assert isinstance(found, ChannelKind)
        return found
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _loaded(point.load(), name)
    near = difflib.get_close_matches(name, kind_names(), n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(kind_names())}"
    raise UsageError(f"is {name!r}, which is no platform; {advice}")


def _loaded(found: object, name: str) -> ChannelKind:
    if not isinstance(found, ChannelKind):
        raise UsageError(f"is {name!r}, and its entry point is no ChannelKind but a {type(found).__name__}")
    return found
