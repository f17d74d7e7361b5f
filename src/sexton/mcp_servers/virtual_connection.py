"""One holder's connection to a process that it shares with others.

It is a `Dispatcher` of the SDK, the seam below `ClientSession`: a holder's
session runs on it as if the process were its own.  Requests go to the
`Multiplexer`, which owns the wire; what the server says to this holder comes
back through `serve` and `deliver`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp.shared.dispatcher import (
    CallOptions,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    ProgressFnT,
    coerce_request_id,
    run_notify_intercept,
)
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.transport_context import TransportContext
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_PARAMS, RequestId
from pydantic import ValidationError

from sexton.mcp_servers.big_result import lighten
from sexton.mcp_servers.call import Call

_log = logging.getLogger(__name__)

MAX_UNHEARD: Final = 1000
"""Notifications that one holder may leave unhandled; further ones are dropped, so that a flood stays bounded."""

_TRANSPORT: Final = TransportContext(kind="stdio", can_send_request=True)


class SharedWire(Protocol):
    """What a connection needs of the one who owns the wire: `Multiplexer` says what each of these does."""

    def join(self, connection: VirtualConnection) -> None: ...

    def leave(self, connection: VirtualConnection) -> None: ...

    async def request(
        self, connection: VirtualConnection, method: str, params: Mapping[str, Any] | None, opts: CallOptions
    ) -> dict[str, Any]: ...

    def notify(self, connection: VirtualConnection, method: str, params: Mapping[str, Any] | None) -> None: ...

    def calls_of(self, connection: VirtualConnection) -> tuple[Call, ...]: ...

    def answer(self, request_id: RequestId, result: dict[str, Any]) -> None: ...

    def answer_error(self, request_id: RequestId, error: MCPError) -> None: ...

    def decline(self, request_id: RequestId, method: str, reason: str) -> None: ...


@final
class VirtualConnection:
    """Own requests, own cancellation, own notifications, over a shared wire.

    Usable while `run` runs.  Leaving `run` gives everything back: calls in
    flight are cancelled at the server, subscriptions that nobody else wants
    are ended, and late answers are dropped.
    """

    def __init__(self, wire: SharedWire, holder: str, *, owner: str | None = None, is_holder: bool = True) -> None:
        self.holder = holder
        self.owner = owner or holder
        """For whom the holder acts; questions are never passed to somebody else's holder on a guess."""
        self.is_holder = is_holder
        """False for our own connection, on which the handshake is done and tools are listed."""
        self._wire = wire
        self._tasks: anyio.abc.TaskGroup | None = None
        self._on_request: OnRequest | None = None
        self._on_notify: OnNotify | None = None
        self._intercept: OnNotifyIntercept | None = None
        self._questions: dict[RequestId, anyio.CancelScope] = {}
        self._unheard = 0

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result; the SDK's `Dispatcher` contract.

        Cancelling this wait tells the server to stop, with the id it knows.

        Raises:
            MCPError: the server answered with an error; CONNECTION_CLOSED after `run` has ended.
            ServerDied: the connection ended (NotWritten: before the request was written).
            CallTimedOut: `opts["timeout"]` seconds passed without an answer or progress.
        """
        if self._tasks is None:
            raise MCPError(CONNECTION_CLOSED, f"{self.holder} has left this server")
        return lighten(method, await self._wire.request(self, method, params, opts or {}))

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification; after the end it is dropped without a word, as the SDK does.  `opts` is for HTTP."""
        del opts
        if self._tasks is not None:
            self._wire.notify(self, method, params)

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be connected until cancelled."""
        self._on_request, self._on_notify, self._intercept = on_request, on_notify, on_notify_intercept
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._wire.join(self)
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            self._wire.leave(self)

    def serve(self, request_id: RequestId, method: str, params: Mapping[str, Any] | None) -> None:
        """Let this holder answer a request of the server."""
        if self._tasks is None:
            self._wire.decline(request_id, method, "the caller it was meant for has left")
            return
        self._tasks.start_soon(self._serve, request_id, method, params)

    def withdraw_question(self, request_id: RequestId) -> None:
        """The server no longer wants the answer to its request."""
        if (scope := self._questions.get(coerce_request_id(request_id))) is not None:
            scope.cancel()

    def deliver(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell this holder what the server said."""
        if self._tasks is None or run_notify_intercept(self._intercept, method, params):
            return
        if self._unheard >= MAX_UNHEARD:
            _log.debug("dropped %s: %s has %d notifications unhandled", method, self.holder, self._unheard)
            return
        self._unheard += 1
        self._tasks.start_soon(self._hear, method, params)

    def report_progress(self, tell: ProgressFnT, params: Mapping[str, Any]) -> None:
        """Call the progress callback of one of this holder's calls."""
        progress, total, message = params.get("progress"), params.get("total"), params.get("message")
        if self._tasks is None or not isinstance(progress, int | float) or self._unheard >= MAX_UNHEARD:
            return
        self._unheard += 1
        self._tasks.start_soon(
            self._tell_progress,
            tell,
            float(progress),
            float(total) if isinstance(total, int | float) else None,
            message if isinstance(message, str) else None,
        )

    async def _serve(self, request_id: RequestId, method: str, params: Mapping[str, Any] | None) -> None:
        assert self._on_request is not None
        question = self._questions[coerce_request_id(request_id)] = anyio.CancelScope()
        settled = False
        paused = self._wire.calls_of(self)
        for call in paused:
            call.pause()
        try:
            with question:
                result = await self._on_request(_Question(self, request_id), method, params)
                self._wire.answer(request_id, result)
                settled = True
            settled = True  # the server has withdrawn its question: it must not be answered
        except MCPError as error:
            self._wire.answer_error(request_id, error)
            settled = True
        except ValidationError:
            self._wire.answer_error(request_id, MCPError(INVALID_PARAMS, "Invalid request parameters"))
            settled = True
        except Exception:  # noqa: BLE001 - the outermost edge of a request of the server
            _log.exception("%s failed to answer %s", self.holder, method)
            self._wire.answer_error(request_id, MCPError(INTERNAL_ERROR, "the client failed to answer"))
            settled = True
        finally:
            self._questions.pop(coerce_request_id(request_id), None)  # a server may use one id twice
            for call in paused:
                call.resume()
            if not settled:
                self._wire.decline(request_id, method, "the caller it was meant for has left")

    async def _hear(self, method: str, params: Mapping[str, Any] | None) -> None:
        assert self._on_notify is not None
        try:
            await self._on_notify(_Question(self, None), method, params)
        except Exception:  # noqa: BLE001 - the outermost edge of a notification
            _log.exception("%s failed to handle %s", self.holder, method)
        finally:
            self._unheard -= 1

    async def _tell_progress(
        self, tell: ProgressFnT, progress: float, total: float | None, message: str | None
    ) -> None:
        try:
            await tell(progress, total, message)
        except Exception:  # noqa: BLE001 - the outermost edge of a notification
            _log.exception("the progress callback of %s failed", self.holder)
        finally:
            self._unheard -= 1


@final
class _Question:
    """What a handler of the session is told about a message of the server: the SDK's `DispatchContext`."""

    transport = _TRANSPORT
    message_metadata = None

    def __init__(self, connection: VirtualConnection, request_id: RequestId | None) -> None:
        self.request_id = request_id
        self.cancel_requested = anyio.Event()
        self._connection = connection

    @property
    def can_send_request(self) -> bool:
        return self.request_id is not None

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._connection.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        await self._connection.notify(method, params, opts)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Part of the contract; the client sessions that we drive report none."""
        await self.notify("notifications/progress", {"progress": progress, "total": total, "message": message})
