"""The SDK's client session, as a holder of a server gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, cast, final

import anyio
from mcp import ClientSession, MCPError
from mcp.client.session import ClientRequestContext
from mcp.shared.dispatcher import CallOptions, DispatchContext, Dispatcher, ProgressFnT
from mcp.shared.message import ClientMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CallToolRequest,
    CallToolResult,
    ClientCapabilities,
    ClientRequest,
    ErrorData,
    GetPromptRequest,
    Implementation,
    InputRequest,
    InputRequiredResult,
    InputResponse,
    ReadResourceRequest,
    Request,
)
from pydantic import BaseModel, TypeAdapter, ValidationError

from sexton import __version__
from sexton.errors import SextonError
from sexton.mcp_servers.big_result import bulk_taken
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.output_schemas import OutputSchemas
from sexton.mcp_servers.peer import polite_refusal
from sexton.mcp_servers.server_errors import invalid_answer

MAX_INPUT_ROUNDS: Final = 10
"""How often a server may ask for more input for one request; the SDK's clients use the same number."""

_EMPTY_ROUND_DELAY: Final = 0.05
_EMPTY_ROUND_DELAY_CAP: Final = 0.25

_BEFORE_HANDSHAKE: Final = "2025-11-25"
"""The version by which the SDK's session checks what comes before one is agreed on."""

ResultT = TypeVar("ResultT", bound=BaseModel)

SEXTON = Implementation(name="sexton", version=__version__)


def _as_it_is(error: MCPError, _method: str) -> Exception:
    return error


class TooManyInputRounds(SextonError):
    """A server kept asking for more input."""


@final
class HolderSession(ClientSession):
    """A `ClientSession` that answers input requests by itself and shares the server's output schemas.

    A 2026-07-28 server that needs input from the user answers a request with
    `InputRequiredResult`.  This session asks the holder's callbacks and sends
    the request again with their answers, so that a caller sees one call, as it
    does with an older server (MCP specification 2026-07-28, SEP-2322).
    """

    def __init__(
        self,
        dispatcher: Dispatcher[Any],
        callbacks: Callbacks,
        *,
        call_timeout: float | None,
        schemas: OutputSchemas,
        explain: Callable[[MCPError, str], Exception] = _as_it_is,
    ) -> None:
        super().__init__(
            dispatcher=dispatcher,
            read_timeout_seconds=call_timeout,
            sampling_callback=callbacks.sampling,
            elicitation_callback=callbacks.elicitation,
            list_roots_callback=callbacks.list_roots,
            logging_callback=callbacks.logging,
            message_handler=callbacks.message_handler,
            log_level=callbacks.log_level,
            client_info=_introduced(callbacks),
        )
        self._peer = callbacks.peer
        self._answers = {
            "sampling/createMessage": callbacks.sampling is not None,
            "elicitation/create": callbacks.elicitation is not None,
            "roots/list": callbacks.list_roots is not None,
        }
        self._answers_input = callbacks.answer_input_requests
        self._schemas = schemas
        self._explain = explain
        self.tool_calls = 0
        self._lister: HolderSession | None = None

    async def send_request(
        self,
        request: ClientRequest | Request[Any, Any],
        result_type: type[ResultT] | TypeAdapter[ResultT],
        request_read_timeout_seconds: float | None = None,
        metadata: ClientMessageMetadata | None = None,
        progress_callback: ProgressFnT | None = None,
    ) -> ResultT:
        """Send a request, as often as the server's input requests make it necessary.

        Raises:
            MCPError: the server answered with an error, or a callback declined.
            ServerDied: the connection ended.
            CallTimedOut: no answer in time.
            InvalidAnswer: the answer is not what the protocol says.
            TooManyInputRounds: more than `MAX_INPUT_ROUNDS`.
        """
        self.tool_calls += isinstance(request, CallToolRequest)
        delay = _EMPTY_ROUND_DELAY
        for _ in range(MAX_INPUT_ROUNDS + 1):
            try:
                with bulk_taken() as bulk:
                    result = await super().send_request(
                        request, result_type, request_read_timeout_seconds, metadata, progress_callback
                    )
                if isinstance(result, CallToolResult):
                    whole = await bulk.put_back(result, self.protocol_version or _BEFORE_HANDSHAKE)
                    result = cast("ResultT", whole)
            except ValidationError as error:
                raise invalid_answer(self._schemas.server, request.method, _first_fault(error)) from error
            except MCPError as error:
                explained = self._explain(error, request.method)
                if explained is error:
                    raise
                raise explained from error
            if not (self._answers_input and isinstance(result, InputRequiredResult)):
                return result
            responses = await self._answer_all(result.input_requests or {})
            if not responses:
                await anyio.sleep(delay)
                delay = min(delay * 2, _EMPTY_ROUND_DELAY_CAP)
            request = _with_answers(request, responses, result.request_state)
        raise TooManyInputRounds(f"a server asked for input more than {MAX_INPUT_ROUNDS} times for one request.")

    async def forward(
        self, method: str, params: Mapping[str, Any] | None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Send a request as it is and return its result as it is; nothing is checked on the way.

        For a 2026-07-28 server the envelope that `params` lacks is put in.
        `timeout` is in seconds without progress.

        Raises:
            MCPError: the server answered with an error.
            ServerDied, CallTimedOut: as for any call.
        """
        self.tool_calls += method == "tools/call"
        opts: CallOptions = {} if timeout is None else {"timeout": timeout}
        data: dict[str, Any] = {"method": method, "params": params}
        if self.discover_result is not None:
            said = (params or {}).get("_meta") or {}
            data["params"] = {**(params or {}), "_meta": (meta := dict(said))}
            self._stamp(data, opts)
            meta.update(said)
        else:
            self._stamp(data, opts)
        try:
            return await self._dispatcher.send_raw_request(method, data["params"], opts)
        except MCPError as error:
            explained = self._explain(error, method)
            if explained is error:
                raise
            raise explained from error

    async def notify(self, method: str) -> None:
        """Send a notification as it is; dropped when the connection has ended."""
        await self._dispatcher.notify(method, None)

    def listed_by(self, lister: HolderSession) -> None:
        """`lister` lists the tools for this session too, and knows which arguments are repeated in HTTP headers."""
        self._lister = lister

    def param_headers(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers that repeat arguments of a tool which this session has listed."""
        return super()._resolve_param_headers(tool, arguments)

    def _resolve_param_headers(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        return (self._lister or self).param_headers(name, arguments)

    async def validate_tool_result(self, name: str, result: CallToolResult) -> None:
        """Check a tool's result against its declared schema.  Raises InvalidToolResult."""
        await self._schemas.check(name, result)

    async def _on_request(
        self, dctx: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if self._peer is not None and method != "ping":
            return await self._peer.ask(method, params)
        if not self._answers.get(method, True):
            return polite_refusal(method)
        return await super()._on_request(dctx, method, params)

    def _build_capabilities(self, version: str) -> ClientCapabilities:
        if self._peer is None:
            return super()._build_capabilities(version)
        try:
            return ClientCapabilities.model_validate(self._peer.capabilities)
        except ValidationError:
            return ClientCapabilities()  # what it said of itself is nothing that a server would understand

    def _intercept_notification(self, method: str, params: Mapping[str, Any] | None) -> bool:
        taken = super()._intercept_notification(method, params)
        if self._peer is None:
            return taken
        if not taken:
            self._peer.hear(method, params)
        return True

    async def _answer_all(self, requests: dict[str, InputRequest]) -> dict[str, InputResponse]:
        answers: dict[str, InputResponse] = {}
        declined: list[ErrorData] = []

        async def answer(key: str, request: InputRequest) -> None:
            context = ClientRequestContext(session=self, request_id=key, meta=None)
            response = await self.dispatch_input_request(context, request)
            if isinstance(response, ErrorData):
                declined.append(response)
                group.cancel_scope.cancel()
            else:
                answers[key] = response

        async with anyio.create_task_group() as group:
            for key, request in requests.items():
                group.start_soon(answer, key, request)
        if declined:
            raise MCPError.from_error_data(declined[0])
        return answers


def _introduced(callbacks: Callbacks) -> Implementation:
    if callbacks.peer is not None:
        try:
            return Implementation.model_validate(callbacks.peer.client_info)
        except ValidationError:
            return SEXTON
    return callbacks.client_info or SEXTON


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{fault['msg']} at {where}" if where else fault["msg"]


def _with_answers(
    request: ClientRequest | Request[Any, Any], responses: dict[str, InputResponse], state: str | None
) -> ClientRequest | Request[Any, Any]:
    # Only these three can be answered with InputRequiredResult.
    asked = cast("CallToolRequest | GetPromptRequest | ReadResourceRequest", request)
    answers = {"input_responses": responses or None, "request_state": state}
    return asked.model_copy(update={"params": asked.params.model_copy(update=answers)})


@asynccontextmanager
async def running(session: HolderSession) -> AsyncIterator[HolderSession]:
    """Run `session` for a block whose errors come out as they are, not in the group that the SDK's session makes."""
    failure: Exception | None = None
    async with session:
        try:
            yield session
        except Exception as error:  # noqa: BLE001 - raised again below, out of the session's task group
            failure = error
    if failure is not None:
        raise failure
