"""The schemas that a server declares for the structured results of its tools."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import anyio
from jsonschema import SchemaError, exceptions  # type: ignore[import-untyped]
from jsonschema.validators import validator_for  # type: ignore[import-untyped]
from mcp import MCPError
from mcp_types import CallToolResult, Tool
from referencing import Registry
from referencing.exceptions import Unresolvable

from sexton.errors import SextonError
from sexton.mcp_servers.big_result import is_big
from sexton.mcp_servers.server_errors import InvalidToolResult
from sexton.threads import in_thread

if TYPE_CHECKING:
    from jsonschema.protocols import Validator  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)

_LISTING_PATIENCE: Final = 10.0
"""Seconds that a result in hand may wait for the schema to check it against."""

_NO_REFERENCES: Final[Registry[Any]] = Registry()  # a `$ref` resolves inside its own schema or not at all


@final
class OutputSchemas:
    """Checks tool results for all holders of one server.

    The SDK's session keeps this per session, which costs each new holder one
    `tools/list` and one compilation per tool (60 times the check itself).
    """

    def __init__(self, server: str, tools: Callable[[], Awaitable[tuple[Tool, ...]]]) -> None:
        self.server = server
        self._tools = tools
        self._listed: tuple[Tool, ...] = ()
        self._schemas: dict[str, Mapping[str, Any] | None] = {}
        self._validators: dict[str, Validator] = {}

    async def check(self, tool: str, result: CallToolResult) -> None:
        """Check `result` of `tool` against the schema its server declares, if it declares one and can be asked.

        Raises:
            InvalidToolResult: the structured content is missing or does not fit,
                or the schema itself is broken.
        """
        try:
            with anyio.fail_after(_LISTING_PATIENCE):
                await self._follow_listing()
        except (SextonError, MCPError, TimeoutError) as error:
            # The call itself has succeeded, and may have had an effect: its result stands.
            _log.warning("the result of tool %r is not checked, its server does not list its tools: %s", tool, error)
            return
        if tool not in self._schemas:
            _log.warning("server %r answered a call of tool %r, which it does not list", self.server, tool)
        schema = self._schemas.get(tool)
        if schema is None:
            return
        if result.structured_content is None and "structured_content" not in result.model_fields_set:
            raise self._invalid(tool, "it declares an output schema but returned no structured content")
        validator, content = self._validator(tool, schema), result.structured_content
        if is_big(content):  # the validator is Python, so that other threads get their turn
            await in_thread(lambda: self._check_content(tool, validator, content), abandon_on_cancel=True)
        else:
            self._check_content(tool, validator, content)

    async def _follow_listing(self) -> None:
        tools = await self._tools()
        if tools is not self._listed:
            self._listed = tools
            self._schemas = {tool.name: tool.output_schema for tool in tools}
            self._validators.clear()

    def _validator(self, tool: str, schema: Mapping[str, Any]) -> Validator:
        if (known := self._validators.get(tool)) is not None:
            return known
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise self._invalid(tool, f"its output schema is not a valid JSON schema ({error.message})") from error
        validator = self._validators[tool] = kind(schema, registry=_NO_REFERENCES)
        return validator

    def _check_content(self, tool: str, validator: Validator, content: object) -> None:
        try:
            wrong = exceptions.best_match(validator.iter_errors(content))
        except Unresolvable as error:
            raise self._invalid(tool, f"its output schema refers to something outside itself ({error})") from error
        if wrong is not None:
            raise self._invalid(tool, f"its structured content does not fit its own schema ({wrong.message})")

    def _invalid(self, tool: str, what: str) -> InvalidToolResult:
        return InvalidToolResult(
            f"tool {tool!r} of server {self.server!r} gave an answer that we refuse: {what}.",
            hint="report this to the makers of the server",
        )
