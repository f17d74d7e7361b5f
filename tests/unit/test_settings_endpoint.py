"""`[endpoint]` and `[profiles.NAME]` in sexton.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from sexton.daemon import SettingsError, load_settings
from sexton.gateway.mcp_endpoint import EndpointSettings, Profile
from sexton.mcp_servers import ToolFilter

SERVERS = """
[servers.git]
command = "git-server"

[servers.time]
command = "time-server"
enabled = false
"""


def test_what_the_file_says_is_what_the_endpoint_does(tmp_path: Path) -> None:
    file = tmp_path / "sexton.toml"
    file.write_text(
        SERVERS
        + """
[endpoint]
search_above = 0
idle_timeout = "90s"
max_sessions = 3
input_timeout = "1m"
max_body = "1KiB"
close_streams_after = "50s"
audit = false

[profiles.coding]
servers = ["git", "time"]
allow = ["git__*"]
deny = ["push"]
prompts = { allow = ["git__commit*"] }
resources = { deny = ["file:///etc/*"] }

[profiles.all]
"""
    )
    assert load_settings(file).endpoint == EndpointSettings(
        search_above=0,
        idle_timeout=90,
        max_sessions=3,
        input_timeout=60,
        max_body=1024,
        close_streams_after=50,
        audit=False,
        profiles={
            "coding": Profile(
                name="coding",
                servers=("git", "time"),
                tools=ToolFilter(allow=("git__*",), deny=("push",)),
                prompts=ToolFilter(allow=("git__commit*",)),
                resources=ToolFilter(deny=("file:///etc/*",)),
            ),
            "all": Profile(name="all"),
        },
    )


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "sexton.toml"
    file.write_text(
        SERVERS
        + """
[endpoint]
serch_above = 1
max_sessions = 0

[profiles.a__b]
[profiles.c]
servers = ["gti"]
allow = "git__log"
"""
    )
    with pytest.raises(SettingsError) as raised:
        load_settings(file)
    said = [problem.text("f") for problem in raised.value.problems]
    assert said == [
        "f:10: endpoint.serch_above is an unknown key; did you mean 'search_above'?",
        "f:11: endpoint.max_sessions is too small; the smallest is 1",
        "f:13: profiles.a__b is no usable name: '__' stands between server and tool",
        "f:15: profiles.c.servers[0] is 'gti', and there is no such server; did you mean 'git'?",
        'f:16: profiles.c.allow is text; it must be a list, such as ["a", "b"]',
    ]


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "sexton.toml"
    file.write_text("endpoint = 1\nprofiles = { a = 2 }\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(file)
    assert [problem.path for problem in raised.value.problems] == [("endpoint",), ("profiles", "a")]
