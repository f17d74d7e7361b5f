"""The model loop, by pydantic-ai: the only module that imports it.

It is loaded on first use (`Agent.preload`), for it takes seconds.  Everything
that goes in and comes out is of our own types; messages are translated here,
so that what stands in the database does not depend on a library.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast, final

import httpx2
import jsonschema  # type: ignore[import-untyped]
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelRetry, RunContext, StructuredDict, ToolOutput
from pydantic_ai.exceptions import AgentRunError, FallbackExceptionGroup, ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    RetryPromptPart,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.run import AgentRun
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema
from pydantic_graph import End

from sexton.agent.budget import Meter, Usage, check_next_step, tokens_left
from sexton.agent.events import ModelChanged, Steered, TextDelta, TextWithdrawn
from sexton.agent.local_transport import HOLDER, LocalTransport
from sexton.agent.messages import Attachment, CallRecord, Message, Role
from sexton.agent.model_config import ModelConfig, ModelFailed
from sexton.agent.toolbox import CALL, Toolbox
from sexton.agent.turn import TurnPlan, TurnRecord, TurnResult
from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.local_models import LocalModels
from sexton.mcp_servers import qualified_name

ANSWER: Final = "answer"
"""The name of the tool by which a model hands over an object of a given shape."""

TOOL_RETRIES: Final = 5
"""How often in a row a model may name a tool that does not exist, or write arguments that are no JSON."""

_ANY_OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))


class OutputInvalid(SextonError):
    """A model did not answer with an object of the shape that was asked for, also not when told what is wrong."""


@final
class Loop:
    """Answers turns.  Connections to the models' servers are kept until `aclose`."""

    def __init__(self, clock: Clock, local_models: LocalModels | None = None) -> None:
        self._clock = clock
        self._local_models = local_models
        self._models: dict[ModelConfig, tuple[Model, Any]] = {}

    async def aclose(self) -> None:
        for _, client in self._models.values():
            await client.close()
        self._models.clear()

    async def answer(
        self,
        plan: TurnPlan,
        chain: tuple[ModelConfig, ...],
        box: Toolbox,
        record: TurnRecord,
        *,
        instructions: str,
        meter: Meter,
    ) -> TurnResult:
        """Ask models and make calls until there is a reply.  Raises as `sexton.agent.turn.Agent.run` says."""
        run = _Run(plan, chain, box, record, meter)
        HOLDER.set(plan.tools.holder)
        models = [_Noted(self._model(config), config, run.note_model) for config in chain]
        with _plain_errors(chain):
            return await run.answer(_Told(models, run), instructions)
        raise AssertionError  # _plain_errors lets nothing but errors out

    async def complete(
        self,
        chain: tuple[ModelConfig, ...],
        *,
        instructions: str,
        prompt: str,
        max_tokens: int | None = None,
        holder: str = "agent",
    ) -> tuple[str, Usage]:
        """One answer without tools, of `max_tokens` at most.  Raises ModelFailed."""
        HOLDER.set(holder)
        answered: list[ModelConfig] = []
        models = [_Noted(self._model(config), config, answered.append) for config in chain]
        settings = ModelSettings() if max_tokens is None else ModelSettings(max_tokens=max_tokens)
        agent = Agent(_chained(models), instructions=instructions, model_settings=settings)
        with _plain_errors(chain):
            result = await agent.run(prompt)
            return result.output, _used(answered[-1], result.response)
        raise AssertionError

    def _model(self, config: ModelConfig) -> Model:
        if config not in self._models:
            self._models[config] = _connect(config, self._local_models)
        return self._models[config][0]


def _connect(config: ModelConfig, local_models: LocalModels | None) -> tuple[Model, Any]:
    """The model and the client that has to be closed."""
    settings = ModelSettings()
    if config.temperature is not None:
        settings["temperature"] = config.temperature
    if config.provider == "anthropic":
        anthropic = AsyncAnthropic(
            api_key=config.api_key or "none",
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=config.retries,
        )
        provider = AnthropicProvider(anthropic_client=anthropic)
        return AnthropicModel(config.model, provider=provider, settings=settings), anthropic
    client = AsyncOpenAI(
        api_key=config.api_key or "none",
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=config.retries,
        http_client=_http_to_local(config, local_models),
    )
    return OpenAIChatModel(config.model, provider=OpenAIProvider(openai_client=client), settings=settings), client


def _http_to_local(config: ModelConfig, local_models: LocalModels | None) -> httpx2.AsyncClient | None:
    """None where the library's own client is right: for every model that is not on this machine."""
    if config.local is None:
        return None
    if local_models is None:
        raise ModelFailed(f"Model {config.name!r} is on this machine, and nothing here can run it.")
    return httpx2.AsyncClient(transport=LocalTransport(local_models, config), timeout=config.timeout)


def _chained(models: Sequence[Model], first: int = 0) -> Model:
    """The models from `first` on, as one."""
    return models[0] if len(models) == 1 else FallbackModel(*models[first:], fallback_on=(ModelAPIError,))


class _Noted(WrapperModel):
    """Says which model of a chain was asked; the last one said is the one that answered."""

    def __init__(self, wrapped: Model, config: ModelConfig, note: Any) -> None:
        super().__init__(wrapped)
        self._config = config
        self._note = note

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        self._note(self._config)
        return await super().request(messages, model_settings, parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        self._note(self._config)
        async with super().request_stream(messages, model_settings, parameters, run_context) as stream:
            yield stream


class _Told(WrapperModel):
    """The chain of a turn.  An answer is a stream that is told as it comes, and is asked for again if it breaks off."""

    def __init__(self, models: Sequence[Model], run: _Run) -> None:
        super().__init__(_chained(models))
        self._models = models
        self._run = run

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        """Nothing of a step is done before its answer is whole, so that asking again repeats no tool call."""
        attempts = _Attempts(self._run.chain)
        while True:
            self._run.begin_answer()
            answer: StreamedResponse | None = None
            try:
                model = _chained(self._models, attempts.first)
                async with model.request_stream(messages, model_settings, parameters) as answer:
                    async for event in answer:
                        self._run.hear(event)
                return answer.get()
            except FallbackExceptionGroup as errors:
                raise _none_could(self._run.chain[attempts.first :], errors) from errors
            except ModelAPIError as error:
                broken = None if answer is None else answer.get()
                self._run.take_back(broken, attempts, error)


@final
class _Attempts:
    """Where in a chain the next attempt at one answer begins."""

    def __init__(self, chain: tuple[ModelConfig, ...]) -> None:
        self._chain = chain
        self._breaks: Counter[ModelConfig] = Counter()
        self.first = 0

    def next_after(self, broken: ModelConfig) -> bool:
        """The same model again, as often as its `retries` say, then the next one; False if there is none."""
        self._breaks[broken] += 1
        self.first = self._chain.index(broken) + (self._breaks[broken] > broken.retries)
        return self.first < len(self._chain)


@final
class _Run:
    """One turn under way."""

    def __init__(
        self, plan: TurnPlan, chain: tuple[ModelConfig, ...], box: Toolbox, record: TurnRecord, meter: Meter
    ) -> None:
        self._plan = plan
        self.chain = chain
        self._box = box
        self._record = record
        self._meter = meter
        self._model = chain[0]
        self._said = 0

    def note_model(self, config: ModelConfig) -> None:
        if config is not self._model and self.chain.index(config) > self.chain.index(self._model):
            why = f"{self._model.name!r} could not answer"
            self._record.tell(ModelChanged(turn=self._turn, model=config.name, why=why))
        self._model = config

    async def answer(self, model: Model, instructions: str) -> TurnResult:
        agent = self._agent(model, instructions)
        history = _translate(self._plan.history)
        if last := _unfinished(self._plan.history):
            self._box.expect(last)
        async with agent.iter(None, message_history=history) as run:
            node: Any = run.next_node
            while not isinstance(node, End):
                if Agent.is_call_tools_node(node) and node.model_response is not _last_response(history):
                    await self._keep_reply(node.model_response, run)
                answered = node
                node = await run.next(node)
                if Agent.is_call_tools_node(answered):
                    await self._after_calls(node, run)
        return self._result(run)

    def _agent(self, model: Model, instructions: str) -> Agent[None, Any]:
        toolset = _Toolset(self._box)
        retries: Any = {"tools": TOOL_RETRIES, "output": 1}
        if self._plan.output_schema is None:
            return Agent(
                model,
                instructions=instructions,
                toolsets=[toolset],
                retries=retries,
                model_settings=self._settings,
            )
        schema = dict(self._plan.output_schema)
        shape = ToolOutput(StructuredDict(schema, name="Answer"), name=ANSWER, description="Give the answer.")
        agent = Agent(
            model,
            output_type=shape,
            instructions=instructions,
            toolsets=[toolset],
            retries=retries,
            model_settings=self._settings,
        )
        agent.output_validator(lambda output: _checked(output, schema))
        return cast("Agent[None, Any]", agent)

    def begin_answer(self) -> None:
        """Before each request to a model.  Raises BudgetSpent."""
        check_next_step(self._meter.budget, self._meter.usage)
        self._said = 0

    def hear(self, event: object) -> None:
        """A model's words are told as they come."""
        if text := _text_of(event):
            self._said += len(text)
            self._record.tell(TextDelta(turn=self._turn, text=text))

    def take_back(self, broken: ModelResponse | None, attempts: _Attempts, error: ModelAPIError) -> None:
        """Count an answer that broke off, and let it be asked for again.  Raises ModelFailed if it cannot be.

        `broken` None: it had not begun, and every model of the chain was tried.
        """
        why = _why(self._model, error, has_begun=broken is not None)
        failed = ModelFailed(why, hint=_hint(self._model, error))
        if broken is None:
            raise failed from error
        self._meter.add(_used(self._model, broken))
        if (self._said and not self._plan.takes_back) or not attempts.next_after(self._model):
            raise failed from error
        self._record.tell(TextWithdrawn(turn=self._turn, characters=self._said, why=why))

    def _settings(self, _ctx: RunContext[None]) -> ModelSettings:
        """No answer may be longer than the model's configuration and the budget allow."""
        limits = (self._model.max_output_tokens, tokens_left(self._meter.budget, self._meter.usage))
        most = [limit for limit in limits if limit is not None]
        return ModelSettings(max_tokens=min(most)) if most else ModelSettings()

    async def _keep_reply(self, response: ModelResponse, run: AgentRun[None, Any]) -> None:
        asked = [part for part in response.parts if isinstance(part, ToolCallPart) and part.tool_name != ANSWER]
        planned = [self._box.planned(part.tool_call_id, part.tool_name, _arguments(part)) for part in asked]
        calls = tuple({call.id: call for call in planned}.values())
        self._meter.add(_used(self._model, response).with_calls(len(calls)))
        message = Message(role=Role.ASSISTANT, text=_said(response), images=_images(response), calls=calls)
        self._box.expect(await self._record.add_reply(message))
        if not calls:
            await self._steer(run)

    async def _after_calls(self, node: Any, run: AgentRun[None, Any]) -> None:
        if not Agent.is_model_request_node(node):
            return
        for part in node.request.parts:
            if isinstance(part, RetryPromptPart | ToolReturnPart) and part.tool_call_id:
                told = part.model_response() if isinstance(part, RetryPromptPart) else part.model_response_str()
                await self._box.settle(part.tool_call_id, told)
        await self._steer(run)

    async def _steer(self, run: AgentRun[None, Any]) -> None:
        for said in await self._record.take_steering():
            run.enqueue(*_content(said.text, said.images, said.author))
            self._record.tell(Steered(turn=self._turn, text=said.text, author=said.author))

    def _result(self, run: AgentRun[None, Any]) -> TurnResult:
        assert run.result is not None
        output: JSON = None
        text = run.result.output
        if self._plan.output_schema is not None:
            output = dict(text)
            text = json.dumps(output, ensure_ascii=False, indent=2)
        return TurnResult(text=text, usage=self._meter.add(Usage()), output=output)

    @property
    def _turn(self) -> str:
        return self._plan.tools.turn


@final
class _Toolset(AbstractToolset[None]):
    """The toolbox, as the library wants it."""

    def __init__(self, box: Toolbox) -> None:
        self._box = box

    @property
    def id(self) -> str:
        return "sexton"

    async def get_tools(self, _ctx: RunContext[None]) -> dict[str, ToolsetTool[None]]:
        return {
            tool.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=tool.name,
                    description=tool.description,
                    parameters_json_schema=dict(tool.schema),
                    strict=False,
                ),
                max_retries=TOOL_RETRIES,
                args_validator=_ANY_OBJECT,
            )
            for tool in self._box.offered()
        }

    async def call_tool(
        self, _name: str, _tool_args: dict[str, Any], ctx: RunContext[None], _tool: ToolsetTool[None]
    ) -> Any:
        assert ctx.tool_call_id is not None
        return _returned(await self._box.call(ctx.tool_call_id))


def _returned(record: CallRecord) -> Any:
    if not record.images:
        return record.result
    return ToolReturn(return_value=record.result or "an image", content=[_binary(image) for image in record.images])


# Between our messages and the library's


def _translate(history: Sequence[Message]) -> list[ModelMessage]:
    translated: list[ModelMessage] = []
    for message in history:
        if message.role is Role.USER:
            content = list(_content(message.text, message.images, message.author))
            alone = content[0] if len(content) == 1 and isinstance(content[0], str) else content
            translated.append(ModelRequest(parts=[UserPromptPart(content=alone)]))
            continue
        response = _response(message)
        if response.parts:
            translated.append(response)
        if message.calls and not message.open_calls:
            translated.append(ModelRequest(parts=list(_returns(message))))
    return translated


def _response(message: Message) -> ModelResponse:
    text = [TextPart(content=message.text)] if message.text else []
    calls = [ToolCallPart(tool_name=c.name, args=_written(c), tool_call_id=c.id) for c in message.calls]
    return ModelResponse(parts=[*text, *calls])


def _written(call: CallRecord) -> dict[str, JSON]:
    """The arguments as the model wrote them."""
    if call.name != CALL:
        return dict(call.arguments)
    return {"tool": qualified_name(call.server, call.tool), "arguments": dict(call.arguments)}


def _returns(message: Message) -> Sequence[Any]:
    images = [_binary(image) for call in message.calls for image in call.images]
    returns: list[Any] = [
        ToolReturnPart(tool_name=call.name, content=call.result, tool_call_id=call.id) for call in message.calls
    ]
    return [*returns, UserPromptPart(content=images)] if images else returns


def _unfinished(history: Sequence[Message]) -> Message | None:
    return history[-1] if history and history[-1].open_calls else None


def _last_response(history: Sequence[ModelMessage]) -> ModelMessage | None:
    return history[-1] if history and isinstance(history[-1], ModelResponse) else None


def _content(text: str, images: Sequence[Attachment], author: str) -> Sequence[UserContent]:
    said = f"{author}: {text}" if author else text
    return [*([said] if said else []), *(_binary(image) for image in images)]


def _binary(attachment: Attachment) -> BinaryContent:
    return BinaryContent(data=attachment.data, media_type=attachment.media_type)


def _said(response: ModelResponse) -> str:
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))


def _images(response: ModelResponse) -> tuple[Attachment, ...]:
    files = [part.content for part in response.parts if isinstance(part, FilePart)]
    return tuple(Attachment(file.media_type, file.data) for file in files)


def _arguments(part: ToolCallPart) -> dict[str, JSON]:
    try:
        return part.args_as_dict()
    except (ValueError, AssertionError):  # broken JSON: the library tells the model
        return {"": str(part.args)}


def _text_of(event: object) -> str:
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
    return ""


def _used(model: ModelConfig, response: ModelResponse) -> Usage:
    """What one answer took."""
    told = response.usage
    if model.price is not None:
        cost: float | None = model.price.of(
            input_tokens=told.input_tokens, cached_tokens=told.cache_read_tokens, output_tokens=told.output_tokens
        )
    else:
        known = getattr(told, "cost", None)
        cost = None if known is None else float(known)
    return Usage().with_step(model.name, input_tokens=told.input_tokens, output_tokens=told.output_tokens, cost=cost)


def _checked(output: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The output, if it fits; else the model is told what is wrong, once."""
    try:
        jsonschema.validate(output, schema)
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path)) or "the object"
        raise ModelRetry(f"{where}: {error.message}") from error
    return output


# Errors


class _plain_errors:  # noqa: N801 - used as a function
    """The library's errors in words for a person."""

    def __init__(self, chain: tuple[ModelConfig, ...]) -> None:
        self._chain = chain

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        match error:
            case FallbackExceptionGroup():
                raise _none_could(self._chain, error) from error
            case ModelAPIError():
                raise ModelFailed(_why(self._chain[0], error), hint=_hint(self._chain[0], error)) from error
            case UnexpectedModelBehavior() if "output" in str(error).lower():
                raise OutputInvalid(
                    f"The model did not answer in the shape that was asked for: {_last_words(error)}",
                    hint="make the output_schema simpler, or use a stronger model",
                ) from error
            case AgentRunError():
                raise ModelFailed(f"The model's answer could not be used: {_last_words(error)}") from error


def _none_could(chain: Sequence[ModelConfig], errors: FallbackExceptionGroup) -> ModelFailed:
    told = [_why(config, each) for config, each in zip(chain, errors.exceptions, strict=False)]
    return ModelFailed("No model of the chain could answer:\n  " + "\n  ".join(told))


def _why(config: ModelConfig, error: BaseException, *, has_begun: bool = False) -> str:
    status = getattr(error, "status_code", None)
    said = getattr(error, "body", None) or getattr(error, "message", None) or str(error)
    if config.local is not None and isinstance(said, dict) and "message" in said:
        return str(said["message"])
    if config.local is not None and isinstance(cause := _first_cause(error), httpx2.TransportError):
        return str(cause)
    unanswered = "broke off in the middle of its answer" if has_begun else "could not be reached or broke off"
    how = f"answered with status {status}" if status and not has_begun else unanswered
    return f"Model {config.name!r} ({config.place}) {how}: {str(said)[:400]}"


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _hint(config: ModelConfig, error: BaseException) -> str | None:
    status = getattr(error, "status_code", None)
    if config.local is not None:
        body = getattr(error, "body", None)
        return body.get("hint") if isinstance(body, dict) else None
    if status in (401, 403):
        return f"check api_key under [models.{config.name}]"
    if status == 404:
        return f"check model and base_url under [models.{config.name}]"
    if status == 429:
        return 'wait, or name a fallback: [agent] model = ["main", "other"]'
    return f"check that {config.base_url} is up" if status is None else None


def _last_words(error: BaseException) -> str:
    cause = error.__cause__
    return f"{error}" + (f" ({cause})" if cause and str(cause) else "")
