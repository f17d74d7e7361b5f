"""Slack's way to write text (pure; https://docs.slack.dev/messaging/formatting-message-text)."""

from __future__ import annotations

import re

_MARK = re.compile(r"<([^<>|]*)(?:\|([^<>]*))?>")


def plain(text: str, *, own: str) -> str:
    """What a person reads: links and names as such, `&` instead of its entity, and without a mention of `own`."""
    said = re.sub(rf"<@{re.escape(own)}(?:\|[^<>]*)?>[:,]?\s*", "", text)
    said = _MARK.sub(_shown, said)
    return said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def escaped(text: str) -> str:
    """Text that Slack takes for nothing but text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def length(text: str) -> int:
    return len(escaped(text))


def mentions(text: str, user: str) -> bool:
    return re.search(rf"<@{re.escape(user)}(?:\|[^<>]*)?>", text) is not None


def _shown(found: re.Match[str]) -> str:
    target, label = found[1], found[2]
    if target.startswith(("@", "#")):
        return f"{target[0]}{label or target[1:]}"
    if target.startswith("!"):
        return f"@{label or target[1:].partition('^')[0]}"
    return target if not label or label == target else f"{label} ({target.removeprefix('mailto:')})"
