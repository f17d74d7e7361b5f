"""The catalogue: names that every provider accepts, clashes that name both, and a file that may be broken."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import Implementation, PromptsCapability, ServerCapabilities

from fake_servers import server, tool
from sexton.mcp_servers import Introduction, StdioServer, ToolNameClash, name_tools, qualified_name
from sexton.mcp_servers.catalogue import Catalogue

RAW_1, RAW_2 = (
    Introduction(protocol_version="2025-06-18", server_info=Implementation(name="raw", version=version))
    for version in ("1", "2")
)
FILES = server("files")


def test_a_plain_name_is_server_and_tool() -> None:
    assert qualified_name("files", "read_file") == "files__read_file"


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_is_accepted_everywhere(name: str, tool_name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", qualified_name(name, tool_name))


@pytest.mark.parametrize(
    ("one", "other"), [("a.b", "a_b"), ("a/b", "a.b"), ("x" * 80, "x" * 81), ("x" * 70 + "a", "x" * 70 + "b")]
)
def test_names_that_had_to_be_changed_stay_apart_and_stay_the_same(one: str, other: str) -> None:
    assert qualified_name("files", one) != qualified_name("files", other)
    assert qualified_name("files", one) == qualified_name("files", one)


def test_a_clash_names_both_tools_and_a_way_out() -> None:
    with pytest.raises(ToolNameClash) as caught:
        name_tools({"a": [tool("b__c")], "a__b": [tool("c")]})
    assert str(caught.value) == (
        "tool 'b__c' of server 'a' and tool 'c' of server 'a__b' would both be called 'a__b__c'.\n"
        'Next: rename one of the servers, or put tools = { deny = ["c"] } under [servers.a__b]'
    )


def test_a_server_that_lists_a_tool_twice_is_told() -> None:
    with pytest.raises(ToolNameClash, match="server 'a' lists the tool 'b' twice"):
        name_tools({"a": [tool("b"), tool("b")]})


def test_what_was_listed_is_known_after_a_restart_and_only_to_the_user(tmp_path: Path) -> None:
    first = Catalogue(tmp_path)
    assert first.record(FILES, (tool("read"),))
    first.save(FILES)
    assert Catalogue(tmp_path).tools(FILES) == (tool("read"),)
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_same_list_again_is_no_news(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.record(FILES, (tool("read"),))
    assert not catalogue.record(FILES, (tool("read"),))
    assert catalogue.record(FILES, (tool("read"), tool("write")))


def test_another_definition_of_the_same_name_is_another_server(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.record(FILES, (tool("read"),))
    other = replace(FILES, transport=StdioServer(command="files", env={"TOKEN": "other"}))
    assert catalogue.tools(other) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tools": [{"no": "name"}]}', '{"tools": 3}', "\x00\xff"])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.record(FILES, (tool("read"),))
    catalogue.save(FILES)
    [file] = tmp_path.iterdir()
    file.write_bytes(content.encode("latin-1"))
    again = Catalogue(tmp_path)
    assert again.tools(FILES) is None
    again.record(FILES, (tool("read"),))
    again.save(FILES)
    assert Catalogue(tmp_path).tools(FILES) == (tool("read"),)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.record(FILES, (tool("read"),))
    catalogue.save(FILES)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    catalogue.record(FILES, (tool("write"),))
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        catalogue.save(FILES)
    assert len(list(tmp_path.iterdir())) == 1
    assert Catalogue(tmp_path).tools(FILES) == (tool("read"),)


def test_a_server_that_must_not_be_probed_is_known_after_a_restart_until_it_fails_or_is_another(tmp_path: Path) -> None:
    first = Catalogue(tmp_path)
    first.learn(FILES, RAW_1, probe_unwelcome=True)
    first.record(FILES, (tool("read"),))
    assert first.needs_saving(FILES)
    first.save(FILES)
    assert not first.needs_saving(FILES)
    second = Catalogue(tmp_path)
    assert second.advised(FILES) == replace(FILES, protocol="legacy")
    assert second.advised(replace(FILES, protocol="2026-07-28")).protocol == "2026-07-28"
    second.learn(FILES, RAW_1, probe_unwelcome=False)  # it was not probed
    assert second.advised(FILES).protocol == "legacy"
    assert not second.needs_saving(FILES)
    second.learn(FILES, RAW_2, probe_unwelcome=False)
    assert second.advised(FILES) == FILES
    third = Catalogue(tmp_path)
    third.tools(FILES)
    third.unlearn(FILES)
    assert third.advised(FILES) == FILES
    assert third.needs_saving(FILES)
    third.save(FILES)
    assert Catalogue(tmp_path).advised(FILES) == FILES


def test_what_a_server_said_of_itself_is_kept(tmp_path: Path) -> None:
    said = Introduction(
        protocol_version="2026-07-28",
        is_modern=True,
        server_info=Implementation(name="raw", version="1"),
        capabilities=ServerCapabilities(prompts=PromptsCapability(list_changed=True)),
        instructions="Be kind.",
    )
    first = Catalogue(tmp_path)
    assert first.introduction(FILES) is None
    first.learn(FILES, said, probe_unwelcome=False)
    first.record(FILES, (tool("read"),))
    assert first.needs_saving(FILES)
    first.save(FILES)
    second = Catalogue(tmp_path)
    assert second.introduction(FILES) == said
    assert (said.has("prompts"), said.has("resources")) == (True, False)
