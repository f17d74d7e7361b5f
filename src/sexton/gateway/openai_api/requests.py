"""What a client asks, in OpenAI's forms, as ours (pure).

What is not known here is no error: these forms grow, and clients send more
than they need.  It counts for a configured model, which gets what was sent,
and not for the agent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sexton.agent import (
    Attachment,
    CallRecord,
    CallState,
    ClientTool,
    Message,
    Role,
    Wanted,
    client_call,
)
from sexton.gateway.openai_api.envelope import wrong

_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.*)", re.DOTALL)


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Part(_Loose):
    """A piece of a message, of either API."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | dict[str, Any] | None = None


class Function(_Loose):
    name: str
    arguments: str = ""


class ToolCall(_Loose):
    id: str
    function: Function


class ChatMessage(_Loose):
    """One of `messages` of a chat completion."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str = ""


class Options(_Loose):
    include_usage: bool = False


class ChatRequest(_Loose):
    """`POST /v1/chat/completions`, as far as the agent heeds it."""

    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    stream: bool = False
    stream_options: Options | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    n: int | None = None

    def wanted(self) -> Wanted:
        """The question for the agent.  Raises Problem 400."""
        if self.n not in (None, 1):
            raise wrong("The agent gives one answer; n must be 1.", param="n")
        tools = () if self.tool_choice == "none" else _tools([_flat(tool) for tool in self.tools or ()])
        wanted = read_messages(self.messages)
        schema = _schema(self.response_format)
        return replace(wanted, tools=tools, output_schema=schema, takes_back=not self.stream)


class ResponsesRequest(_Loose):
    """`POST /v1/responses`."""

    model: str
    input: str | tuple[dict[str, Any], ...]
    instructions: str | None = None
    stream: bool = False
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: Any = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None

    def messages(self) -> tuple[ChatMessage, ...]:
        """The input as the messages of a chat completion.  Raises Problem 400."""
        for name in ("previous_response_id", "conversation", "background"):
            if getattr(self, name):
                raise wrong(f"Responses are not kept here, so there is no {name}; send the whole input.", param=name)
        first = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return (*first, ChatMessage(role="user", content=self.input))
        return (*first, *_joined(_message_of(item) for item in self.input if item.get("type") not in _IGNORED))

    def format(self) -> dict[str, Any] | None:
        """`text.format` as the `response_format` of a chat completion."""
        said = (self.text or {}).get("format") or {}
        if said.get("type") != "json_schema":
            return {"type": said["type"]} if said.get("type") == "json_object" else None
        return {"type": "json_schema", "json_schema": {key: said[key] for key in said if key != "type"}}

    def functions(self) -> tuple[dict[str, Any], ...]:
        """The client's own tools.  Raises Problem 400 for others, which OpenAI would run."""
        tools = () if self.tool_choice == "none" else self.tools or ()
        for tool in tools:
            if tool.get("type") != "function":
                raise wrong(f"There is no tool of the type {tool.get('type')!r} here.", param="tools")
        return tools

    def wanted(self) -> Wanted:
        """The question for the agent.  Raises Problem 400."""
        wanted, tools = read_messages(self.messages()), _tools(self.functions())
        return replace(wanted, tools=tools, output_schema=_schema(self.format()), takes_back=not self.stream)

    def as_chat(self, model: str) -> dict[str, Any]:
        """The same question as a chat completion, streamed, for a configured model.  Raises Problem 400."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [message.model_dump(exclude_none=True, exclude_defaults=True) for message in self.messages()],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_output_tokens,
            "response_format": self.format(),
        }
        for sent in body["messages"]:
            for made in sent.get("tool_calls", ()):
                made["type"] = "function"
        if tools := [{"type": "function", "function": _without(tool, "type")} for tool in self.functions()]:
            body |= {"tools": tools, "parallel_tool_calls": self.parallel_tool_calls}
            body["tool_choice"] = _nested_choice(self.tool_choice)
        return {key: value for key, value in body.items() if value is not None}


_Asked = TypeVar("_Asked", bound=BaseModel)
_IGNORED = {"reasoning", "mcp_call", "mcp_list_tools", "item_reference"}


def read(shape: type[_Asked], document: Any) -> _Asked:
    """Raises Problem 400, with the first member that is wrong."""
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise wrong(f"{place or 'the body'}: {fault['msg']}.", param=place or None) from error


def read_messages(said: Sequence[ChatMessage]) -> Wanted:
    """A conversation as the agent has it.  Raises Problem 400."""
    instructions: list[str] = []
    history: list[Message] = []
    for message in said:
        match message.role:
            case "system" | "developer":
                instructions.append(_text(message.content))
            case "user":
                content = message.content
                history.append(
                    Message(role=Role.USER, text=_text(content), images=_images(content), author=message.name)
                )
            case "assistant":
                calls = tuple(
                    client_call(call.id, call.function.name, call.function.arguments)
                    for call in message.tool_calls or ()
                )
                history.append(Message(role=Role.ASSISTANT, text=_text(message.content), calls=calls))
            case "tool":
                _settle(history, message)
    if any(message.open_calls for message in history):
        raise wrong("The result of a tool call is missing: each needs a message with the role tool.", param="messages")
    if not history or (history[-1].role is Role.ASSISTANT and not history[-1].calls):
        raise wrong("The last message must be the user's, or the result of a tool call.", param="messages")
    return Wanted(history=tuple(history), instructions="\n\n".join(filter(None, instructions)))


def _settle(history: list[Message], result: ChatMessage) -> None:
    """Put a tool's result to the call that it answers."""
    for place in range(len(history) - 1, -1, -1):
        calls = history[place].calls
        if any(call.id == result.tool_call_id for call in calls):
            history[place] = replace(history[place], calls=tuple(_settled(call, result) for call in calls))
            return
    raise wrong(f"No message has the tool call {result.tool_call_id!r}.", param="messages")


def _settled(call: CallRecord, result: ChatMessage) -> CallRecord:
    if call.id != result.tool_call_id:
        return call
    content = result.content
    return replace(call, state=CallState.DONE, result=_text(content), images=_images(content))


def _text(content: str | tuple[Part, ...] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text or part.refusal or "" for part in content if part.text or part.refusal)


def _images(content: str | tuple[Part, ...] | None) -> tuple[Attachment, ...]:
    if content is None or isinstance(content, str):
        return ()
    for part in content:
        if part.image_url is None and part.text is None and part.refusal is None:
            raise wrong(f"A part of the type {part.type!r} is not taken: text and image_url are.", param="messages")
    return tuple(_image(part.image_url) for part in content if part.image_url is not None)


def _image(said: str | dict[str, Any]) -> Attachment:
    url = said if isinstance(said, str) else str(said.get("url"))
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise wrong("An image must be a data: URL with base64; the gateway fetches nothing.", param="messages")
    try:
        return Attachment(found[1], base64.b64decode(found[2], validate=True))
    except ValueError as error:
        raise wrong(f"An image is not base64: {error}.", param="messages") from error


def _flat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of a chat completion in the form of the other API."""
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise wrong(f"There is no tool of the type {tool.get('type')!r} here.", param="tools")
    return {"type": "function", **function}


def _tools(flat: Iterable[Mapping[str, Any]]) -> tuple[ClientTool, ...]:
    return tuple(
        ClientTool(
            name=_name(tool),
            description=str(tool.get("description") or ""),
            schema=tool.get("parameters") or {"type": "object", "properties": {}},
        )
        for tool in flat
    )


def _name(tool: Mapping[str, Any]) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,64}", name):
        raise wrong("Each tool needs a name of letters, digits, _ and -.", param="tools")
    return name


def _schema(form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    match (form or {}).get("type", "text"):
        case "json_schema":
            schema = ((form or {}).get("json_schema") or {}).get("schema")
            if not isinstance(schema, dict) or schema.get("type") != "object":
                raise wrong("The schema must be that of an object.", param="response_format")
            return schema
        case "json_object":
            return {"type": "object"}
    return None


def _without(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def _nested_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _message_of(item: Mapping[str, Any]) -> ChatMessage:
    """One input item of the Responses API."""
    match item.get("type", "message"):
        case "function_call":
            function = Function(name=str(item.get("name")), arguments=str(item.get("arguments") or ""))
            return ChatMessage(role="assistant", tool_calls=(ToolCall(id=str(item.get("call_id")), function=function),))
        case "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else [_chat_part(part) for part in output or ()]
            return read(ChatMessage, {"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case "message":
            said = item.get("content")
            content = said if isinstance(said, str) else [_chat_part(part) for part in said or ()]
            return read(ChatMessage, {"role": item.get("role"), "content": content})
    raise wrong(f"An input item of the type {item.get('type')!r} is not taken.", param="input")


def _chat_part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise wrong("A part of a message must be an object.", param="input")
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _joined(messages: Iterable[ChatMessage]) -> Iterable[ChatMessage]:
    """Calls that stand apart as items belong to one message, with the words before them."""
    last: ChatMessage | None = None
    for message in messages:
        if last is not None and last.role == "assistant" and message.role == "assistant" and message.tool_calls:
            calls = (*(last.tool_calls or ()), *message.tool_calls)
            last = last.model_copy(update={"tool_calls": calls})
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last
