"""The SDK's dispatcher for a server that somebody else runs, failing and timing out as our own connections do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Protocol, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp.shared.dispatcher import (
    CallOptions,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    as_request_id,
    coerce_request_id,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher, progress_token_from_params
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    REQUEST_TIMEOUT,
    RequestId,
)

from sexton.mcp_servers.big_result import lighten
from sexton.mcp_servers.call import LISTEN, LONG_RUNNING
from sexton.mcp_servers.server_errors import (
    ServerDied,
)


class Session(Protocol):
    """The session whose requests are sent."""

    def stream_ended(self) -> None:
        """Nothing can be heard of the server any more."""
        ...

    def begin_request(self, request_id: RequestId) -> None:
        """Raises NotWritten when the session is over."""
        ...

    def failure_of(self, request_id: RequestId, error: MCPError) -> ServerDied | None:
        """Return what `error` means, if it is not the server's own answer."""
        ...


@final
class RemoteDispatcher(JSONRPCDispatcher[TransportContext]):
    """The SDK's dispatcher, which fails and times out as our own connections do.

    Progress starts the timeout of a call again, and a lost connection is
    ServerDied or NotWritten.
    """

    def __init__(self, read: Any, write: Any, link: Session) -> None:
        super().__init__(read, write)
        self._link = link
        self._ids = itertools.count(1)
        self._own_tokens: dict[RequestId, RequestId] = {}

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive until the stream ends."""

        def intercept(method: str, params: Mapping[str, Any] | None) -> bool:
            return on_notify_intercept is not None and on_notify_intercept(method, self._with_own_token(method, params))

        try:
            await super().run(on_request, on_notify, intercept, task_status=task_status)
        finally:
            self._link.stream_ended()

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        *,
        _related_request_id: RequestId | None = None,
    ) -> dict[str, Any]:
        """Send a request.

        Raises:
            MCPError: the server answered with an error, or in no time.
            ServerDied: the connection was lost (NotWritten: before the server read the request).
        """
        if method == LISTEN:  # the SDK's driver of a subscription knows no error but MCPError
            return await self._send_patiently(method, params, opts or {}, _related_request_id)
        request_id = next(self._ids)
        self._link.begin_request(request_id)
        if (own := progress_token_from_params(params)) is not None:
            self._own_tokens[request_id] = own
        try:
            numbered: CallOptions = {**(opts or {}), "request_id": request_id}
            return lighten(method, await self._send_patiently(method, params, numbered, _related_request_id))
        except MCPError as error:
            if (failure := self._link.failure_of(request_id, error)) is not None:
                raise failure from error
            raise
        finally:
            self._own_tokens.pop(request_id, None)

    def _with_own_token(self, method: str, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """A holder that forwards brought its own token along; ours, which is the request's id, took its place."""
        if method != "notifications/progress" or params is None:
            return params
        token = as_request_id(params.get("progressToken"))
        own = None if token is None else self._own_tokens.get(coerce_request_id(token))
        return params if own is None else {**params, "progressToken": own}

    async def _send_patiently(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions, _related_request_id: RequestId | None
    ) -> dict[str, Any]:
        untimed: CallOptions = {**opts}
        timeout = untimed.pop("timeout", None)
        if timeout is None or method not in LONG_RUNNING:
            return await super().send_raw_request(method, params, opts, _related_request_id=_related_request_id)
        tell = untimed.get("on_progress")
        with anyio.CancelScope(deadline=anyio.current_time() + timeout) as limit:

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                limit.deadline = anyio.current_time() + timeout
                if tell is not None:
                    await tell(progress, total, message)

            untimed["on_progress"] = on_progress
            return await super().send_raw_request(method, params, untimed, _related_request_id=_related_request_id)
        raise MCPError(REQUEST_TIMEOUT, f"{method} was not answered within {timeout:g} s")
