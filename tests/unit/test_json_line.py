"""Messages as lines of JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.mcp_servers.json_line import decode, decode_slowly, encode, id_in_broken_answer

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_both_decoders_read_what_is_written(message: dict[str, Any]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message
    assert decode_slowly(line) == message


def test_half_a_surrogate_pair_can_be_sent_too() -> None:
    assert encode({"a": "\ud800"}) == b'{"a": "\\ud800"}\n'


@pytest.mark.parametrize("decoder", [decode, decode_slowly])
@pytest.mark.parametrize("line", [b"plain words", b"{", b"\xff\xfe", b'{"a": "\xc3"}', b"{} trailing", b"[" * 100_000])
def test_what_is_not_json_is_a_value_error(decoder: Any, line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parsers word it each in their own way
        decoder(line)


@pytest.mark.parametrize("decoder", [decode, decode_slowly])
@pytest.mark.parametrize(
    ("line", "value"),
    [(b'{"a":1}\r', {"a": 1}), (b'\xef\xbb\xbf{"a":1}', {"a": 1}), (rb'{"a":"\ud800"}', {"a": "\ud800"})],
    ids=["carriage return", "byte order mark", "half a surrogate pair"],
)
def test_what_servers_in_the_field_write_is_read(decoder: Any, line: bytes, value: object) -> None:
    assert decoder(line) == value


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"te',
        b'{"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": \xff}}',
        b' {"id":7,"jsonrpc":"2.0","result":{"n":NaN,,}}',
        b'{"result":{"content":[{"id":9},,]},"jsonrpc":"2.0","id":7}\r',
        b'{"jsonrpc":"2.0","result":{"content":[}},"jsonrpc":"2.0","id":"7"}',
    ],
)
def test_a_broken_answer_shows_what_it_was_meant_for_at_its_head_or_tail(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what json and pydantic say
        decode(line)
    assert id_in_broken_answer(line) == 7


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":,"id":7}}',
        b'{"result":{"rows":[{"a":1,"id":7}',
        b'log: {"jsonrpc":"2.0","id":7,"result":{}}',
        b'{"jsonrpc":"2.0","id":777777777777777777777777777777777,"result":{}',
        b"",
    ],
)
def test_what_may_be_something_else_is_no_answer(line: bytes) -> None:
    assert id_in_broken_answer(line) is None
