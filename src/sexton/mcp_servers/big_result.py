"""Results of many megabytes, checked without stopping the event loop.

The SDK's session checks a whole result in one go, twice, and writes it out
once to do so; 40 MB of small objects take it many seconds.  Here the bulk is
taken out before it sees the result and put back afterwards: blocks of content
are checked by the same models, some hundred at a time, and structured content
is what JSON made it, which is all that the protocol asks of it.  What comes
out is what the SDK would have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, final

import anyio.lowlevel
from mcp_types import CallToolResult, ContentBlock
from mcp_types.methods import validate_server_result

from sexton.mcp_servers.collector import collector_resting

TOOLS_CALL: Final = "tools/call"

MANY: Final = 2000
"""A value of more parts than this is big: to check it takes milliseconds."""

_BLOCKS_AT_ONCE: Final = 500


def is_big(value: object) -> bool:
    """Say whether a JSON value has more than `MANY` parts.  Looks at no more of it than that."""
    seen, rest = 0, [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict | list):
            seen += len(each)
            if seen > MANY:
                return True
            rest.extend(each.values() if isinstance(each, dict) else each)
    return False


@final
class Bulk:
    """What was taken out of one result of a tool."""

    def __init__(self) -> None:
        self._surface: dict[str, Any] = {}
        self._blocks: list[Any] | None = None
        self._structured: list[Any] | dict[str, Any] | None = None

    def take(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return `raw` with empty values where it is big."""
        light = dict(raw)
        if isinstance(blocks := raw.get("content"), list) and len(blocks) > _BLOCKS_AT_ONCE:
            self._blocks, light["content"] = blocks, []
        structured = raw.get("structuredContent")
        if isinstance(structured, dict | list) and is_big(structured):
            self._structured, light["structuredContent"] = structured, type(structured)()
        self._surface = light
        return light

    async def put_back(self, result: CallToolResult, version: str) -> CallToolResult:
        """Return `result` whole.

        Raises:
            pydantic.ValidationError: a block is none that `version` of the protocol knows.
        """
        whole: dict[str, Any] = {}
        if self._structured is not None:
            whole["structured_content"] = self._structured
        if self._blocks is not None:
            with collector_resting():
                whole["content"] = await self._check(self._blocks, version)
        return result.model_copy(update=whole) if whole else result

    async def _check(self, blocks: list[Any], version: str) -> list[ContentBlock]:
        checked: list[ContentBlock] = []
        for begin in range(0, len(blocks), _BLOCKS_AT_ONCE):
            some = blocks[begin : begin + _BLOCKS_AT_ONCE]
            blocks[begin : begin + _BLOCKS_AT_ONCE] = [None] * len(some)  # so that they are not freed all at once
            validate_server_result(TOOLS_CALL, version, {**self._surface, "content": some})
            checked += CallToolResult.model_validate({"content": some}, by_name=False).content
            await anyio.lowlevel.checkpoint()
        return checked


_expected: ContextVar[Bulk | None] = ContextVar("_expected", default=None)


@contextmanager
def bulk_taken() -> Iterator[Bulk]:
    """While this runs, `lighten` takes the bulk out of the answer to the request that this task makes."""
    bulk = Bulk()
    token = _expected.set(bulk)
    try:
        yield bulk
    finally:
        _expected.reset(token)


def lighten(method: str, raw: dict[str, Any]) -> dict[str, Any]:
    """Return what the SDK's session is to see of the result `raw`."""
    bulk = _expected.get()
    return raw if bulk is None or method != TOOLS_CALL else bulk.take(raw)
