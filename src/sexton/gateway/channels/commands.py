"""What a person can type in a chat besides talking (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COMMAND = re.compile(r"[/!](stop|new|yes|no|help|start)(?:@\w+)?(?:\s+(\S+))?\s*", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    word: str
    rest: str = ""


def command_in(text: str) -> Command | None:
    """The command that the whole text is; `!` serves where a platform keeps `/` for itself."""
    found = _COMMAND.fullmatch(text.strip())
    return Command(word=found[1].lower(), rest=found[2] or "") if found else None


def help_text() -> str:
    return (
        "Just write what you want.\n"
        "/stop ends what I am doing\n"
        "/new begins a new conversation\n"
        "/yes and /no answer what I ask\n"
        '/call server.tool {"key": "value"} calls a tool\n'
        "Where / is taken, write ! instead."
    )


def question_text(asked: Mapping[str, Any]) -> str:
    """What a person is asked, with what to type; `asked` is the JSON form of ApprovalAsked."""
    short = str(asked["approval"])[:8]
    about = json.dumps(asked.get("question") or {}, ensure_ascii=False)
    about = about if len(about) <= 1_000 else f"{about[:1_000]} …"
    what = f"call {asked['server']}.{asked['tool']}" if asked.get("tool") else f"know something for {asked['server']}"
    return f"May I {what}?\n{about}\n\nAnswer /yes {short} or /no {short}"
