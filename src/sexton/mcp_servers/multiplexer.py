"""Many virtual connections over one wire.

Owns the ids: each request gets one that is unique on the wire, which also
serves as its progress token, so that an answer, a progress report or a
cancellation finds its holder and nobody else.

What a server says without naming a request is routed by these rules (stdio
has nothing better to offer):

* a request of the server (sampling, elicitation, roots): to the one holder
  with calls in flight, where a tool call, a prompt or a resource counts before
  a mere listing; of several such holders that act for one owner, to the only
  one that is not being asked something already, or the one that was asked last;
  when no call is in flight, to the only holder there is; in any other case it is
  declined with an error that says so.  `ping` is always answered;
* a log message: to the holders with calls in flight, at or above the level
  each of them asked for;
* `resources/updated`: to its subscribers;
* anything else (`list_changed` above all): to every holder.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from mcp import MCPError
from mcp.shared.dispatcher import CallOptions, as_request_id, coerce_request_id
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    RequestId,
)

from sexton.mcp_servers.call import LISTEN, Call
from sexton.mcp_servers.json_line import encode, id_in_broken_answer
from sexton.mcp_servers.server_errors import CallTimedOut, ConnectionEnd, invalid_answer
from sexton.mcp_servers.shared_state import LogLevels, SubscriptionBook
from sexton.mcp_servers.stdio_transport import OutgoingLine
from sexton.mcp_servers.virtual_connection import VirtualConnection

_log = logging.getLogger(__name__)


class Wire(Protocol):
    """Where lines are written to."""

    def write(self, line: bytes) -> OutgoingLine: ...

    def withdraw(self, outgoing: OutgoingLine) -> bool: ...


@final
class Multiplexer:
    """Requests of many holders out, answers back to the right one.

    Everything here happens in one step of the event loop, except waiting for
    an answer.  `on_list_changed` hears every change of a list, before holders do.
    """

    def __init__(self, server: str, wire: Wire, *, on_list_changed: Callable[[str], None]) -> None:
        self._server = server
        self._wire = wire
        self._on_list_changed = on_list_changed
        self._ids = itertools.count(1)
        self._calls: dict[RequestId, Call] = {}
        self._callers: dict[RequestId, VirtualConnection] = {}
        self._connections: list[VirtualConnection] = []
        self._subscriptions: SubscriptionBook[VirtualConnection] = SubscriptionBook()
        self._log_levels: LogLevels[VirtualConnection] = LogLevels()
        self._asked_last: VirtualConnection | None = None
        self._end: ConnectionEnd | None = None
        self._handshake: tuple[str, dict[str, Any]] | None = None
        self.tool_calls = 0
        self.answers = 0
        self.late_answers = 0

    # --- what holders do -----------------------------------------------------------------------

    def join(self, connection: VirtualConnection) -> None:
        """Take `connection` in."""
        self._connections.append(connection)

    def leave(self, connection: VirtualConnection) -> None:
        """Give back everything of `connection`: its calls are cancelled at the server, its subscriptions ended."""
        self._connections.remove(connection)
        self._log_levels.leave(connection)
        for call in self.calls_of(connection):
            self._abandon(call, "the caller has left")
            call.fail(MCPError(CONNECTION_CLOSED, f"{connection.holder} has left this server"))
        for uri in self._subscriptions.leave(connection):
            self._send({"id": next(self._ids), "method": "resources/unsubscribe", "params": {"uri": uri}})

    async def request(
        self, connection: VirtualConnection, method: str, params: Mapping[str, Any] | None, opts: CallOptions
    ) -> dict[str, Any]:
        """Send a request for `connection` and wait for its result.  Raises what `send_raw_request` says."""
        if (known := self._answer_ourselves(connection, method, params)) is not None:
            return known
        call = self._new_call(method, params, opts)
        if self._end is not None:
            raise _loss(self._end, call)
        self.tool_calls += method == "tools/call"
        self._calls[call.wire_id] = call
        self._callers[call.wire_id] = connection
        try:
            call.outgoing = self._send(self._request_message(connection, call, params))
            in_time = await call.wait_answered()
        finally:
            del self._calls[call.wire_id]
            del self._callers[call.wire_id]
            if not call.answered and opts.get("cancel_on_abandon", True):
                self._abandon(call, "the caller no longer waits")
        if not in_time:
            raise CallTimedOut(
                f"server {self._server!r} did not answer {method} within {call.timeout:g} s; we told it to stop.",
                hint="raise call_timeout of this server if the call may take longer",
            )
        return call.result()

    def notify(self, connection: VirtualConnection, method: str, params: Mapping[str, Any] | None) -> None:
        """Pass a notification of a holder on, unless it concerns only our side of the wire."""
        if method == "notifications/initialized" and self._handshake is not None:
            return
        if method == "notifications/roots/list_changed" and self._only_holder() is not connection:
            return  # roots belong to one client, and the server has several
        if method == "notifications/cancelled":
            self._cancel_by_own_id(connection, params or {})
            return
        self._send({"method": method, "params": dict(params)} if params is not None else {"method": method})

    # --- what the process does -----------------------------------------------------------------

    def remember_handshake(self, method: str, result: dict[str, Any]) -> None:
        """From here on `method` (initialize or server/discover) is answered with `result`."""
        self._handshake = (method, result)

    def end(self, end: ConnectionEnd) -> None:
        """The connection is over: every call fails at once, and so does every later one."""
        if self._end is not None:
            return
        self._end = end
        for call in self._calls.values():
            call.fail(_loss(end, call))

    @property
    def holders(self) -> tuple[str, ...]:
        """Who is connected."""
        return tuple(connection.holder for connection in self._connections if connection.is_holder)

    @property
    def calls_in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._calls)

    # --- what the server says ------------------------------------------------------------------

    def receive(self, message: Any) -> bool:
        """Handle one message of the server.  Return False when it is not JSON-RPC at all."""
        if isinstance(message, list):  # a batch, as protocol 2025-03-26 allows
            understood = [self.receive(each) for each in message]
            return bool(understood) and all(understood)
        if not isinstance(message, dict):
            return False
        method = message.get("method")
        if isinstance(method, str):
            self._hear(method, message)
            return True
        if "id" in message and ("result" in message or "error" in message):
            self._take_answer(message)
            return True
        return False

    def receive_broken(self, line: bytes, fault: ValueError) -> bool:
        """Fail the call that a line of broken JSON was meant to answer.  Return False when none is to be seen."""
        call = self._calls.get(id_in_broken_answer(line) or 0)
        if call is None:
            return False
        error = invalid_answer(self._server, call.method, f"a line of broken JSON ({fault})")
        # The SDK's driver of a subscription knows no other error.
        call.fail(MCPError(PARSE_ERROR, error.what) if call.method == LISTEN else error)
        return True

    def _take_answer(self, message: dict[str, Any]) -> None:
        wire_id = as_request_id(message["id"])
        call = self._calls.get(coerce_request_id(wire_id)) if wire_id is not None else None
        if call is not None:
            self.answers += 1
            call.answer(message)
        elif wire_id is None:
            _log.warning("server %r reports an error with no request: %.500r", self._server, message.get("error"))
        else:
            self.late_answers += 1

    def _hear(self, method: str, message: dict[str, Any]) -> None:
        params = message.get("params")
        params = params if isinstance(params, dict) else None
        request_id = as_request_id(message.get("id"))
        if request_id is not None:
            self._take_question(request_id, method, params)
        elif "id" not in message:
            self._take_notification(method, params)

    def _take_question(self, request_id: RequestId, method: str, params: dict[str, Any] | None) -> None:
        if method == "ping":
            self.answer(request_id, {})
            return
        causer, reason = self._causer()
        if causer is None:
            self.decline(request_id, method, reason)
        else:
            self._asked_last = causer
            causer.serve(request_id, method, params)

    def _causer(self) -> tuple[VirtualConnection | None, str]:
        busy = self._busy_holders()
        if len(busy) == 1:
            return busy[0], ""
        if busy:
            likeliest = self._likeliest(busy)
            return likeliest, f"{len(busy)} callers have calls in flight, and nothing says whose call it belongs to"
        only = self._only_holder()
        return only, "no call is in flight that it could belong to"

    def _take_notification(self, method: str, params: dict[str, Any] | None) -> None:
        match method:
            case "notifications/progress":
                self._take_progress(params or {})
            case "notifications/cancelled":
                self._take_cancellation(params or {})
            case "notifications/message":
                self._take_log(params or {})
            case _:
                self._take_event(method, params)

    def _take_progress(self, params: dict[str, Any]) -> None:
        token = as_request_id(params.get("progressToken"))
        if token is None or (call := self._calls.get(coerce_request_id(token))) is None:
            return
        call.expect_progress()
        connection = self._callers[call.wire_id]
        if call.on_progress is not None:
            connection.report_progress(call.on_progress, params)
        if call.own_token is not None or call.on_progress is not None:
            own = call.wire_id if call.own_token is None else call.own_token
            connection.deliver("notifications/progress", {**params, "progressToken": own})

    def _take_cancellation(self, params: dict[str, Any]) -> None:
        request_id = as_request_id(params.get("requestId"))
        if request_id is None:
            return
        if (call := self._calls.get(coerce_request_id(request_id))) is not None:
            # The server gives up on a request of ours: how a 2026-07-28 server ends a subscription.
            own = call.wire_id if call.own_id is None else call.own_id
            self._callers[call.wire_id].deliver("notifications/cancelled", {**params, "requestId": own})
            return
        for connection in self._connections:
            connection.withdraw_question(request_id)

    def _take_log(self, params: dict[str, Any]) -> None:
        relevant = [call for call in self._calls.values() if call.occupies_server and call.wants_logs]
        listeners = dict.fromkeys(self._callers[call.wire_id] for call in relevant)
        if not listeners:
            _log.debug("server %r says: %.500r", self._server, params.get("data"))
        for connection in listeners:
            if self._log_levels.wants(connection, params.get("level")):
                connection.deliver("notifications/message", params)

    def _take_event(self, method: str, params: dict[str, Any] | None) -> None:
        if method.endswith("/list_changed"):
            self._on_list_changed(method)
        meta = (params or {}).get("_meta")
        subscription = as_request_id(meta.get(SUBSCRIPTION_ID_META_KEY)) if isinstance(meta, dict) else None
        if params is not None and isinstance(meta, dict) and subscription is not None:
            self._deliver_to_listener(method, params, meta, subscription)
        elif method == "notifications/resources/updated" and isinstance(uri := (params or {}).get("uri"), str):
            for connection in self._subscriptions.interested(uri):
                connection.deliver(method, params)
        else:
            for connection in tuple(self._connections):
                connection.deliver(method, params)

    def _deliver_to_listener(
        self, method: str, params: dict[str, Any], meta: dict[str, Any], subscription: RequestId
    ) -> None:
        if (call := self._calls.get(coerce_request_id(subscription))) is None:
            return  # of a holder that has left
        own = call.wire_id if call.own_id is None else call.own_id
        self._callers[call.wire_id].deliver(method, {**params, "_meta": {**meta, SUBSCRIPTION_ID_META_KEY: own}})

    # --- answers to the server -----------------------------------------------------------------

    def answer(self, request_id: RequestId, result: dict[str, Any]) -> None:
        """Answer a request of the server."""
        self._send({"id": request_id, "result": result})

    def answer_error(self, request_id: RequestId, error: MCPError) -> None:
        """Answer a request of the server with an error."""
        self._send({"id": request_id, "error": error.error.model_dump(exclude_none=True)})

    def decline(self, request_id: RequestId, method: str, reason: str) -> None:
        """Tell the server that nobody will answer its request, and why."""
        _log.info("declined %s of server %r: %s", method, self._server, reason)
        self.answer_error(request_id, MCPError(INVALID_REQUEST, f"sexton declines {method}: {reason}"))

    def calls_of(self, connection: VirtualConnection) -> tuple[Call, ...]:
        """Return the calls of `connection` that wait for an answer."""
        return tuple(call for call in self._calls.values() if self._callers[call.wire_id] is connection)

    # --- inside --------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> OutgoingLine:
        return self._wire.write(encode({"jsonrpc": "2.0", **message}))

    def _new_call(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions) -> Call:
        meta = (params or {}).get("_meta") or {}
        modern = PROTOCOL_VERSION_META_KEY in meta
        return Call(
            next(self._ids),
            method,
            timeout=opts.get("timeout"),
            own_id=opts.get("request_id"),
            own_token=as_request_id(meta.get("progressToken")),
            on_progress=opts.get("on_progress"),
            wants_logs=LOG_LEVEL_META_KEY in meta if modern else True,
        )

    def _request_message(
        self, connection: VirtualConnection, call: Call, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        sent = dict(params) if params is not None else {}
        # Asked for on long calls even when nobody listens: progress extends their timeout.
        if call.on_progress is not None or call.own_token is not None or call.runs_long:
            sent["_meta"] = {**(sent.get("_meta") or {}), "progressToken": call.wire_id}
        match call.method, sent:
            case "logging/setLevel", {"level": str() as level}:
                sent["level"] = self._log_levels.ask(connection, level)
            case "resources/subscribe", {"uri": str() as uri}:
                self._subscriptions.subscribe(connection, uri)
        message: dict[str, Any] = {"id": call.wire_id, "method": call.method}
        return {**message, "params": sent} if sent else message

    def _answer_ourselves(
        self, connection: VirtualConnection, method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        if method == "resources/unsubscribe" and isinstance(uri := (params or {}).get("uri"), str):
            return None if self._subscriptions.unsubscribe(connection, uri) else {}
        if self._handshake is None or method not in ("initialize", "server/discover"):
            return None
        done, result = self._handshake
        if method == done:
            return result
        if method == "server/discover":
            raise MCPError(METHOD_NOT_FOUND, "this server was connected with initialize", method)
        raise MCPError(
            UNSUPPORTED_PROTOCOL_VERSION,
            "this server was connected with server/discover",
            {"supported": result.get("supportedVersions"), "requested": (params or {}).get("protocolVersion")},
        )

    def _abandon(self, call: Call, reason: str) -> None:
        if self._end is not None or call.outgoing is None or self._wire.withdraw(call.outgoing):
            return
        self._send({"method": "notifications/cancelled", "params": {"requestId": call.wire_id, "reason": reason}})

    def _cancel_by_own_id(self, connection: VirtualConnection, params: Mapping[str, Any]) -> None:
        own = as_request_id(params.get("requestId"))
        for call in self.calls_of(connection):
            if call.own_id is not None and call.own_id == own:
                self._send({"method": "notifications/cancelled", "params": {**params, "requestId": call.wire_id}})

    def _busy_holders(self) -> list[VirtualConnection]:
        occupying = [call for call in self._calls.values() if call.occupies_server]
        likely = [call for call in occupying if call.runs_long] or occupying
        busy = dict.fromkeys(self._callers[call.wire_id] for call in likely)
        return [connection for connection in busy if connection.is_holder]

    def _likeliest(self, busy: list[VirtualConnection]) -> VirtualConnection | None:
        """Of several callers of one owner, the only one that is not asked already; if all are, who was asked last."""
        if len({connection.owner for connection in busy}) > 1:
            return None
        unasked = [each for each in busy if any(not call.is_paused for call in self.calls_of(each))]
        if not unasked:  # some servers ask several questions at a time
            return self._asked_last if self._asked_last in busy else None
        return unasked[0] if len(unasked) == 1 else None

    def _only_holder(self) -> VirtualConnection | None:
        holders = [connection for connection in self._connections if connection.is_holder]
        return holders[0] if len(holders) == 1 else None


def _loss(end: ConnectionEnd, call: Call) -> Exception:
    failure = end.failure(written=call.outgoing is not None and call.outgoing.started)
    # The SDK's driver of a subscription knows no other error; anything else would end the whole session.
    return MCPError(CONNECTION_CLOSED, failure.what) if call.method == LISTEN else failure
