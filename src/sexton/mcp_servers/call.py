"""One request that a holder sent and the server has not answered yet."""

from __future__ import annotations

import math
from typing import Any, Final, final

import anyio
from mcp import MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import INTERNAL_ERROR, RequestId

from sexton.mcp_servers.stdio_transport import OutgoingLine

LONG_RUNNING: Final = frozenset({"tools/call", "prompts/get", "resources/read"})

LISTEN: Final = "subscriptions/listen"
"""Stays open for as long as the holder listens, so it says nothing about what the server works on."""

LATE: Final = 1.0
"""Seconds after its time by which a timeout that is noticed says more about us than about the server."""


@final
class Call:
    """Where the answer to one wire id goes, and until when it may take.

    `timeout` is in seconds without progress: each progress notification starts
    it again, and it stands still while the server waits for the holder's own
    answer to a question.  When it is us who were stopped or starved until long
    after it, what the server said meanwhile is read first.
    """

    __slots__ = (
        "_answered",
        "_deadline",
        "_failure",
        "_paused",
        "_result",
        "method",
        "on_progress",
        "outgoing",
        "own_id",
        "own_token",
        "timeout",
        "wants_logs",
        "wire_id",
    )

    def __init__(
        self,
        wire_id: int,
        method: str,
        *,
        timeout: float | None,
        own_id: RequestId | None = None,
        own_token: RequestId | None = None,
        on_progress: ProgressFnT | None = None,
        wants_logs: bool = True,
    ) -> None:
        self.wire_id = wire_id
        self.method = method
        self.timeout = timeout
        self.own_id = own_id
        self.own_token = own_token
        self.on_progress = on_progress
        self.wants_logs = wants_logs
        self.outgoing: OutgoingLine | None = None
        self._answered = anyio.Event()
        self._deadline = anyio.CancelScope()
        self._paused = 0
        self._result: dict[str, Any] | None = None
        self._failure: Exception | None = None

    @property
    def occupies_server(self) -> bool:
        """Whether the server is working on it, so that what it says may be about it."""
        return self.method != LISTEN

    @property
    def runs_long(self) -> bool:
        """Whether it is of the kind that makes a server ask back, and that may take long."""
        return self.method in LONG_RUNNING

    @property
    def is_paused(self) -> bool:
        """Whether the server waits for the holder's answer to a question."""
        return self._paused > 0

    @property
    def answered(self) -> bool:
        """Whether the outcome is known."""
        return self._answered.is_set()

    async def wait_answered(self) -> bool:
        """Wait for the outcome.  Return False when the time for it was up."""
        if self.timeout is None:
            await self._answered.wait()
            return True
        self.expect_progress()
        with self._deadline:
            await self._answered.wait()
        if not self.answered and anyio.current_time() - self._deadline.deadline > LATE:
            with anyio.move_on_after(LATE):
                await self._answered.wait()
        return self.answered

    def expect_progress(self) -> None:
        """Start the timeout again."""
        if self.timeout is not None and not self._paused:
            self._deadline.deadline = anyio.current_time() + self.timeout

    def pause(self) -> None:
        """Stop the timeout: it is not the server that we wait for."""
        self._paused += 1
        self._deadline.deadline = math.inf

    def resume(self) -> None:
        """End a `pause`; the timeout starts again."""
        self._paused -= 1
        self.expect_progress()

    def answer(self, message: dict[str, Any]) -> None:
        """Take the server's answer, well formed or not."""
        result = message.get("result")
        if isinstance(result, dict):
            self._result = result
        else:
            self._failure = _error_of(message)
        self._answered.set()

    def fail(self, failure: Exception) -> None:
        """End the call without an answer."""
        if not self.answered:
            self._failure = failure
            self._answered.set()

    def result(self) -> dict[str, Any]:
        """Return the server's result.

        Raises:
            MCPError: the server answered with an error.
            ServerDied: there will be no answer.
        """
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        return self._result


def _error_of(message: dict[str, Any]) -> MCPError:
    error = message.get("error")
    if not isinstance(error, dict):
        return MCPError(INTERNAL_ERROR, "the server sent an answer with neither a result object nor an error")
    code, text = error.get("code"), error.get("message")
    return MCPError(
        code if isinstance(code, int) else INTERNAL_ERROR,
        text if isinstance(text, str) else f"the server sent an error without a message: {error!r:.200}",
        error.get("data"),
    )
