"""Streamable HTTP of the handshake era (MCP specification 2025-11-25, basic/transports).

A client opens a session with `initialize` and names it in every request from
then on.  A request is answered with JSON when the answer is all there is to
say, else, or when the client would rather have that, with an event stream.  A
client whose connection breaks while a call runs is taken for gone, and the
call is cancelled, unless it had a stream and comes back for it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, final

from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

from sexton.gateway.mcp_endpoint.core import Core
from sexton.gateway.mcp_endpoint.event_channel import number_of
from sexton.gateway.mcp_endpoint.event_trail import Headers as RawHeaders
from sexton.gateway.mcp_endpoint.http_message import (
    LAST_EVENT_HEADER,
    SESSION_HEADER,
    HttpRequest,
    Refused,
    accepted,
    prefers_events,
    require_both,
)
from sexton.gateway.mcp_endpoint.legacy_session import LegacyCall, LegacySession
from sexton.gateway.mcp_endpoint.reply import Reply, reply_while_connected, send_json
from sexton.gateway.mcp_endpoint.wire import LOG_LEVELS, REQUEST_CANCELLED, Message, Params, answer, failure, text_param

_log = logging.getLogger(__name__)

Own: TypeAlias = Callable[[Core, LegacyCall, Params | None], Awaitable[dict[str, Any]]]


@final
class LegacyHttp:
    """Answers the requests of clients of the handshake era."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def post(self, message: Any, http: HttpRequest) -> None:
        """Take one message.  Raises Refused."""
        require_both(http.headers)
        if not isinstance(message, dict):
            raise Refused(400, "Bad Request: the body must be one JSON-RPC message")
        method = message.get("method")
        if method == "initialize" and "id" in message:
            _check_form(message)
            await self._initialize(message, http)
            return
        session = self._session(http)
        session.touch()
        _check_form(message)
        if not isinstance(method, str):
            session.take_answer(message)
            await send_json(http.send, 202)
        elif "id" not in message:
            self._take_notification(session, method, message.get("params"))
            await send_json(http.send, 202)
        else:
            await self._answer(session, message, http)

    async def get(self, http: HttpRequest) -> None:
        """Open the stream for what belongs to no request.  Raises Refused."""
        if not accepted(http.headers)[1]:
            raise Refused(406, "Not Acceptable: Client must accept text/event-stream")
        session = self._session(http)
        session.touch()
        after = http.headers.get(LAST_EVENT_HEADER)
        name, of_a_call, number = (after or "").partition("-")
        if of_a_call:
            await self._resume(session, name, number, http)
        else:
            await session.channel.serve(
                http.receive, http.send, after=after, headers=_session_header(session), closing=self._core.closing
            )
        session.touch()

    async def _resume(self, session: LegacySession, name: str, number: str, http: HttpRequest) -> None:
        """Go on with the stream of a call.  Raises Refused."""
        reply, after = session.stream(name), number_of(number)
        if reply is None or after is None:
            raise Refused(400, f"Bad Request: no stream with the event {name}-{number} is kept")
        await reply.resume(http.receive, http.send, after=after, headers=_session_header(session))

    async def delete(self, http: HttpRequest) -> None:
        """End a session.  Raises Refused."""
        session = self._session(http)
        await self._core.end_session(session)
        await send_json(http.send, 200)

    def _session(self, http: HttpRequest) -> LegacySession:
        said = http.headers.get(SESSION_HEADER)
        if said is None:
            raise Refused(400, "Bad Request: Missing session ID")
        session = self._core.sessions.get(said)
        if session is None or session.view_key != http.view or session.owner != http.owner:
            raise Refused(404, "Session not found")
        return session

    async def _initialize(self, message: Message, http: HttpRequest) -> None:
        try:
            version, info, capabilities = _greeting(message.get("params") or {})
            introduction = await self._core.methods.introduce(self._core.view(http.view))
        except MCPError as error:
            await send_json(http.send, 200, failure(message["id"], error))
            return
        session = await self._core.open_session(
            view_key=http.view, owner=http.owner, version=version, client_info=info, capabilities=capabilities
        )
        if session is None:
            raise Refused(503, "Too many open sessions", code=INTERNAL_ERROR)
        result = {"protocolVersion": version, **introduction}
        await send_json(http.send, 200, answer(message["id"], result), headers=_session_header(session))

    async def _answer(self, session: LegacySession, message: Message, http: HttpRequest) -> None:
        wants_stream = prefers_events(http.headers)

        async def work(reply: Reply) -> tuple[int, Message]:
            if wants_stream:
                reply.stream()
            with session.calling(message["id"], reply.scope):
                return 200, await self._outcome(session, reply, message)

        await reply_while_connected(
            http.receive,
            http.send,
            work,
            cancelled=failure(message["id"], MCPError(REQUEST_CANCELLED, "Request cancelled")),
            open_replies=self._core.replies,
            headers=_session_header(session),
            client=session,
            close_after=self._core.settings.close_streams_after,
        )

    async def _outcome(self, session: LegacySession, reply: Reply, message: Message) -> Message:
        request_id, method, params = message["id"], message["method"], message.get("params")
        try:
            call = LegacyCall(session, reply, params)
            if (own := _OWN.get(method)) is not None:
                return answer(request_id, await own(self._core, call, params))
            return answer(request_id, await self._core.methods.answer(call, method, params))
        except MCPError as error:
            return failure(request_id, error)
        except Exception:  # noqa: BLE001 - the outermost edge of a request
            _log.exception("%s of %s failed", method, session.holder)
            return failure(request_id, MCPError(INTERNAL_ERROR, "Internal error"))

    def _take_notification(self, session: LegacySession, method: str, params: Params | None) -> None:
        if method == "notifications/cancelled":
            session.cancel_call((params or {}).get("requestId"))
        elif method == "notifications/roots/list_changed":
            session.tell_roots_changed()


def _check_form(message: Message) -> None:
    """Raises Refused for what is no JSON-RPC message that MCP knows."""
    if not isinstance(message.get("id", 0), str | int) or not isinstance(message.get("params", {}), dict):
        raise Refused(400, "Bad Request: id must be text or a whole number, params an object")


def _greeting(params: Params) -> tuple[str, Params, Params]:
    """Return the version to speak, and who the client is and what it can do.  Raises MCPError."""
    version = text_param(params, "protocolVersion")
    info, capabilities = params.get("clientInfo") or {}, params.get("capabilities") or {}
    if not isinstance(info, dict) or not isinstance(capabilities, dict):
        raise MCPError(INVALID_PARAMS, "Invalid params: clientInfo and capabilities must be objects")
    agreed = version if version in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
    return agreed, {"name": "unknown", "version": "", **info}, capabilities


# What only this era has


async def _ping(_core: Core, _call: LegacyCall, _params: Params | None) -> dict[str, Any]:
    return {}


async def _set_level(_core: Core, call: LegacyCall, params: Params | None) -> dict[str, Any]:
    level = text_param(params, "level")
    if level not in LOG_LEVELS:
        raise MCPError(INVALID_PARAMS, f"Invalid params: level must be one of {', '.join(LOG_LEVELS)}")
    call.session.log_level = level
    return {}


async def _subscribe(core: Core, call: LegacyCall, params: Params | None) -> dict[str, Any]:
    uri = text_param(params, "uri")
    for server in (await core.offers.find_resource(call, uri))[:1]:
        await call.session.subscribe(server, uri)
    return {}


async def _unsubscribe(_core: Core, call: LegacyCall, params: Params | None) -> dict[str, Any]:
    call.session.unsubscribe(text_param(params, "uri"))
    return {}


_OWN: Final[dict[str, Own]] = {
    "ping": _ping,
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}


def _session_header(session: LegacySession) -> RawHeaders:
    return ((SESSION_HEADER.encode(), session.id.encode()),)
