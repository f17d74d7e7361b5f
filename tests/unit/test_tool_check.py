"""A call of a tool that its server does not have."""

from __future__ import annotations

from sexton.daemon.tool_check import unknown_tools
from sexton.scheduler import Job


def call(name: str, server: str, tool: str) -> Job:
    return Job(name=name, action={"kind": "call", "server": server, "tool": tool, "arguments": {}})


def test_only_a_tool_that_the_catalogue_misses_is_named_with_the_nearest() -> None:
    jobs = [
        call("right", "time", "get_current_time"),
        call("slip", "time", "get_curent_time"),
        call("never-ran", "other", "anything"),
        Job(name="program", action={"kind": "command", "argv": ["true"]}),
    ]
    (problem,) = unknown_tools(jobs, {"time": ["get_current_time", "convert_time"]}.get)
    assert problem.text("sexton.toml") == (
        "sexton.toml: jobs.slip.call names the tool 'get_curent_time', which server 'time' did not have"
        " when it last ran; did you mean 'get_current_time'?"
    )
