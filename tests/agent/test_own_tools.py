"""Sexton's own tools: what a chat may schedule, see, change, remember and send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scheduling import running
from sexton.actions.prompt import plan_of
from sexton.agent import (
    AgentConfig,
    Approval,
    ChatSettings,
    Conversation,
    MemoryStore,
    OwnTool,
    ServerApprovals,
    SextonTools,
    ToolRules,
)
from sexton.errors import SextonError, UsageError
from sexton.mcp_servers import ServerPool, ToolFilter
from sexton.scheduler import Job, Origin, Run, RunContext, RunState, Trigger

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]

WIDE: dict[str, Any] = {
    "may": ["jobs", "memory", "send"],
    "send_to": ["me"],
    "servers": ["files"],
    "models": ["main"],
    "instructions": "be short",
    "tools": {"allow": None, "deny": ["files.hang"]},
    "max_steps": 5,
    "max_tokens": 1000,
    "max_cost": 0.5,
    "deliver": ("other",),
}
"""What a job may be told to have, and a little more than the tests use."""

AT = datetime(2026, 11, 1, tzinfo=UTC)
NEVER = AgentConfig(approvals=Approval.NEVER)


@dataclass
class Messages:
    sent: list[tuple[str, str]] = field(default_factory=list)

    def check(self, target: str, /) -> None:
        if target != "me":
            raise UsageError(f"There is no target {target!r}.")

    async def send(self, target: str, text: str, /, *, key: str) -> object:
        self.check(target)
        self.sent.append((target, text))
        return None


class Servers:
    """Two servers with two tools each; nothing of them is called here."""

    def status(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("files", "secret")]

    async def tools(self, _server: str, *, allow: ToolFilter) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name, annotations=None) for name in ("echo", "hang") if allow.admits(name)]


@dataclass
class Desk:
    """The tools of chats, by the name of the chat."""

    make: SextonTools
    messages: Messages
    scheduling: Any

    def tools(self, chat: str = "one", *, way: str = "terminal", **settings: Any) -> Mapping[str, OwnTool]:
        found = Conversation(
            id=chat,
            key=f"{way}:{chat}",
            way=way,
            title=chat,
            settings=ChatSettings(**settings),
            created_at=AT,
            changed_at=AT,
        )
        return {tool.name: tool for tool in self.make(found)}

    async def of_job(self, job: Job) -> Mapping[str, OwnTool]:
        """Those of a run of it, as the runner of prompts plans it; the job is there."""
        if job.origin is Origin.RUNTIME:
            await self.scheduling.scheduler.put_job(job)
        return {tool.name: tool for tool in self.make.of_job(job, plan_of(job.action, context_of(job), None))}

    async def use(self, name: str, given: Mapping[str, Any], chat: str = "one", **settings: Any) -> str:
        return await self.tools(chat, **settings)[name].run(given)


def job(name: str, *, deliver: tuple[str, ...] = (), timeout: float | None = None, **action: Any) -> Job:
    whole = {"kind": "prompt", "prompt": "x", "servers": [], "approvals": "never", **action}
    return Job(name=name, action=whole, origin=Origin.RUNTIME, deliver=deliver, timeout=timeout)


def context_of(job: Job) -> RunContext:
    run = Run(id="01", job=job.name, state=RunState.RUNNING, trigger=Trigger.MANUAL, created_at=AT, started_at=AT)
    return RunContext(run, job, progress=lambda _: None, log=lambda _: None)


@asynccontextmanager
async def desk(folder: Path, config: AgentConfig = NEVER) -> AsyncIterator[Desk]:
    messages = Messages()
    async with running(folder) as scheduling:
        memories, pool = MemoryStore(scheduling.database), cast("ServerPool", Servers())
        tools = SextonTools(
            scheduling.scheduler, memories, pool, messages, clock=scheduling.clock, config=lambda: config
        )
        yield Desk(tools, messages, scheduling)


async def test_a_chat_schedules_sees_changes_and_cancels_its_own_jobs(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        said = await at.use("schedule_job", {"name": "brief", "prompt": "what is new?", "cron": "0 7 * * *"})
        assert said.startswith("The job brief is scheduled; it starts next at ")
        [job] = json.loads(await at.use("list_jobs", {}))
        assert (job["name"], job["schedule"], job["action"]["prompt"]) == (
            "brief",
            {"cron": "0 7 * * *"},
            "what is new?",
        )
        said = await at.use("change_job", {"name": "brief", "every_seconds": 600, "paused": True})
        assert said.endswith("It is paused.")
        [job] = json.loads(await at.use("list_jobs", {}))
        assert (job["schedule"], job["paused"], job["action"]["prompt"]) == ({"every": 600}, True, "what is new?")
        assert "[]" in await at.use("past_runs", {"name": "brief"})
        assert await at.use("cancel_job", {"name": "brief"}) == "The job brief is removed."
        assert await at.use("list_jobs", {}) == "There are none."


async def test_a_chat_does_not_see_nor_touch_what_is_not_its_own(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.use("schedule_job", {"name": "mine", "prompt": "x", "every_seconds": 60})
        assert await at.use("list_jobs", {}, "two", way="telegram") == "There are none."
        for name, given in (("change_job", {"every_seconds": 1}), ("cancel_job", {}), ("past_runs", {})):
            with pytest.raises(UsageError, match="has no job 'mine'"):
                await at.use(name, {"name": "mine", **given}, "two", way="telegram")
        with pytest.raises(UsageError, match="a job 'mine' already"):
            await at.use("schedule_job", {"name": "mine", "prompt": "x", "every_seconds": 60}, "two")


async def test_whoever_has_a_token_reads_of_all_jobs_and_changes_only_those_of_the_chat(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.use("schedule_job", {"name": "theirs", "prompt": "x", "every_seconds": 60}, way="telegram")
        assert await at.use("list_jobs", {}, "two") == (
            "There are none.\nJobs that are not of this conversation: theirs."
        )
        run = await at.scheduling.scheduler.run_now("theirs")
        assert run.id in await at.use("past_runs", {"name": "theirs"}, "two")
        for name in ("change_job", "cancel_job"):
            with pytest.raises(UsageError, match="has no job 'theirs'"):
                await at.use(name, {"name": "theirs"}, "two")


async def test_a_scheduled_job_may_no_more_than_its_chat(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "servers": ("files",),
        "tools": ToolRules(deny=("hang",)),
        "approvals": Approval.DESTRUCTIVE,
    }
    async with desk(tmp_path) as at:
        prompt = {"name": "a", "prompt": "x", "every_seconds": 60}
        with pytest.raises(SextonError, match="has no server 'secret'"):
            await at.use("schedule_job", {**prompt, "servers": ["secret"]}, **settings)
        await at.use("schedule_job", {**prompt, "servers": ["files"]}, **settings)
        [status] = await at.scheduling.scheduler.jobs()
        action = status.job.action
        assert (action["servers"], action["tools"]["deny"], action["approvals"]) == (["files"], ["hang"], "destructive")
        with pytest.raises(SextonError, match="has no tool 'hang' for this conversation"):
            await at.use("schedule_job", {"name": "b", "tool": "files.hang", "every_seconds": 60}, **settings)
        with pytest.raises(SextonError, match="wait for a person here"):
            await at.use("schedule_job", {"name": "b", "tool": "files.echo", "every_seconds": 60}, **settings)


async def test_a_call_that_its_server_wants_approved_cannot_be_scheduled(tmp_path: Path) -> None:
    strict = AgentConfig(
        approvals=Approval.NEVER, server_approvals={"files": ServerApprovals(tools={"echo": Approval.ALWAYS})}
    )
    async with desk(tmp_path, strict) as at:
        with pytest.raises(SextonError, match="schedule a prompt"):
            await at.use("schedule_job", {"name": "b", "tool": "files.echo", "every_seconds": 60})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": "x"}, "exactly one of every_seconds"),
        ({"prompt": "x", "cron": "0 7 * * *", "every_seconds": 5}, "exactly one of every_seconds"),
        ({"prompt": "x", "tool": "files.echo", "every_seconds": 5}, "one of prompt and tool"),
        ({"prompt": "x", "at": "2020-01-01T00:00:00+00:00"}, "has passed"),
        ({"prompt": "x", "at": "2030-01-01T00:00:00"}, "has no offset"),
        ({"prompt": "x", "cron": "often"}, "often"),
        ({"prompt": "x", "every_seconds": 60, "deliver": ["nobody"]}, "no target 'nobody'"),
    ],
)
async def test_what_cannot_be_meant_is_told_to_the_model(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    async with desk(tmp_path) as at:
        with pytest.raises(SextonError, match=said):
            await at.use("schedule_job", {"name": "a", **given})
        assert await at.scheduling.scheduler.jobs() == ()


async def test_memories_are_found_by_words_and_those_of_strangers_are_their_own(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.use("remember", {"text": "The cat is called Olga"})
        made = await at.use("remember", {"text": "Bread is in the cupboard"}, "two")
        found = await at.use("recall", {"words": "name cat"}, "three")
        assert "Olga" in found
        assert "Bread" not in found
        assert await at.use("recall", {"words": "cat"}, way="telegram") == "Nothing."
        identity = made.removeprefix("Remembered as ").rstrip(".")
        assert await at.use("forget", {"id": identity}, way="telegram") == "There is no such memory."
        assert await at.use("forget", {"id": identity}) == "Forgotten."
        assert "Bread" not in await at.use("recall", {})


async def test_messages_go_out_and_only_where_the_chat_may_send(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.use("send_message", {"target": "me", "text": "done"})
        assert at.messages.sent == [("me", "done")]
        assert set(at.tools(may=("memory",))) == {"remember", "recall", "forget"}
        given = {"name": "a", "prompt": "x", "every_seconds": 60, "deliver": ["me"]}
        with pytest.raises(SextonError, match="may not send"):
            await at.use("schedule_job", given, may=("jobs",))


# Jobs with a prompt

EVERY_HOUR = {"name": "child", "prompt": "look again", "every_seconds": 3600}


@pytest.mark.parametrize(
    ("may", "names"),
    [
        ([], set()),
        (["runs"], {"past_runs"}),
        (["jobs"], {"schedule_job", "list_jobs", "change_job", "cancel_job", "past_runs"}),
        (["memory", "send"], {"remember", "recall", "forget", "send_message"}),
    ],
)
async def test_a_job_has_none_of_these_tools_but_those_that_it_may(
    tmp_path: Path, may: list[str], names: set[str]
) -> None:
    async with desk(tmp_path) as at:
        assert set(await at.of_job(job("brief", may=may))) == names


async def test_what_a_job_schedules_may_no_more_than_it_may_itself_and_does_not_breed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        tools = await at.of_job(job("brief", timeout=60.0, **WIDE))
        with pytest.raises(SextonError, match="This job has no server 'secret'"):
            await tools["schedule_job"].run({**EVERY_HOUR, "servers": ["secret"]})
        with pytest.raises(SextonError, match="has no tool 'hang' for this job"):
            await tools["schedule_job"].run({"name": "child", "tool": "files.hang", "every_seconds": 3600})
        await tools["schedule_job"].run({**EVERY_HOUR, "servers": ["files"], "deliver": ["me"]})
        child = await at.scheduling.scheduler.job("child")
        assert child.action == {
            "kind": "prompt",
            "prompt": "look again",
            "servers": ["files"],
            "models": ["main"],
            "instructions": "be short",
            "max_steps": 5,
            "max_tokens": 1000,
            "max_cost": 0.5,
            "tools": {"allow": None, "deny": ["files.hang"]},
            "approvals": "never",
            "job": "brief",
        }
        assert (child.timeout, child.deliver, child.resources) == (60.0, ("me",), ("server:files",))
        assert await at.of_job(child) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"every_seconds": 59}, "every 60 s at most"),
        ({"every_seconds": "1"}, "no number of seconds"),
        ({"cron": "* * * * * *"}, "5 fields here"),
        ({"every_seconds": 3600, "deliver": ["you"]}, "may not send to 'you'; it may send to: me, other"),
    ],
)
async def test_a_job_cannot_schedule_without_bounds(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    async with desk(tmp_path) as at:
        tools = await at.of_job(job("brief", **WIDE))
        with pytest.raises(SextonError, match=said):
            await tools["schedule_job"].run({"name": "child", "prompt": "x", **given})
        assert [status.job.name for status in await at.scheduling.scheduler.jobs()] == ["brief"]


async def test_a_job_makes_only_so_many_and_touches_nothing_but_those(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.scheduling.scheduler.replace_config_jobs([job("file")])
        await at.use("schedule_job", {"name": "of-chat", "prompt": "x", "every_seconds": 60})
        tools = await at.of_job(job("brief", **WIDE))
        for number in range(10):
            await tools["schedule_job"].run({**EVERY_HOUR, "name": f"child-{number}"})
        with pytest.raises(SextonError, match="This job has made 10 jobs; cancel some first"):
            await tools["schedule_job"].run(EVERY_HOUR)
        for other in ("file", "of-chat", "brief"):
            for name in ("change_job", "cancel_job"):
                with pytest.raises(UsageError, match=f"This job has no job '{other}'"):
                    await tools[name].run({"name": other, "prompt": "mine now"})
        for other in ("file", "of-chat"):
            with pytest.raises(UsageError, match=f"This job has no job '{other}'"):
                await tools["past_runs"].run({"name": other})
        assert "[]" in await tools["past_runs"].run({})
        await tools["change_job"].run({"name": "child-1", "paused": True})
        await tools["cancel_job"].run({"name": "child-2"})
        told = json.loads(await tools["list_jobs"].run({}))
        assert {(one["name"], one["paused"]) for one in told} == {
            (f"child-{number}", number == 1) for number in range(10) if number != 2
        }


async def test_what_a_job_made_loses_the_rights_that_the_job_loses(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        tools, bounded, put = await at.of_job(job("brief", **WIDE)), at.make.bounded, at.scheduling.scheduler.put_job
        await tools["schedule_job"].run({**EVERY_HOUR, "servers": ["files"]})
        await tools["schedule_job"].run({"name": "calls", "tool": "files.echo", "every_seconds": 3600})
        prompt, call = [await at.scheduling.scheduler.job(name) for name in ("child", "calls")]
        assert await bounded(prompt) == prompt.action
        assert (await bounded(call))["tools"] == {"allow": None, "deny": ["hang"]}
        await put(job("brief", **{**WIDE, "max_steps": 2, "tools": {"allow": ["files.hang"], "deny": []}}))
        assert ((await bounded(prompt))["max_steps"], (await bounded(prompt))["tools"]["allow"]) == (2, ["files.hang"])  # type: ignore[index, call-overload]
        assert (await bounded(call))["tools"] == {"allow": ["hang"], "deny": []}
        await put(job("brief", **{**WIDE, "approvals": "always"}))
        assert (await bounded(prompt))["approvals"] == "always"
        with pytest.raises(SextonError, match="has other approvals now"):
            await bounded(call)
        await put(job("brief", **{**WIDE, "servers": ["secret"]}))
        with pytest.raises(SextonError, match="has no server 'files' any more"):
            await bounded(prompt)
        await put(job("brief", **{**WIDE, "may": ["runs"]}))
        with pytest.raises(SextonError, match="is gone or may not make jobs any more"):
            await bounded(prompt)
        await at.scheduling.scheduler.remove_job("brief")
        with pytest.raises(SextonError, match="remove this one: sexton jobs remove child"):
            await bounded(prompt)


async def test_a_job_sends_only_where_it_was_told_and_remembers_for_itself(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        tools = await at.of_job(job("brief", **WIDE))
        await tools["send_message"].run({"target": "me", "text": "look"})
        for target in ("you", "me:somebody", "ME"):
            with pytest.raises(SextonError, match="may not send to"):
                await tools["send_message"].run({"target": target, "text": "look"})
        assert at.messages.sent == [("me", "look")]
        await at.use("remember", {"text": "The owner's cat is called Olga"})
        await tools["remember"].run({"text": "The report was sent"})
        assert await tools["recall"].run({"words": "cat"}) == "Nothing."
        assert "report" in await tools["recall"].run({})
        assert "report" not in await at.use("recall", {})
        assert await (await at.of_job(job("other", may=["memory"])))["recall"].run({}) == "Nothing."
