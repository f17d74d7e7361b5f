"""Sexton's own tools for an agent: jobs, past runs, memories, messages to people.

What a chat may do is said by its settings (`may`); what it schedules may never
do more than the chat itself, and it changes only jobs that it made.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, final

from sexton.agent.approval import level_of, needs_approval
from sexton.agent.conversation import Conversation
from sexton.agent.memory_store import MemoryStore
from sexton.agent.model_config import AgentConfig, Approval
from sexton.agent.result_marks import mark_untrusted
from sexton.agent.toolbox import OwnTool
from sexton.clock import Clock
from sexton.errors import SextonError, UsageError
from sexton.journal import JSON
from sexton.mcp_servers import ServerPool
from sexton.scheduler import Job, JobStatus, Origin, Run, Scheduler, from_document, to_document

OWNERS_WAYS: Final = frozenset({"terminal", "web", "api", "openai"})
"""Ways to chat of whoever has a token of this gateway; they share one memory."""

MOST_RUNS: Final = 20
MOST_MEMORIES: Final = 20
MOST_JOBS: Final = 50
"""Jobs that one chat may have made."""


class Messenger(Protocol):
    """Sends a message to somebody, durably.  `target` is NAME or NAME:RECIPIENT."""

    def check(self, target: str, /) -> None:
        """Raise UsageError if nothing can be sent there."""
        ...

    async def send(self, target: str, text: str, /, *, key: str) -> object: ...


class NotAllowed(SextonError):
    """The chat may not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chat:
    """The chat for which tools are made, as far as they need it."""

    found: Conversation
    config: AgentConfig
    servers: tuple[str, ...]

    @property
    def approvals(self) -> Approval:
        return self.found.settings.approvals or self.config.approvals

    @property
    def memory(self) -> str:
        return "owner" if self.found.way in OWNERS_WAYS else self.found.key


@final
class SextonTools:
    """Makes the tools of one chat.  `config` gives what is configured now."""

    def __init__(
        self,
        scheduler: Scheduler,
        memories: MemoryStore,
        pool: ServerPool,
        messenger: Messenger,
        *,
        clock: Clock,
        config: Callable[[], AgentConfig],
    ) -> None:
        self._scheduler = scheduler
        self._memories = memories
        self._pool = pool
        self._messenger = messenger
        self._clock = clock
        self._config = config

    def __call__(self, found: Conversation) -> tuple[OwnTool, ...]:
        config = self._config()
        named = found.settings.servers if found.settings.servers is not None else config.chat_servers
        known = tuple(status.name for status in self._pool.status())
        chat = _Chat(found=found, config=config, servers=known if named is None else named)
        makers = {"jobs": self._job_tools, "memory": self._memory_tools, "send": self._send_tools}
        return tuple(tool for name in found.settings.may if name in makers for tool in makers[name](chat))

    # Jobs and runs

    def _job_tools(self, chat: _Chat) -> tuple[OwnTool, ...]:
        return (
            OwnTool(
                name="schedule_job",
                description="Have something done later or again and again: a prompt for an agent, or one tool call. "
                "Give exactly one of every_seconds, cron, at.",
                schema=_schema({**_JOB, "name": _text("letters, digits, - and _")}, required=["name"]),
                run=lambda given: self._schedule(chat, given),
                asks=True,
            ),
            OwnTool(
                name="list_jobs",
                description="List the jobs that this conversation has scheduled.",
                schema=_schema({}),
                run=lambda _: self._list_jobs(chat),
            ),
            OwnTool(
                name="change_job",
                description="Change a job of this conversation; what is not given stays. paused: let it rest.",
                schema=_schema({**_JOB, "name": _text("the job"), "paused": {"type": "boolean"}}, required=["name"]),
                run=lambda given: self._change(chat, given),
                asks=True,
            ),
            OwnTool(
                name="cancel_job",
                description="Remove a job of this conversation, for ever.",
                schema=_schema({"name": _text("the job")}, required=["name"]),
                run=lambda given: self._cancel(chat, given),
                asks=True,
            ),
            OwnTool(
                name="past_runs",
                description="What became of a job of this conversation: its last runs, or one run with all it said.",
                schema=_schema({"name": _text("the job"), "run": _text("the id of one run")}, required=["name"]),
                run=lambda given: self._past_runs(chat, given),
            ),
        )

    async def _schedule(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        name = _required(given, "name")
        jobs = await self._scheduler.jobs()
        if any(status.job.name == name for status in jobs):
            raise UsageError(f"There is a job {name!r} already; choose another name.")
        if sum(_made_by(status.job, chat) for status in jobs) >= MOST_JOBS:
            raise NotAllowed(f"This conversation has {MOST_JOBS} jobs; cancel some first.")
        document = {"name": name, "action": await self._action(chat, given), **self._when(given)}
        return await self._put(chat, document, given)

    async def _change(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        job = (await self._own_job(chat, given)).job
        document: dict[str, Any] = to_document(job)
        if any(key in given for key in ("prompt", "tool", "arguments")):
            document["action"] = await self._action(chat, given)
        if any(key in given for key in ("every_seconds", "cron", "at")):
            document |= self._when(given)
        said = await self._put(chat, document, given)
        if isinstance(given.get("paused"), bool):
            await (self._scheduler.pause(job.name) if given["paused"] else self._scheduler.resume(job.name))
            said += f" It is {'paused' if given['paused'] else 'not paused'}."
        return said

    async def _cancel(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        name = (await self._own_job(chat, given)).job.name
        await self._scheduler.remove_job(name)
        return f"The job {name} is removed."

    async def _list_jobs(self, chat: _Chat) -> str:
        mine = [status for status in await self._scheduler.jobs() if _made_by(status.job, chat)]
        return json.dumps([_told(status) for status in mine], ensure_ascii=False) if mine else "There are none."

    async def _past_runs(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        name = (await self._own_job(chat, given)).job.name
        if given.get("run"):
            record = await self._scheduler.run_record(str(given["run"]))
            if record.run.job != name:
                raise NotAllowed(f"The run {record.run.id} is none of the job {name}.")
            told = _told_run(record.run) | {"output": record.output}
            return mark_untrusted(json.dumps(told, ensure_ascii=False), source=f"run {record.run.id}")
        runs = await self._scheduler.runs(name, limit=MOST_RUNS)
        return mark_untrusted(json.dumps([_told_run(run) for run in runs], ensure_ascii=False), source=f"job {name}")

    async def _put(self, chat: _Chat, document: Mapping[str, Any], given: Mapping[str, Any]) -> str:
        deliver = _texts(given.get("deliver"))
        for target in deliver:
            self._messenger.check(target)
        if deliver and "send" not in chat.found.settings.may:
            raise NotAllowed("This conversation may not send messages.")
        whole = {**document, "origin": str(Origin.RUNTIME), **({"deliver": deliver} if deliver else {})}
        job = from_document(whole)
        await self._scheduler.put_job(job)
        times = await self._scheduler.next_times(job.name, 1)
        return f"The job {job.name} is scheduled; it starts next at {times[0].isoformat() if times else 'no time'}."

    async def _action(self, chat: _Chat, given: Mapping[str, Any]) -> dict[str, JSON]:
        """What the job does, with no more rights than the chat has; `chat` says whose it is."""
        if ("prompt" in given) == ("tool" in given):
            raise UsageError("Give one of prompt and tool.")
        return self._prompt(chat, given) if "prompt" in given else await self._call(chat, given)

    def _prompt(self, chat: _Chat, given: Mapping[str, Any]) -> dict[str, JSON]:
        settings = chat.found.settings
        servers = _texts(given.get("servers")) or ()
        for server in servers:
            if server not in chat.servers:
                raise NotAllowed(f"This conversation has no server {server!r}.")
        rules = settings.tools
        return {
            "kind": "prompt",
            "prompt": _required(given, "prompt"),
            "servers": list(servers),
            "models": None if settings.models is None else list(settings.models),
            "instructions": settings.instructions,
            "tools": {"allow": None if rules.allow is None else list(rules.allow), "deny": list(rules.deny)},
            "approvals": str(chat.approvals),
            "chat": chat.found.id,
        }

    async def _call(self, chat: _Chat, given: Mapping[str, Any]) -> dict[str, JSON]:
        server, _, tool = _required(given, "tool").partition(".")
        if server not in chat.servers:
            raise NotAllowed(f"This conversation has no server {server!r}; name the tool as server.tool.")
        rules = chat.found.settings.tools.of(server, chat.servers)
        known = {each.name: each for each in await self._pool.tools(server, allow=rules)}
        if tool not in known:
            raise UsageError(f"Server {server!r} has no tool {tool!r} for this conversation.")
        if needs_approval(level_of(chat.config, chat.approvals, server, tool), known[tool].annotations):
            raise NotAllowed(
                f"Calls of {server}.{tool} wait for a person here, and a scheduled call cannot; schedule a prompt."
            )
        arguments = given.get("arguments") or {}
        allowed: JSON = None if rules.allow is None else list(rules.allow)
        return {
            "kind": "call",
            "server": server,
            "tool": tool,
            "arguments": dict(arguments) if isinstance(arguments, Mapping) else {},
            "tools": {"allow": allowed, "deny": list(rules.deny)},
            "chat": chat.found.id,
        }

    def _when(self, given: Mapping[str, Any]) -> dict[str, Any]:
        kinds = {"every_seconds": "every", "cron": "cron", "at": "at"}
        asked = [key for key in kinds if given.get(key) is not None]
        if len(asked) != 1:
            raise UsageError("Give exactly one of every_seconds, cron and at.")
        if asked == ["at"] and _moment(str(given["at"])) <= self._clock.now():
            raise UsageError(f"{given['at']} has passed; now it is {self._clock.now().isoformat()}.")
        schedule = {kinds[asked[0]]: given[asked[0]]}
        return {"schedule": schedule, "timezone": str(given.get("timezone") or "UTC")}

    async def _own_job(self, chat: _Chat, given: Mapping[str, Any]) -> JobStatus:
        name = _required(given, "name")
        for status in await self._scheduler.jobs():
            if status.job.name == name and _made_by(status.job, chat):
                return status
        raise UsageError(f"This conversation has no job {name!r}.")

    # Memories

    def _memory_tools(self, chat: _Chat) -> tuple[OwnTool, ...]:
        return (
            OwnTool(
                name="remember",
                description="Keep a fact for later conversations.",
                schema=_schema({"text": _text("one fact, understandable by itself")}, required=["text"]),
                run=lambda given: self._remember(chat, given),
            ),
            OwnTool(
                name="recall",
                description="Find what was remembered, by words; without words the newest.",
                schema=_schema({"words": _text("any of these")}),
                run=lambda given: self._recall(chat, given),
            ),
            OwnTool(
                name="forget",
                description="Remove a memory.",
                schema=_schema({"id": _text("as recall gave it")}, required=["id"]),
                run=lambda given: self._forget(chat, given),
            ),
        )

    async def _remember(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        made = await self._memories.add(_required(given, "text"), source=chat.memory, at=self._clock.now())
        return f"Remembered as {made.id}."

    async def _recall(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        found = await self._memories.find(str(given.get("words") or ""), source=chat.memory, limit=MOST_MEMORIES)
        told = [{"id": each.id, "text": each.text, "at": each.at.isoformat()} for each in found]
        return mark_untrusted(json.dumps(told, ensure_ascii=False), source="memory") if told else "Nothing."

    async def _forget(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        gone = await self._memories.remove(_required(given, "id"), source=chat.memory)
        return "Forgotten." if gone else "There is no such memory."

    # Messages

    def _send_tools(self, chat: _Chat) -> tuple[OwnTool, ...]:
        return (
            OwnTool(
                name="send_message",
                description="Send a message to a target of this gateway, NAME or NAME:RECIPIENT.",
                schema=_schema(
                    {"target": _text("where to"), "text": _text("what to say")}, required=["target", "text"]
                ),
                run=lambda given: self._send(chat, given),
                asks=True,
            ),
        )

    async def _send(self, chat: _Chat, given: Mapping[str, Any]) -> str:
        target = _required(given, "target")
        key = f"chat:{chat.found.id}:{uuid.uuid4().hex}"
        await self._messenger.send(target, _required(given, "text"), key=key)
        return f"The message to {target} is on its way."


_TEXTS: Final = {"type": "array", "items": {"type": "string"}}


def _text(about: str) -> dict[str, str]:
    return {"type": "string", "description": about}


_JOB: Final[Mapping[str, Any]] = {
    "prompt": _text("what the agent is asked to do"),
    "servers": {**_TEXTS, "description": "the servers whose tools the prompt needs"},
    "tool": _text("server.tool, for one call instead of a prompt"),
    "arguments": {"type": "object", "description": "the arguments of that call"},
    "every_seconds": {"type": "number", "minimum": 1},
    "cron": _text("five fields, such as 0 7 * * mon-fri"),
    "at": _text("once, ISO 8601 with an offset"),
    "timezone": _text("for cron, such as Europe/Amsterdam; else UTC"),
    "deliver": {**_TEXTS, "description": "targets that get the output"},
}


def _schema(properties: Mapping[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _required(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{key} is missing.")
    return value


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _moment(written: str) -> datetime:
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise UsageError(f"{written!r} is no time; write it like 2026-12-24T18:00:00+01:00.") from None
    if moment.tzinfo is None:
        raise UsageError(f"{written!r} has no offset; write it like 2026-12-24T18:00:00+01:00.")
    return moment


def _made_by(job: Job, chat: _Chat) -> bool:
    return job.origin is Origin.RUNTIME and job.action.get("chat") == chat.found.id


def _told(status: JobStatus) -> dict[str, JSON]:
    document = to_document(status.job)
    return {
        "name": status.job.name,
        "schedule": document["schedule"],
        "timezone": status.job.timezone,
        "action": document["action"],
        "next": status.next_at.isoformat() if status.next_at else None,
        "paused": status.paused_at is not None,
        "last_run": None if status.last is None else _told_run(status.last),
    }


def _told_run(run: Run) -> dict[str, JSON]:
    return {
        "id": run.id,
        "state": str(run.state),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "output": run.output,
        "error": run.error,
    }
