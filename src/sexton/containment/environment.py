"""The environment of a contained program (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from sexton.containment.spec import ProcessSpec

COOKIE_VARIABLE = "SEXTON_TREE"
"""Holds the tree's cookie: the last trace of a process whose custodians have all died."""
_OURS = ("SEXTON_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What says something about the gateway to its own service manager; a server would speak in its name."""


def environment_of(spec: ProcessSpec, *, cookie: str, ours: Mapping[str, str]) -> dict[str, str]:
    """What the spec inherits of `ours` and adds, and the cookie; nothing that is the gateway's alone is inherited."""
    inherited = {name: ours[name] for name in spec.inherit_env if name in ours and not name.startswith(_OURS)}
    return {**inherited, **spec.env, COOKIE_VARIABLE: cookie}
