"""A big result is the same to its holder as the SDK would have made it."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from typing import Any, final

import anyio
import anyio.abc
import pytest
from mcp import ClientSession
from mcp.shared.dispatcher import CallOptions, OnNotify, OnNotifyIntercept, OnRequest
from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult, InitializeResult, Tool
from pydantic import ValidationError

from sexton.mcp_servers.big_result import MANY, is_big, lighten
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.collector import collector_resting
from sexton.mcp_servers.holder_session import HolderSession, running
from sexton.mcp_servers.output_schemas import OutputSchemas
from sexton.mcp_servers.server_errors import InvalidAnswer, InvalidToolResult

pytestmark = pytest.mark.anyio

MANY_BLOCKS = [{"type": "text", "text": f"block {number}"} for number in range(1700)]
MANY_ROWS = {"rows": [{"id": number, "tags": ["a", None, 1.5]} for number in range(1000)]}


@final
class Answering:
    """A dispatcher that answers every request with one result."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        return lighten(method, copy.deepcopy(self.raw))

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Nobody listens."""

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        await anyio.sleep_forever()


HANDSHAKE = InitializeResult.model_validate(
    {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
)


def schemas(*tools: Tool) -> OutputSchemas:
    async def listed() -> tuple[Tool, ...]:
        return tools

    return OutputSchemas("files", listed)


REQUEST = CallToolRequest(params=CallToolRequestParams(name="list"))


async def by_sdk(raw: dict[str, Any]) -> CallToolResult:
    failure: ValidationError | None = None
    async with ClientSession(dispatcher=Answering(raw)) as session:
        session.adopt(HANDSHAKE)
        try:
            return await session.send_request(REQUEST, CallToolResult)
        except ValidationError as error:
            failure = error
    raise failure


async def by_us(raw: dict[str, Any], *tools: Tool) -> CallToolResult:
    dispatcher = Answering(raw)
    session = HolderSession(dispatcher, Callbacks(), call_timeout=None, schemas=schemas(*tools))
    session.adopt(HANDSHAKE)
    async with running(session):
        return await session.call_tool("list", {}) if tools else await session.send_request(REQUEST, CallToolResult)


@pytest.mark.parametrize(
    "raw",
    [
        {"content": MANY_BLOCKS},
        {"content": [], "structuredContent": MANY_ROWS, "isError": True},
        {"content": MANY_BLOCKS, "structuredContent": MANY_ROWS, "_meta": {"a": 1}, "ttlMs": -1, "unknown": 1},
        {"content": MANY_BLOCKS[:3], "structuredContent": {"few": 1}},
    ],
)
async def test_it_is_what_the_sdk_makes_of_it(raw: dict[str, Any]) -> None:
    ours, sdks = await by_us(raw), await by_sdk(raw)
    assert ours == sdks
    assert ours.model_fields_set == sdks.model_fields_set
    assert ours.model_dump() == sdks.model_dump()


@pytest.mark.parametrize(
    "raw",
    [
        {"content": [*MANY_BLOCKS, {"type": "text"}]},
        {"content": MANY_BLOCKS, "isError": "perhaps"},
        {"content": [], "structuredContent": [*MANY_ROWS["rows"]]},  # a list is allowed since 2026-07-28
    ],
)
async def test_what_the_sdk_refuses_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        await by_sdk(raw)
    with pytest.raises(
        InvalidAnswer, match="server 'files' gave an answer to tools/call that is not what the protocol"
    ):
        await by_us(raw)


async def test_big_structured_content_is_checked_against_its_schema() -> None:
    def listing(kind: str) -> Tool:
        rows = {"type": "array", "items": {"properties": {"id": {"type": kind}}}}
        schema = {"type": "object", "properties": {"rows": rows}}
        return Tool(name="list", input_schema={"type": "object"}, output_schema=schema)

    raw = {"content": [], "structuredContent": MANY_ROWS}
    assert (await by_us(raw, listing("integer"))).structured_content == MANY_ROWS
    with pytest.raises(InvalidToolResult, match="does not fit its own schema"):
        await by_us(raw, listing("string"))


def test_big_is_counted_at_every_depth() -> None:
    assert not is_big("x" * 10 * MANY)
    assert not is_big([[1] * (MANY // 2)])
    assert is_big([[1] * (MANY // 2)] * 3)
    assert is_big({"a": {"b": dict.fromkeys(map(str, range(MANY + 1)))}})


def test_the_collector_rests_until_the_last_has_finished() -> None:
    with collector_resting():
        with collector_resting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
