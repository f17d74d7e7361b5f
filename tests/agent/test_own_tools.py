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

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]

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

    async def use(self, name: str, given: Mapping[str, Any], chat: str = "one", **settings: Any) -> str:
        return await self.tools(chat, **settings)[name].run(given)


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
        assert await at.use("list_jobs", {}, "two") == "There are none."
        for name, given in (("change_job", {"every_seconds": 1}), ("cancel_job", {}), ("past_runs", {})):
            with pytest.raises(UsageError, match="has no job 'mine'"):
                await at.use(name, {"name": "mine", **given}, "two")
        with pytest.raises(UsageError, match="a job 'mine' already"):
            await at.use("schedule_job", {"name": "mine", "prompt": "x", "every_seconds": 60}, "two")


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
