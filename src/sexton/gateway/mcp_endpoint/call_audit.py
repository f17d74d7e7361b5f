"""Who called which tool through the endpoint, and how it went: lines of the journal, without arguments.

The first call of its kind (by whom, what, how it ended) is told at once; those
that follow within a minute are counted and told together, so that ten thousand
calls a minute neither cost a line each nor drive everything else out of the
journal.  Calls of tools that a server declares to be read-only change nothing
and are left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, final

from sexton.clock import Clock
from sexton.gateway.mcp_endpoint.wire import Params
from sexton.journal import Journal

TOGETHER: Final = 60.0
"""Seconds in which calls of one kind are counted."""

MOST_KINDS: Final = 10_000

Kind: TypeAlias = tuple[str, str, str, str]
"""Caller, server, tool, outcome."""


@final
class CallAudit:
    """`changes` says whether a tool of a server may change something.  Without a journal nothing is told."""

    def __init__(self, journal: Journal | None, *, clock: Clock, changes: Callable[[str, str], bool]) -> None:
        self.is_on = True
        self._journal = journal
        self._clock = clock
        self._changes = changes
        self._more: dict[Kind, int | None] = {}
        """How many came after the one that was told; None: calls of this kind are not told."""
        self._until = 0.0

    async def of(
        self, caller: str, server: str, method: str, params: Params | None, answer: Awaitable[dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the answer to a request, and tell of it if it was a call of a tool.  Raises what `answer` raises."""
        if method != "tools/call" or self._journal is None or not self.is_on:
            return await answer
        outcome = "failed"
        try:
            result = await answer
            outcome = _outcome(result)
            return result
        finally:
            self._note((caller, server, str((params or {}).get("name")), outcome))

    def tell_due(self) -> None:
        """Tell what was counted, if it is time."""
        if self._more and self._clock.monotonic() >= self._until:
            self.tell_all()

    def tell_all(self) -> None:
        """Tell what was counted; calls of every kind are told again from here on."""
        counted, self._more = self._more, {}
        for kind, more in counted.items():
            if more:
                self._tell(kind, more)

    def _note(self, kind: Kind) -> None:
        if kind in self._more:
            more = self._more[kind]
            if more is not None:
                self._more[kind] = more + 1
            return
        if not self._more:
            self._until = self._clock.monotonic() + TOGETHER
        elif len(self._more) >= MOST_KINDS:
            self.tell_all()
        _, server, tool, _ = kind
        self._more[kind] = 0 if self._changes(server, tool) else None
        if self._more[kind] is not None:
            self._tell(kind, 1)

    def _tell(self, kind: Kind, times: int) -> None:
        assert self._journal is not None
        caller, server, tool, outcome = kind
        subject = f"{server}.{tool}"
        self._journal.append("audit.call_tool", subject=subject, caller=caller, way="mcp", outcome=outcome, times=times)


def _outcome(result: dict[str, Any]) -> str:
    if result.get("resultType") == "input_required":
        return "asked"
    return "failed" if result.get("isError") else "done"
