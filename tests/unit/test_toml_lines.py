"""Which line each key stands in, for texts that only `tomllib` validates."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from sexton.daemon.toml_lines import KeyPath, scan_key_lines

TEXT = '''\
# a comment = "with an equals sign"
listen = "127.0.0.1:1" # and [brackets]
"quoted \\u0041 key" = 'x'

[servers.time]
command = "uvx"
args = [
  "a", # first
  "]b[",
  """
multi # no comment
""",
  { x = 1, y.z = [1, 2] },
]
env = { A = "1", B = '=' }

[[hooks]]
on = 1
[hooks.inner]
deep = 2
[[hooks]]
on = 1979-05-27 07:32:00

[jobs]
a.b = true
'''


def test_every_kind_of_key_is_found_in_its_line() -> None:
    lines = scan_key_lines(TEXT)
    expected: dict[KeyPath, int] = {
        ("listen",): 2,
        ("quoted A key",): 3,
        ("servers", "time"): 5,
        ("servers", "time", "args"): 7,
        ("servers", "time", "args", 1): 9,
        ("servers", "time", "args", 3, "x"): 13,
        ("servers", "time", "args", 3, "y", "z", 1): 13,
        ("servers", "time", "env", "B"): 15,
        ("hooks", 0, "on"): 18,
        ("hooks", 0, "inner", "deep"): 20,
        ("hooks", 1, "on"): 22,
        ("jobs", "a"): 25,
        ("jobs", "a", "b"): 25,
    }
    assert {path: lines.of(path) for path in expected} == expected
    assert lines.stopped_at is None
    assert lines.twice == ()


def test_a_key_that_is_not_there_has_the_line_of_its_table() -> None:
    assert scan_key_lines(TEXT).of(("servers", "time", "cwd")) == 5
    assert scan_key_lines(TEXT).of(("nowhere",)) is None


def test_a_key_that_is_given_twice_is_told_with_its_second_line() -> None:
    assert scan_key_lines("[a]\nx = 1\ny = 2\nx = 3\n").twice == ((("a", "x"), 4),)
    assert scan_key_lines("[a]\n[b]\n[a]\n").twice == ((("a",), 3),)


def test_the_scan_stops_where_a_string_is_not_closed() -> None:
    assert scan_key_lines('a = 1\nb = "x\nc = 2\n').stopped_at == 2


scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=6).filter(lambda text: "\x7f" not in text))
trees = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda text: "\x7f" not in text),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.- ", min_size=1), inner, max_size=3),
    ),
    max_size=4,
)


@given(trees)
def test_every_key_of_a_valid_text_has_a_line(tree: dict[str, Any]) -> None:
    text = tomlkit.dumps(tree)
    lines = scan_key_lines(text)
    assert lines.stopped_at is None
    assert lines.twice == ()
    assert set(_paths((), tomllib.loads(text))) <= set(lines.lines) | _implied(lines.lines)


def _implied(lines: dict[KeyPath, int]) -> set[KeyPath]:
    """`[a.b]` names `a` too, which stands in no line of its own."""
    return {path[:length] for path in lines for length in range(1, len(path))}


def _paths(at: KeyPath, value: Any) -> list[KeyPath]:
    pairs: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    return [path for key, inner in pairs for path in [(*at, key), *_paths((*at, key), inner)]]


def test_a_table_that_only_its_inner_tables_name_stands_where_the_first_of_them_does() -> None:
    assert scan_key_lines("a = 1\n[server.time]\nb = 1\n[server.git]").of(("server",)) == 2


@given(st.text(alphabet="ab=[]{}\"'#,.\n\\ 1", max_size=40))
def test_any_text_ends_the_scan(text: str) -> None:
    scan_key_lines(text)
