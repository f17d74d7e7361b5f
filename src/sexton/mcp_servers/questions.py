"""What a server asks back while it works on a call: input from a person, or an answer of a model.

For holders that answer such questions themselves, in types that need no MCP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp.client.session import ClientRequestContext
from mcp_types import (
    INVALID_REQUEST,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    ErrorData,
    SamplingMessage,
    TextContent,
)

from sexton.errors import SextonError
from sexton.mcp_servers.callbacks import Callbacks


@dataclass(frozen=True, slots=True, kw_only=True)
class InputWanted:
    """A server asks a person (MCP's elicitation): to fill in a form by `schema`, or to visit `url`."""

    message: str
    schema: Mapping[str, Any] | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerWanted:
    """A server asks for an answer of a model (MCP's sampling).  `messages` are (role, text), oldest first."""

    messages: tuple[tuple[str, str], ...]
    system_prompt: str
    max_tokens: int


FillIn: TypeAlias = Callable[[InputWanted], Awaitable[Mapping[str, Any] | None]]
"""Returns what a person filled in; None is a no."""

AnswerFor: TypeAlias = Callable[[AnswerWanted], Awaitable[tuple[str, str] | None]]
"""Returns the answer and the name of the model; None is a person's no.  Raises SamplingDeclined."""


class SamplingDeclined(SextonError):
    """A server gets no answer of a model; it is told why, in these words."""


def callbacks_for(*, fill_in: FillIn, answer_for: AnswerFor) -> Callbacks:
    """The callbacks of a holder that answers both kinds of question."""

    async def elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        del context
        filled = await fill_in(_input_wanted(params))
        return ElicitResult(action="decline") if filled is None else ElicitResult(action="accept", content=dict(filled))

    async def sample(
        context: ClientRequestContext, params: CreateMessageRequestParams
    ) -> CreateMessageResult | ErrorData:
        del context
        try:
            answered = await answer_for(_answer_wanted(params))
        except SamplingDeclined as declined:
            return ErrorData(code=INVALID_REQUEST, message=declined.what)
        if answered is None:
            return ErrorData(code=INVALID_REQUEST, message="the user did not allow it")
        text, model = answered
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=text), model=model)

    return Callbacks(elicitation=elicit, sampling=sample)


def _input_wanted(params: ElicitRequestParams) -> InputWanted:
    if isinstance(params, ElicitRequestFormParams):
        schema = params.model_dump(mode="json", by_alias=True, exclude_none=True).get("requestedSchema")
        return InputWanted(message=params.message, schema=schema)
    return InputWanted(message=params.message, url=params.url)


def _answer_wanted(params: CreateMessageRequestParams) -> AnswerWanted:
    return AnswerWanted(
        messages=tuple((str(message.role), _text_of(message)) for message in params.messages),
        system_prompt=params.system_prompt or "",
        max_tokens=params.max_tokens,
    )


def _text_of(message: SamplingMessage) -> str:
    blocks = message.content if isinstance(message.content, list) else [message.content]
    return "\n".join(block.text if isinstance(block, TextContent) else f"[{block.type}]" for block in blocks)
