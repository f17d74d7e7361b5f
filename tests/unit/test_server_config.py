"""What makes two definitions the same server, and which tools a filter lets through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sexton.mcp_servers import HttpServer, ServerConfig, Sharing, StdioServer, ToolFilter

TIME = ServerConfig(
    name="time", transport=StdioServer(command="uvx", args=("mcp-server-time",), env={"A": "1", "B": "2"})
)


@pytest.mark.parametrize(
    "transport",
    [
        StdioServer(command="uv", args=("mcp-server-time",), env={"A": "1", "B": "2"}),
        StdioServer(command="uvx", args=("mcp-server-time", "-v"), env={"A": "1", "B": "2"}),
        StdioServer(command="uvx", args=("mcp-server-time",), env={"A": "1", "B": "other secret"}),
        StdioServer(command="uvx", args=("mcp-server-time",), env={"A": "1", "B": "2"}, cwd=Path("/srv")),
        HttpServer(url="http://127.0.0.1:1/mcp"),
    ],
)
def test_a_server_that_sees_something_else_is_another_server(transport: StdioServer | HttpServer) -> None:
    assert replace(TIME, transport=transport).identity() != TIME.identity()


def test_how_a_server_is_shared_does_not_change_what_it_is() -> None:
    other = replace(TIME, name="clock", sharing=Sharing.EXCLUSIVE, idle_timeout=1.0, tools=ToolFilter(deny=("x",)))
    assert other.identity() == TIME.identity()


def test_the_order_in_which_the_environment_was_written_does_not_matter() -> None:
    turned = StdioServer(command="uvx", args=("mcp-server-time",), env={"B": "2", "A": "1"})
    assert replace(TIME, transport=turned).identity() == TIME.identity()


def test_secrets_do_not_show_in_a_log_line() -> None:
    secret = ServerConfig(name="s", transport=StdioServer(command="s", env={"TOKEN": "hunter2"}))
    remote = ServerConfig(name="r", transport=HttpServer(url="http://h/", headers={"Authorization": "hunter2"}))
    assert "hunter2" not in f"{secret!r}{remote!r}{secret.identity()}"


@pytest.mark.parametrize(
    ("tools", "tool", "admitted"),
    [
        (ToolFilter(), "anything", True),
        (ToolFilter(allow=()), "anything", False),
        (ToolFilter(allow=("read_*",)), "read_file", True),
        (ToolFilter(allow=("read_*",)), "Read_file", False),
        (ToolFilter(allow=("read_*",), deny=("read_secret",)), "read_secret", False),
        (ToolFilter(deny=("write_file",)), "write_file", False),
        (ToolFilter(deny=("write_file",)), "write_file2", True),
    ],
)
def test_deny_wins_over_allow_and_no_allow_list_means_all(tools: ToolFilter, tool: str, admitted: bool) -> None:
    assert tools.admits(tool) is admitted


def test_entries_that_match_no_tool_are_named_once_in_their_order() -> None:
    tools = ToolFilter(allow=("read_*", "wirte_file"), deny=("wirte_file", "delete_*"))
    assert tools.unmatched(["read_file", "write_file"]) == ("wirte_file", "delete_*")
