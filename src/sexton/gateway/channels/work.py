"""What a turn is doing, as its events tell of it, and the line that a person sees of that (pure).

Only the names of tools are said: arguments and results may hold what nobody in the room is to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

# A change is shown no sooner after the last one; that time alone has passed, less and less often.
CHANGE_EVERY = 10.0
LONGEST_PAUSE = 60.0
_LONGEST_NAME = 80


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One turn.  Times are `monotonic`, in seconds; `began` is None while the turn waits for others.

    `now` are the calls under way with the names of their tools, `asked` what
    it asks a person and has no answer to, with the kind of the question.
    """

    turn: str
    began: float | None = None
    calls: int = 0
    now: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def heard(self, event: Mapping[str, Any], *, at: float) -> Work:
        """After that event, in its JSON form; those of other turns change nothing."""
        if event.get("turn") != self.turn:
            return self
        match event["type"]:
            case "turn_started":
                return Work(turn=self.turn, began=at if self.began is None else self.began)
            case "tool_call_started":
                name = _plain(f"{event['server']}.{event['tool']}")
                return replace(self, calls=self.calls + 1, now={**self.now, event["call"]: name})
            case "tool_call_ended":
                return replace(self, now=_without(self.now, event["call"]))
            case "approval_asked":
                return replace(self, asked={**self.asked, event["approval"]: event["kind"]})
            case "approval_answered":
                return replace(self, asked=_without(self.asked, event["approval"]))
            case _:
                return self

    def line(self, at: float) -> str:
        """`Working: 2 tool calls so far, now `notes.search`, 40 s`"""
        said = [f"{_calls(self.calls)} so far"] if self.calls else []
        if self.asked:  # The time of a turn that waits for a person says nothing.
            kind = "approval" if "call" in self.asked.values() else "answer"
            return f"Working: {', '.join([*said, f'waits for your {kind}'])}"
        names = list(self.now.values())
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            said.append(f"now `{names[-1]}`{others}")
        return f"Working: {', '.join([*said, spoken(self._passed(at))])}"

    def last_line(self, at: float, *, interrupted: bool = False) -> str:
        """What stays to be read where a message cannot vanish."""
        word = "Interrupted after" if interrupted else "Worked for"
        said = f", {_calls(self.calls)}" if self.calls else ""
        return f"{word} {spoken(self._passed(at))}{said}."

    def is_to_be_shown(self, at: float, *, after: float) -> bool:
        """One that waits for a person is not: what it asks is the last thing that they read."""
        return self.began is not None and at - self.began >= after and not self.asked

    def is_news(self, shown: Work, *, at: float, shown_at: float) -> bool:
        """Whether it is worth a change of what was said of it at `shown_at`."""
        passed = at - shown_at
        if passed < CHANGE_EVERY or self.line(at) == shown.line(shown_at):
            return False
        if self._facts != shown._facts:
            return True
        return passed >= min(LONGEST_PAUSE, self._passed(at) / 4)

    def _passed(self, at: float) -> float:
        return 0.0 if self.began is None else at - self.began

    @property
    def _facts(self) -> tuple[object, ...]:
        return self.calls, tuple(self.now), tuple(self.asked)


def spoken(seconds: float) -> str:
    """`40 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def _calls(count: int) -> str:
    return "1 tool call" if count == 1 else f"{count} tool calls"


def _without(those: Mapping[str, str], key: str) -> Mapping[str, str]:
    return {name: value for name, value in those.items() if name != key}


def _plain(name: str) -> str:
    """A name that a server made up, without what a platform could take for more than a name."""
    return re.sub(r"[^\w./:-]", "?", name)[:_LONGEST_NAME]
