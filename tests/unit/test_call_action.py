"""A run that is one tool call: what it calls, what its output reads like, and how it fails."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from fake_clock import settle
from fake_servers import Bench, FakeServers, NoTrees, bench, exclusive, server, tool
from sexton.actions import perform_action
from sexton.actions.call import render_content, run_call
from sexton.containment import Containment
from sexton.mcp_servers import ToolFilter
from sexton.scheduler import Job, Run, RunContext, RunFailed, RunState, Trigger

pytestmark = pytest.mark.anyio

NO_AGENT = cast("Any", None)
NO_TREES = cast("Containment", NoTrees())


class Watching:
    """The scheduler's side of a run."""

    def __init__(self) -> None:
        self.progress: list[str | None] = []
        self.lines: list[str] = []
        run = Run(
            id="01",
            job="clock",
            slot=None,
            attempt=1,
            state=RunState.RUNNING,
            trigger=Trigger.MANUAL,
            created_at=datetime(2026, 11, 1, tzinfo=UTC),
            started_at=datetime(2026, 11, 1, tzinfo=UTC),
        )
        job = Job(name="clock", schedule=None, action={})
        self.calls: list[tuple[object, ...]] = []
        self.ctx = RunContext(
            run,
            job,
            progress=self.progress.append,
            log=self.lines.append,
            record_call=lambda *call: self.calls.append(call),
        )


async def perform(running: Bench, **action: Any) -> str:
    outcome = await run_call(running.pool, {"kind": "call", "server": "files", **action}, Watching().ctx)
    return outcome.output


async def test_the_result_of_the_tool_is_the_output_of_the_run(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        outcome = await run_call(
            running.pool, {"kind": "call", "server": "files", "tool": "echo", "arguments": {"a": 1}}, Watching().ctx
        )
        assert (outcome.output, outcome.details["process"]) == ("files#1", "files#1")
        assert running.holders("files") == ()


async def test_a_tool_that_says_it_failed_fails_the_run_with_its_own_text(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        with pytest.raises(RunFailed, match="tool 'fail' of server 'files' failed: files#1"):
            await perform(running, tool="fail")


@pytest.mark.parametrize(
    ("tool", "state", "text"),
    [("echo", "ok", "files#1"), ("fail", "error", "files#1"), ("refuse", "failed", "Invalid params")],
)
async def test_every_call_is_recorded_with_how_it_ended(tmp_path: Path, tool: str, state: str, text: str) -> None:
    watching = Watching()
    action: dict[str, Any] = {"kind": "call", "server": "files", "tool": tool, "arguments": {"a": 1}}
    async with bench(tmp_path, server("files")) as running:
        with suppress(RunFailed):
            await run_call(running.pool, action, watching.ctx)
    [(called, name, arguments, ended, said, seconds)] = watching.calls
    assert (called, name, arguments, ended) == ("files", tool, {"a": 1}, state)
    assert text in str(said)
    assert isinstance(seconds, float)


async def test_a_call_that_is_cut_short_is_recorded_too(tmp_path: Path) -> None:
    watching = Watching()
    async with bench(tmp_path, server("files")) as running, anyio.create_task_group() as tasks:
        action: dict[str, Any] = {"kind": "call", "server": "files", "tool": "hang"}
        tasks.start_soon(run_call, running.pool, action, watching.ctx)
        await settle()
        assert watching.calls == []
        tasks.cancel_scope.cancel()
    assert [call[3] for call in watching.calls] == ["cancelled"]


async def test_a_refused_call_fails_the_run_with_the_words_of_the_server(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        with pytest.raises(RunFailed, match="tool 'refuse' of server 'files' could not be called: Invalid params"):
            await perform(running, tool="refuse")


async def test_a_tool_that_is_not_there_is_told_before_anything_is_called(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        with pytest.raises(RunFailed) as caught:
            await perform(running, tool="ehco")
        assert caught.value.what == "server 'files' has no tool 'ehco'; it has echo, hang, fail, refuse."
        assert caught.value.hint == "did you mean 'echo'?"
        assert running.servers.all["files#1"].received == []


async def test_a_server_without_any_tool_fails_the_run(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), servers=FakeServers(tools={"files": ()})) as running:
        with pytest.raises(RunFailed, match="offers this run none of its tools, so 'echo' was not called"):
            await perform(running, tool="echo")


async def test_a_tool_that_a_list_denies_is_told_with_the_list(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", tools=ToolFilter(deny=("echo",)))) as running:
        with pytest.raises(RunFailed, match=r"\[servers.files\] does not let it through"):
            await perform(running, tool="echo")
        with pytest.raises(RunFailed, match="run:01 does not let it through"):
            await perform(running, tool="hang", tools={"allow": ["fail"]})
        assert running.servers.all["files#1"].received == []


async def test_an_exclusive_process_ends_with_its_run(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("files")) as running:
        await perform(running, tool="echo")
        await running.clock.advance(0)
        assert running.servers.alive == []


async def test_a_server_that_died_unnoticed_before_anything_was_sent_costs_the_run_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await perform(running, tool="echo")
        running.servers.connecting.close()
        async with anyio.create_task_group() as tasks:
            outputs: list[str] = []

            async def run() -> None:
                outputs.append(await perform(running, tool="echo"))

            tasks.start_soon(run)
            await settle()
            running.servers.all["files#1"].die(noticed=False)
            running.servers.connecting.open()
        assert outputs == ["files#2"]


async def test_an_action_of_an_unknown_kind_is_told_with_the_kinds_there_are(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        with pytest.raises(
            RunFailed, match="job 'clock' wants an action of kind 'cal'; there are call, command, prompt"
        ) as caught:
            await perform_action(
                {"kind": "cal"}, Watching().ctx, pool=running.pool, containment=NO_TREES, agent=NO_AGENT
            )
        assert caught.value.hint == "did you mean 'call'?"
        calling = {"kind": "call", "server": "files", "tool": "echo"}
        outcome = await perform_action(calling, Watching().ctx, pool=running.pool, containment=NO_TREES, agent=NO_AGENT)
        assert outcome.output == "files#1"


async def test_progress_reaches_who_watches_the_run(tmp_path: Path) -> None:
    watching = Watching()
    fakes = FakeServers(tools={"files": (tool("progress"),)})
    async with bench(tmp_path, server("files"), servers=fakes) as running:
        await run_call(running.pool, {"kind": "call", "server": "files", "tool": "progress"}, watching.ctx)
    assert watching.progress == ["1 of 2: half", "3"]


def test_what_is_not_text_is_summarised() -> None:
    result = CallToolResult(
        content=[
            TextContent(type="text", text="See:"),
            ImageContent(type="image", mime_type="image/png", data="AAAA"),
            AudioContent(type="audio", mime_type="audio/wav", data="AAAAAA=="),
            EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///a", text="inside")),
            EmbeddedResource(type="resource", resource=BlobResourceContents(uri="file:///b", blob="AA==")),
            ResourceLink(type="resource_link", uri="file:///c", name="c"),
        ]
    )
    assert render_content(result).splitlines() == [
        "See:",
        "[image image/png, 3 bytes]",
        "[audio audio/wav, 4 bytes]",
        "inside",
        "[file file:///b, 1 bytes]",
        "[link c: file:///c]",
    ]


def test_structured_content_stands_in_for_missing_text() -> None:
    assert render_content(CallToolResult(content=[], structured_content={"a": 1})) == '{\n  "a": 1\n}'
