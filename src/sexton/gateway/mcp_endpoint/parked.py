"""Calls of 2026-07-28 clients that wait for the client's input.

Such a client is not asked while its call runs; the call's answer says what is
missing, and the client makes the call again with it (SEP-2322).  An older
server asks in the middle of the call.  So the call goes on here, in a task of
its own, from the answer that says what is missing until the client is back.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from sexton.clock import Clock
from sexton.gateway.mcp_endpoint.wire import Params

_log = logging.getLogger(__name__)

MAX_PARKED: Final = 1000
SETTLED_AFTER: Final = 0.05
"""Seconds without a further question of a call, after which those that there are go to the client."""
SETTLED_AT_LAST: Final = 1.0
"""Seconds after which they go in any case."""
STATE_PREFIX: Final = "sexton:"
"""Tells our states from those of servers, which pass through us."""


class Told(Protocol):
    """The request that a call currently answers."""

    def tell(self, method: str, params: Params | None) -> None: ...


@final
class ParkedCall:
    """One call at an older server, over as many requests of the client as it takes.  A `Sink`."""

    def __init__(self, owner: str, token: object, *, settled_after: float = SETTLED_AFTER) -> None:
        self.owner = owner
        self._settled_after = settled_after
        self.token = token
        self.state = ""
        self.waits_until = math.inf
        self._attached: Told | None = None
        self._questions: dict[str, _Question] = {}
        self._count = 0
        self._news = anyio.Event()
        self._result: dict[str, Any] | None = None
        self._error: MCPError | None = None
        self._scope = anyio.CancelScope()

    async def run(self, work: Callable[[ParkedCall], Awaitable[dict[str, Any]]]) -> None:
        """Make the call."""
        try:
            with self._scope:
                self._result = await work(self)
        except MCPError as error:
            self._error = error
        except Exception:  # noqa: BLE001 - the outermost edge of the call's own task
            _log.exception("a call of %s failed", self.owner)
            self._error = MCPError(INTERNAL_ERROR, "Internal server error")
        finally:
            if self._result is None and self._error is None:
                self._error = MCPError(INTERNAL_ERROR, "the call was cancelled")
            self._news.set()

    def cancel(self) -> None:
        """End the call, at the server too."""
        self._scope.cancel()

    def tell(self, method: str, params: Params | None) -> None:
        """Pass a notification to the request that waits now; between two of them nobody hears it."""
        if self._attached is not None:
            self._attached.tell(method, params)

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """Wait until the client has come back with the answer."""
        self._count += 1
        key = f"q{self._count}"
        question = self._questions[key] = _Question(method, params)
        self._news.set()
        try:
            await question.answered.wait()
        finally:
            self._questions.pop(key, None)
        assert question.response is not None
        return question.response

    async def next_round(self, request: Told) -> dict[str, Any]:
        """Wait for the result, or for questions, which come out as an input-required result.

        Cancelling this wait, since the client has gone, cancels the call.  Raises MCPError.
        """
        self._attached = request
        self.waits_until = math.inf
        try:
            while not self._is_over:
                if self._questions and await self._are_all_there():
                    return self._input_required()
                if not self._questions:
                    await self._wait_news()
        except anyio.get_cancelled_exc_class():
            self.cancel()
            raise
        finally:
            self._attached = None
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def _are_all_there(self) -> bool:
        """Wait until no further question has come for a moment.  Returns whether there are any to ask then.

        A server that asks several at once writes one after the other, and the client should hear them together.
        """
        with anyio.move_on_after(SETTLED_AT_LAST):
            settled = False
            while not settled and not self._is_over:
                with anyio.move_on_after(self._settled_after) as quiet:
                    await self._wait_news()
                settled = quiet.cancelled_caught
        return bool(self._questions) and not self._is_over

    async def _wait_news(self) -> None:
        self._news = anyio.Event()
        await self._news.wait()

    def take_responses(self, responses: Params) -> None:
        """The client is back with answers; a question that it left out is asked again."""
        for key, response in responses.items():
            question = self._questions.get(key)
            if question is not None and isinstance(response, dict):
                question.response = response
                question.answered.set()
                del self._questions[key]

    @property
    def waits(self) -> bool:
        """Whether the client was asked something and is expected back."""
        return bool(self._questions) and not self._is_over

    @property
    def _is_over(self) -> bool:
        return self._result is not None or self._error is not None

    def _input_required(self) -> dict[str, Any]:
        self.state = STATE_PREFIX + secrets.token_urlsafe(24)  # each round has its own, good for one answer
        requests = {key: question.as_request() for key, question in self._questions.items()}
        return {"resultType": "input_required", "inputRequests": requests, "requestState": self.state}


@final
class _Question:
    def __init__(self, method: str, params: Params | None) -> None:
        self.method = method
        self.params = params
        self.answered = anyio.Event()
        self.response: dict[str, Any] | None = None

    def as_request(self) -> dict[str, Any]:
        request: dict[str, Any] = {"method": self.method}
        return request if self.params is None else {**request, "params": self.params}


def is_ours(state: object) -> bool:
    """Say whether a client's `requestState` came from here, and not from a server."""
    return isinstance(state, str) and state.startswith(STATE_PREFIX)


@final
class ParkedCalls:
    """All calls that wait for their clients, by the state that the client brings back."""

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._calls: dict[str, ParkedCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def park(self, call: ParkedCall) -> None:
        """The client was asked something; without an answer in time the call ends."""
        call.waits_until = self._clock.monotonic() + self._patience
        self._calls[call.state] = call
        if len(self._calls) > MAX_PARKED:
            oldest = min(self._calls.values(), key=lambda each: each.waits_until)
            self._calls.pop(oldest.state).cancel()

    def take(self, state: object, owner: str) -> ParkedCall:
        """Return the call that `owner` comes back for.  Raises MCPError if there is none: it had its time."""
        call = self._calls.get(state) if isinstance(state, str) else None
        if call is None or call.owner != owner:
            raise MCPError(INVALID_PARAMS, "Invalid params: no call waits with this requestState; make it anew")
        return self._calls.pop(call.state)

    def end_overdue(self) -> None:
        """End the calls whose clients did not come back in time."""
        now = self._clock.monotonic()
        for call in [call for call in self._calls.values() if now >= call.waits_until]:
            self._calls.pop(call.state).cancel()
