"""Tools as actions: the question that a model's server gets, and what its answer means."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.agent.constrained import ActionReader, Call, Chunks, ask_for_action, whole_answer

READ: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "which file", "pattern": "(?i)^x"},
        "mode": {"enum": ["text", "bytes"]},
        "range": {"$ref": "#/$defs/Range"},
    },
    "required": ["path"],
    "$defs": {"Range": {"type": "object", "properties": {"first": {"type": "integer"}, "pattern": {"type": "string"}}}},
}


def tool(name: str, schema: Any = None, description: str = "Read a\n file.") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema or READ}}


def asked(**document: Any) -> dict[str, Any]:
    given_messages = {"messages": [{"role": "user", "content": "hello"}]}
    return ask_for_action(given_messages | document).document


def schema_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["response_format"]["json_schema"]["schema"]
    return found


def admits(schema: dict[str, Any], action: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(action))


def test_a_question_without_tools_is_passed_on_with_an_end_to_its_answer() -> None:
    question = ask_for_action({"messages": [{"role": "user", "content": "hi"}], "stream": True, "model": "x", "n": 3})
    assert not question.has_actions
    assert question.document == {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 2_048,
    }


def test_the_answer_has_to_be_one_action_by_a_schema_that_knows_every_tool() -> None:
    schema = schema_of(asked(tools=[tool("files__read"), tool("now", {"type": "object"})]))
    assert admits(schema, {"action": "reply", "text": "done"})
    assert admits(schema, {"action": "files__read", "arguments": {"path": "a", "range": {"first": 1}}})
    assert admits(schema, {"action": "now", "arguments": {}})
    assert not admits(schema, {"action": "files__read", "arguments": {}})
    assert not admits(schema, {"action": "files__read", "arguments": {"path": "a", "range": {"first": "1"}}})
    assert not admits(schema, {"action": "files__read", "arguments": {"path": "a", "mode": "other"}})
    assert not admits(schema, {"action": "files__remove", "arguments": {}})
    assert not admits(schema, {"action": "reply"})


def test_definitions_of_two_tools_do_not_mix() -> None:
    other = {
        "type": "object",
        "properties": {"r": {"$ref": "#/definitions/Range"}},
        "definitions": {"Range": {"type": "null"}},
    }
    schema = schema_of(asked(tools=[tool("one"), tool("two", other)]))
    assert admits(schema, {"action": "two", "arguments": {"r": None}})
    assert not admits(schema, {"action": "one", "arguments": {"path": "a", "range": None}})


def test_arguments_are_left_open_where_no_grammar_can_be_made() -> None:
    question = ask_for_action({"messages": [], "tools": [tool("one")]}, exact=False)
    schema = schema_of(question.document)
    assert admits(schema, {"action": "one", "arguments": {"anything": [1]}})
    assert not admits(schema, {"action": "two", "arguments": {}})


@pytest.mark.parametrize(
    "strange", [True, {"$ref": "https://example.org/schema"}, {"$ref": "#/properties/path"}, "text", []]
)
def test_a_part_of_a_schema_that_is_not_understood_admits_everything(strange: Any) -> None:
    schema = schema_of(asked(tools=[tool("one", {"type": "object", "properties": {"x": strange}})]))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert admits(schema, {"action": "one", "arguments": {"x": {"deep": [1, "2"]}}})


@pytest.mark.parametrize(
    ("choice", "replies", "ones", "twos"),
    [("auto", True, True, True), ("required", False, True, True), ({"function": {"name": "two"}}, False, False, True)],
)
def test_the_choice_of_the_caller_decides_which_actions_there_are(
    choice: Any, replies: bool, ones: bool, twos: bool
) -> None:
    schema = schema_of(asked(tools=[tool("one", {}), tool("two", {})], tool_choice=choice))
    assert admits(schema, {"action": "reply", "text": "x"}) == replies
    assert admits(schema, {"action": "one", "arguments": {"path": "a"}}) == ones
    assert admits(schema, {"action": "two", "arguments": {"path": "a"}}) == twos


def test_no_tool_may_be_called_if_the_caller_says_so() -> None:
    assert "response_format" not in asked(tools=[tool("one")], tool_choice="none")


def test_the_prompt_tells_every_tool_with_its_parameters() -> None:
    document = asked(tools=[tool("files__read")], messages=[{"role": "system", "content": "Be kind."}])
    [system] = document["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Be kind.")
    assert '{"action": "files__read", "arguments": {}}: Read a file.' in system["content"]
    assert "  path (string, required): which file" in system["content"]
    assert '  mode (one of ["text", "bytes"], optional)' in system["content"]


def test_what_was_called_before_is_told_as_actions_and_results_as_words() -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "read"}, {"type": "image_url", "image_url": {}}]},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "1", "function": {"name": "files__read", "arguments": '{"path": "a"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "the text"},
        {"role": "user", "content": "and?"},
    ]
    system, user, assistant, result = asked(tools=[tool("files__read")], messages=messages)["messages"]
    assert (system["role"], user["role"], assistant["role"], result["role"]) == ("system", "user", "assistant", "user")
    assert "reads only text" in user["content"]
    assert [json.loads(line) for line in assistant["content"].splitlines()] == [
        {"action": "reply", "text": "I look."},
        {"action": "files__read", "arguments": {"path": "a"}},
    ]
    assert result["content"] == "Result of files__read:\nthe text\n\nand?"


@given(st.text(), st.booleans(), st.lists(st.integers(1, 7), min_size=1), st.sampled_from(["", " ", "\n  "]))
def test_the_text_of_a_reply_comes_as_it_is_written_however_it_is_cut(
    text: str, ascii_only: bool, sizes: list[int], blank: str
) -> None:
    written = json.dumps(text, ensure_ascii=ascii_only)
    whole = f'{blank}{{{blank}"action":{blank}"reply"{blank},{blank}"text"{blank}:{blank}{written}{blank}}}'
    reader, said, at, turn = ActionReader(), "", 0, 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        said += reader.feed(whole[at : at + size])
        at, turn = at + size, turn + 1
    assert said == text
    assert reader.call() is None


@given(st.text(min_size=1), st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_call_is_whole_at_the_end(name: str, arguments: dict[str, Any]) -> None:
    if name == "reply":
        return
    reader = ActionReader()
    for character in json.dumps({"action": name, "arguments": arguments}):
        assert reader.feed(character) == ""
    found = reader.call()
    assert found is not None
    assert (found.name, json.loads(found.arguments)) == (name, arguments)


@given(st.text())
def test_nothing_that_a_server_could_write_is_a_defect(written: str) -> None:
    for start in ("", '{"action": "reply", "text": "', '{"action": "one", "arguments": '):
        reader = ActionReader()
        for character in start + written:
            reader.feed(character)
        reader.call()


def test_a_call_that_was_cut_off_keeps_what_there_is() -> None:
    reader = ActionReader()
    reader.feed('{"action": "one", "arguments": {"path": "a')
    assert reader.call() == Call(name="one", arguments='{"path": "a')


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    more = {"content": content} if content is not None else {}
    return {"id": "c", "choices": [{"index": 0, "delta": {**more, **delta}, "finish_reason": finish}]}


def test_chunks_of_a_call_become_a_tool_call_as_others_stream_it() -> None:
    chunks = Chunks()
    came = [chunk(role="assistant"), chunk('{"action": "one", '), chunk('"arguments": {"a": 1}}'), chunk(finish="stop")]
    usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1}}
    told = [new for old in [*came, usage] for new in chunks.translate(old)]
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    [call] = told[1]["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["type"]) == (0, "function")
    assert call["function"] == {"name": "one", "arguments": '{"a": 1}'}
    assert told[2]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    assert told[3] == usage
    assert len(told) == 4


def test_chunks_of_a_reply_become_its_text() -> None:
    chunks = Chunks()
    came = [chunk('{"action": "re'), chunk('ply", "text": "Good '), chunk('day."}'), chunk(finish="length")]
    told = [new for old in came for new in chunks.translate(old)]
    assert [one["choices"][0]["delta"].get("content") for one in told] == ["Good ", "day.", None]
    assert told[-1]["choices"][0]["finish_reason"] == "length"


def test_an_answer_in_one_piece_is_translated_too() -> None:
    def answered(content: str) -> dict[str, Any]:
        choices = [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]
        [choice] = whole_answer({"id": "c", "choices": choices})["choices"]
        return dict(choice)

    called = answered('{"action": "one", "arguments": {}}')
    assert (called["finish_reason"], called["message"]["content"]) == ("tool_calls", None)
    assert called["message"]["tool_calls"][0]["function"] == {"name": "one", "arguments": "{}"}
    assert answered('{"action": "reply", "text": "hi"}') == {
        "index": 0,
        "message": {"role": "assistant", "content": "hi"},
        "finish_reason": "stop",
    }
