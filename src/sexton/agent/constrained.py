"""Tools for models that cannot use their own template for tools (pure).

The question, in OpenAI's way, becomes one without tools whose answer has to be
one JSON object: an action.  There is one action for each tool, with the tool's
own schema for the arguments, and one to reply.  The server lets the model write
nothing else, so a call always names a tool that there is; what comes is turned
back into the chunks that a caller of OpenAI's API expects.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

Document: TypeAlias = dict[str, Any]

REPLY: Final = "reply"
"""The action that is no call."""

MOST_TOKENS: Final = 2_048
"""How long an answer may get if nobody says: a small model that repeats itself does not stop by itself."""

TEMPERATURE: Final = 0.2
"""For choosing an action, if nobody says otherwise."""

_PASSED_ON = ("stop", "seed", "top_p", "temperature", "stream", "stream_options", "response_format")
_KEPT = ("required", "enum", "const", "minItems", "maxItems", "minimum", "maximum")
_MOST_ITEMS = 64
_REF = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")
_REPLY_BEGINS = re.compile(r'\s*\{\s*"action"\s*:\s*"reply"\s*,\s*"text"\s*:\s*"')
_NAMES_ACTION = re.compile(r'\s*\{\s*"action"\s*:\s*"((?:[^"\\]|\\.)*)"\s*(?:,\s*"arguments"\s*:)?')


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the model's server is asked.  `has_actions`: its answer is one action, else plain text."""

    document: Document
    has_actions: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    name: str
    description: str
    schema: Mapping[str, Any]


def ask_for_action(document: Document, *, exact: bool = True, most_tokens: int | None = None) -> Question:
    """The question for the server.  `exact` False leaves arguments open, for schemas that no grammar can be made of."""
    tools, may_reply = _offered(document)
    asked = {key: document[key] for key in _PASSED_ON if document.get(key) is not None}
    asked["messages"] = _plain_messages(document.get("messages") or (), as_actions=bool(tools))
    limits = (document.get("max_tokens"), document.get("max_completion_tokens"), most_tokens)
    asked["max_tokens"] = next((limit for limit in limits if limit), MOST_TOKENS)
    if not tools:
        return Question(document=asked, has_actions=False)
    asked.setdefault("temperature", TEMPERATURE)
    asked["messages"] = _with_system(asked["messages"], _instructions(tools, may_reply=may_reply))
    schema = _action_schema(tools, may_reply=may_reply, exact=exact)
    asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "action", "schema": schema}}
    return Question(document=asked, has_actions=True)


# The question


def _offered(document: Document) -> tuple[list[_Tool], bool]:
    """The tools that may be called now, and whether the model may reply instead."""
    choice = document.get("tool_choice") or "auto"
    functions = [tool["function"] for tool in document.get("tools") or () if tool.get("type") == "function"]
    tools = [
        _Tool(
            name=function["name"],
            description=function.get("description") or "",
            schema=function.get("parameters") or {"type": "object", "properties": {}},
        )
        for function in functions
    ]
    if choice == "none":
        return [], True
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return [tool for tool in tools if tool.name == name], False
    return tools, choice != "required"


def _instructions(tools: Sequence[_Tool], *, may_reply: bool) -> str:
    lines = ["Answer with one JSON object and nothing else. It is one of these actions:"]
    if may_reply:
        lines.append(
            f'{{"action": "{REPLY}", "text": "…"}}: say the text to the user; '
            "for everything that needs no tool, and when you have the result of a tool"
        )
    for tool in tools:
        shape = json.dumps({"action": tool.name, "arguments": {}}, ensure_ascii=False)
        lines.append(f"{shape}: {' '.join(tool.description.split())}")
        lines += _told_parameters(tool.schema)
    return "\n".join(lines)


def _told_parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required") or ()
    for name, about in _mapping(schema.get("properties")).items():
        must = "required" if name in required else "optional"
        known = _mapping(about)
        said = " ".join(str(known.get("description") or known.get("title") or "").split())
        yield f"  {name} ({_kind(known)}, {must}){': ' + said if said else ''}"


def _kind(schema: Mapping[str, Any]) -> str:
    if isinstance(schema.get("enum"), list):
        return "one of " + json.dumps(schema["enum"], ensure_ascii=False)
    kind = schema.get("type") or "any"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _action_schema(tools: Sequence[_Tool], *, may_reply: bool, exact: bool) -> Document:
    definitions: Document = {}
    actions = []
    for number, tool in enumerate(tools):
        arguments = _slim_tool(tool.schema, f"t{number}_", definitions) if exact else {"type": "object"}
        actions.append(_action(tool.name, "arguments", arguments))
    if may_reply:
        actions.append(_action(REPLY, "text", {"type": "string", "minLength": 1}))
    schema: Document = {"anyOf": actions} if len(actions) > 1 else actions[0]
    return schema | ({"$defs": definitions} if definitions else {})


def _action(name: str, key: str, schema: Document) -> Document:
    return {
        "type": "object",
        "properties": {"action": {"const": name}, key: schema},
        "required": ["action", key],
        "additionalProperties": False,
    }


def _slim_tool(schema: Mapping[str, Any], prefix: str, definitions: Document) -> Document:
    """A tool's schema as a part of a larger one: its definitions move to the top, under names of their own."""
    for key in ("$defs", "definitions"):
        for name, inner in _mapping(schema.get(key)).items():
            definitions[prefix + name] = _slim(inner, prefix)
    slim = _slim(schema, prefix)
    return slim if slim.get("type") == "object" or "$ref" in slim or "anyOf" in slim else slim | {"type": "object"}


def _slim(schema: Any, prefix: str) -> Document:
    """What a grammar can be made of; the tool's server checks the rest.  Whatever is not understood admits all."""
    if not isinstance(schema, dict):
        return {}
    if isinstance(ref := schema.get("$ref"), str):
        found = _REF.fullmatch(ref)
        return {"$ref": f"#/$defs/{prefix}{found[1]}"} if found else {}
    slim = {key: schema[key] for key in _KEPT if key in schema}
    if slim.get("maxItems", 0) > _MOST_ITEMS:
        del slim["maxItems"]
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            slim["anyOf"] = [_slim(inner, prefix) for inner in schema[key]]
    if "anyOf" not in slim and "type" in schema:
        slim["type"] = schema["type"]
    if isinstance(schema.get("properties"), dict):
        slim["properties"] = {
            name: _slim(inner, prefix) for name, inner in schema["properties"].items() if inner is not False
        }
        slim["additionalProperties"] = _slim_others(schema.get("additionalProperties", False), prefix)
    elif isinstance(others := schema.get("additionalProperties"), dict):
        slim["additionalProperties"] = _slim(others, prefix)
    if "items" in schema:
        slim["items"] = _slim(schema["items"], prefix)
    return slim


def _slim_others(others: Any, prefix: str) -> Any:
    """Where properties are named, a small model is kept to them, unless the tool says what others look like."""
    return _slim(others, prefix) if isinstance(others, dict) and others else False


def _plain_messages(messages: Sequence[Any], *, as_actions: bool) -> list[Document]:
    """System, user and assistant in turn, as every chat template knows them; calls as actions, results as words."""
    plain: list[Document] = []
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[str(call.get("id"))] = call["function"]["name"]
        role, text = _plain(message, names, as_actions=as_actions)
        if plain and plain[-1]["role"] == role:
            plain[-1]["content"] += f"\n\n{text}"
        elif text:
            plain.append({"role": role, "content": text})
    return plain


def _plain(message: Document, names: Mapping[str, str], *, as_actions: bool) -> tuple[str, str]:
    role, text = message.get("role"), _text(message.get("content"))
    if role in ("system", "developer"):
        return "system", text
    if role == "tool":
        return "user", f"Result of {names.get(str(message.get('tool_call_id')), 'the tool')}:\n{text}"
    if role != "assistant":
        return "user", text
    said = [_written_action(REPLY, "text", text) if as_actions else text] if text else []
    said += [_written_call(call) for call in message.get("tool_calls") or ()]
    return "assistant", "\n".join(said)


def _written_action(name: str, key: str, value: Any) -> str:
    return json.dumps({"action": name, key: value}, ensure_ascii=False)


def _written_call(call: Document) -> str:
    function = call["function"]
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = function["arguments"]
    return _written_action(function["name"], "arguments", arguments)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(filter(None, map(_part_text, content)))
    return content if isinstance(content, str) else ""


def _part_text(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return "[something that is no text; this model reads only text]"


def _with_system(messages: list[Document], instructions: str) -> list[Document]:
    if messages and messages[0]["role"] == "system":
        first = {"role": "system", "content": f"{messages[0]['content']}\n\n{instructions}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


# The answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call of the model; `arguments` is JSON as it wrote it, broken where it was cut off."""

    name: str
    arguments: str


@final
class ActionReader:
    """Reads an action as it comes: the text of a reply at once, a call when it is whole."""

    def __init__(self) -> None:
        self._read = ""
        self._text_at: int | None = None
        self._is_text_over = False

    def feed(self, piece: str) -> str:
        """What this piece adds to the text of a reply."""
        self._read += piece
        if self._text_at is None:
            if (begins := _REPLY_BEGINS.match(self._read)) is None:
                return ""
            self._text_at = begins.end()
        return self._more_text()

    def call(self) -> Call | None:
        """The call, at the end of the answer; None if it was a reply."""
        if self._text_at is not None:
            return None
        try:
            action = json.loads(self._read)
            return Call(name=action["action"], arguments=json.dumps(action["arguments"], ensure_ascii=False))
        except (ValueError, KeyError, TypeError):
            named = _NAMES_ACTION.match(self._read)
        if named is None or named[1] == REPLY:
            return None
        return Call(name=_decoded(named[1]), arguments=self._read[named.end() :].strip())

    def _more_text(self) -> str:
        """Decode as far as no escape is cut off in the middle."""
        assert self._text_at is not None
        if self._is_text_over:
            return ""
        at = whole = self._text_at
        while at < len(self._read):
            size = _size_of_character(self._read, at)
            if size is None:
                break
            if size == 0:
                self._is_text_over = True
                break
            at = whole = at + size
        raw, self._text_at = self._read[self._text_at : whole], whole
        return _decoded(raw)


def _decoded(raw: str) -> str:
    """What stands between the quotes of a JSON string; as it is, where it is none."""
    try:
        return str(json.loads(f'"{raw}"', strict=False))
    except ValueError:
        return raw


def _size_of_character(read: str, at: int) -> int | None:
    """Of the character at `at` in a JSON string: 0 at its closing quote, None while it is not whole."""
    if read[at] == '"':
        return 0
    if read[at] != "\\":
        return 1
    if len(read) < at + 2:
        return None
    if read[at + 1] != "u":
        return 2
    if len(read) < at + 6:
        return None
    is_first_half = read[at + 2 : at + 4].lower() in ("d8", "d9", "da", "db")
    if not is_first_half:
        return 6
    if len(read) >= at + 8 and read[at + 6 : at + 8] != "\\u":
        return 6
    return 12 if len(read) >= at + 12 else None


@final
class Chunks:
    """The chunks of an answer that is an action, as chunks of an answer in OpenAI's way."""

    def __init__(self) -> None:
        self._reader = ActionReader()
        self._has_said = False

    def translate(self, chunk: Document) -> Iterator[Document]:
        """What the caller gets for one chunk of the server: any number of chunks."""
        choices = chunk.get("choices") or ()
        if not choices:
            yield chunk
            return
        delta, finish = choices[0].get("delta") or {}, choices[0].get("finish_reason")
        if delta.get("role"):
            yield _chunk(chunk, {"role": delta["role"], "content": ""})
        if text := self._reader.feed(delta.get("content") or ""):
            self._has_said = True
            yield _chunk(chunk, {"content": text})
        if finish is not None:
            yield from self._finish(chunk, finish)

    def _finish(self, chunk: Document, finish: str) -> Iterator[Document]:
        if (call := self._reader.call()) is not None:
            yield _chunk(chunk, {"tool_calls": [{"index": 0, **_tool_call(call)}]})
            finish = "tool_calls" if finish == "stop" else finish
        yield _chunk(chunk, {}, finish)


def _chunk(like: Document, delta: Document, finish: str | None = None) -> Document:
    return like | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


def whole_answer(document: Document) -> Document:
    """The answer of a server that was not asked to stream, in OpenAI's way."""
    choice = document["choices"][0]
    reader = ActionReader()
    text = reader.feed(choice["message"].get("content") or "")
    call, finish = reader.call(), choice.get("finish_reason")
    message: Document = {"role": "assistant", "content": text or None}
    if call is not None:
        message["tool_calls"] = [_tool_call(call)]
        finish = "tool_calls" if finish == "stop" else finish
    return document | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def _tool_call(call: Call) -> Document:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
