"""What a tool asks of the client, in the words of either protocol era.

Before 2026-07-28 a server sends a request and waits.  Since then the call ends
with `input_required` and the client calls again with the answers; the tool is
run anew, and `requestState` carries what it was told in earlier rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    ListRootsRequest,
    ListRootsResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

Document = dict[str, Any]

Asked = type[ElicitRequest] | type[CreateMessageRequest] | type[ListRootsRequest]
Answered = type[ElicitResult] | type[CreateMessageResult] | type[ListRootsResult]

_FORMS: Final[Mapping[str, tuple[Asked, Answered]]] = {
    "elicitation/create": (ElicitRequest, ElicitResult),
    "sampling/createMessage": (CreateMessageRequest, CreateMessageResult),
    "roots/list": (ListRootsRequest, ListRootsResult),
}


class InputRequired(Exception):
    """The call cannot go on before the client has answered."""

    def __init__(self, requests: Mapping[str, Document], state: str) -> None:
        self.result = {"resultType": "input_required", "inputRequests": dict(requests), "requestState": state}


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """The client behind one request."""

    ctx: ServerRequestContext[Any, Any]
    _known: Document = field(default_factory=dict)

    @classmethod
    def of(cls, ctx: ServerRequestContext[Any, Any]) -> Asking:
        """What the client has answered so far comes with its request."""
        params = ctx.params or {}
        earlier = json.loads(params.get("requestState") or "{}")
        return cls(ctx, {**earlier, **(params.get("inputResponses") or {})})

    @property
    def is_continued(self) -> bool:
        """Whether the client brought back the state of an earlier round, or has no rounds."""
        return not self._in_rounds or bool((self.ctx.params or {}).get("requestState"))

    @property
    def capabilities(self) -> Document:
        """What the client says it can do."""
        declared = self.ctx.session.client_capabilities
        return declared.model_dump(by_alias=True, exclude_none=True) if declared else {}

    async def ask(self, requests: Mapping[str, Document]) -> dict[str, Document]:
        """Return an answer for each of `requests`.

        Raises InputRequired where the client must call again first.
        """
        if not self._in_rounds:
            return await self._push_all(requests)
        if any(key not in self._known for key in requests):
            raise InputRequired(requests, json.dumps(self._known))
        return {key: self._known[key] for key in requests}

    @property
    def _in_rounds(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    async def _push_all(self, requests: Mapping[str, Document]) -> dict[str, Document]:
        answers: dict[str, Document] = {}

        async def push(key: str, request: Document) -> None:
            answers[key] = await self._push(request)

        async with anyio.create_task_group() as tasks:
            for key, request in requests.items():
                tasks.start_soon(push, key, request)
        return answers

    async def _push(self, request: Document) -> Document:
        asked, answered = _FORMS[request["method"]]
        # Named as part of the call, so that it goes to the stream of the call and not to one that may not be open.
        metadata = ServerMessageMetadata(related_request_id=self.ctx.request_id)
        result: BaseModel = await self.ctx.session.send_request(asked.model_validate(request), answered, None, metadata)
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def elicit(message: str, properties: Document, required: list[str]) -> Document:
    """A question to the person at the client."""
    schema = {"type": "object", "properties": properties, "required": required}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sample(prompt: str, max_tokens: int) -> Document:
    """A question to the client's model."""
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": max_tokens}}


LIST_ROOTS: Document = {"method": "roots/list", "params": {}}
