"""Sexton's own tools for an agent: jobs, past runs, memories, messages to people.

What a chat or a job may do is said by its settings (`may`); what it schedules
may never do more than it may itself, and it changes only jobs that it made.
That is enforced here and by `bounded`, whatever a model was made to believe.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias, final

from sexton.agent.approval import needs_approval
from sexton.agent.conversation import Conversation
from sexton.agent.memory_store import MemoryStore
from sexton.agent.model_config import AgentConfig
from sexton.agent.result_marks import mark_untrusted
from sexton.agent.tool_rights import MADE_BY_JOB, NotAllowed, ToolRights, names_in
from sexton.agent.tool_rules import ToolRules
from sexton.agent.toolbox import OwnTool
from sexton.agent.turn import TurnPlan
from sexton.clock import Clock
from sexton.errors import UsageError
from sexton.journal import JSON
from sexton.mcp_servers import ServerPool, ToolFilter
from sexton.scheduler import Job, JobStatus, Origin, Run, Scheduler, from_document, to_document

MOST_RUNS: Final = 20
MOST_MEMORIES: Final = 20
MOST_NAMED: Final = 200
"""Jobs of others that `list_jobs` names."""

CRON_FIELDS: Final = 5
"""With a sixth, of seconds, a model could schedule more than a person would ever look at."""

OwnToolsOfJob: TypeAlias = Callable[[Job, TurnPlan], tuple[OwnTool, ...]]


class Messenger(Protocol):
    """Sends a message to somebody, durably.  `target` is NAME or NAME:RECIPIENT."""

    def check(self, target: str, /) -> None:
        """Raise UsageError if nothing can be sent there."""
        ...

    async def send(self, target: str, text: str, /, *, key: str) -> object: ...


@final
class SextonTools:
    """Makes the tools of one chat, or of one run of a job.  `config` gives what is configured now."""

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
        """The tools of a chat."""
        known = tuple(status.name for status in self._pool.status())
        return self._tools(ToolRights.of_chat(found, self._config(), known))

    def of_job(self, job: Job, plan: TurnPlan) -> tuple[OwnTool, ...]:
        """The tools of a run of `job`, whose plan is `plan`."""
        return self._tools(ToolRights.of_job(job, plan, self._config()))

    def _tools(self, rights: ToolRights) -> tuple[OwnTool, ...]:
        may = rights.may
        return (
            *(self._job_tools(rights) if "jobs" in may else ()),
            *(self._run_tools(rights) if may & {"jobs", "runs"} else ()),
            *(self._memory_tools(rights) if "memory" in may else ()),
            *(self._send_tools(rights) if "send" in may else ()),
        )

    async def bounded(self, job: Job) -> Mapping[str, JSON]:
        """The action of a job that was added at run time; one that a job has made gets no more than that job has now.

        Raises NotAllowed.
        """
        if (name := job.action.get(MADE_BY_JOB)) is None:
            return job.action
        maker = next((status.job for status in await self._scheduler.jobs() if status.job.name == name), None)
        if maker is None or "jobs" not in names_in(maker.action, "may"):
            raise NotAllowed(
                f"The job {name!r}, which made this one, is gone or may not make jobs any more.",
                hint=f"remove this one: sexton jobs remove {job.name}",
            )
        return _narrowed(job, maker)

    # Jobs and runs

    def _job_tools(self, rights: ToolRights) -> tuple[OwnTool, ...]:
        noun = rights.noun
        return (
            OwnTool(
                name="schedule_job",
                description="Have something done later or again and again: a prompt for an agent, or one tool call. "
                "Give exactly one of every_seconds, cron, at.",
                schema=_schema({**_job_keys(rights), "name": _text("letters, digits, - and _")}, required=["name"]),
                run=lambda given: self._schedule(rights, given),
                asks=True,
            ),
            OwnTool(
                name="list_jobs",
                description=f"List the jobs that this {noun} has scheduled"
                + (", and the names of all others." if rights.sees_all else "."),
                schema=_schema({}),
                run=lambda _: self._list_jobs(rights),
            ),
            OwnTool(
                name="change_job",
                description=f"Change a job that this {noun} made; what is not given stays. paused: let it rest.",
                schema=_schema(
                    {**_job_keys(rights), "name": _text("the job"), "paused": {"type": "boolean"}}, required=["name"]
                ),
                run=lambda given: self._change(rights, given),
                asks=True,
            ),
            OwnTool(
                name="cancel_job",
                description=f"Remove a job that this {noun} made, for ever.",
                schema=_schema({"name": _text("the job")}, required=["name"]),
                run=lambda given: self._cancel(rights, given),
                asks=True,
            ),
        )

    def _run_tools(self, rights: ToolRights) -> tuple[OwnTool, ...]:
        which = "any job" if rights.sees_all else f"a job that this {rights.noun} made"
        name = "the job" if rights.itself is None else "the job; without it this very one"
        return (
            OwnTool(
                name="past_runs",
                description=f"What became of {which}: its last runs, or one run with all it said.",
                schema=_schema(
                    {"name": _text(name), "run": _text("the id of one run")},
                    required=["name"] if rights.itself is None else [],
                ),
                run=lambda given: self._past_runs(rights, given),
            ),
        )

    async def _schedule(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        name = _required(given, "name")
        jobs = await self._scheduler.jobs()
        if any(status.job.name == name for status in jobs):
            raise UsageError(f"There is a job {name!r} already; choose another name.")
        if sum(rights.has_made(status.job) for status in jobs) >= rights.most_jobs:
            raise NotAllowed(f"This {rights.noun} has made {rights.most_jobs} jobs; cancel some first.")
        document = {"name": name, "action": await self._action(rights, given), **self._when(rights, given)}
        return await self._put(rights, document, given)

    async def _change(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        job = (await self._own_job(rights, given)).job
        document: dict[str, Any] = to_document(job)
        if any(key in given for key in ("prompt", "tool", "arguments")):
            document["action"] = await self._action(rights, given)
        if any(key in given for key in ("every_seconds", "cron", "at")):
            document |= self._when(rights, given)
        said = await self._put(rights, document, given)
        if isinstance(given.get("paused"), bool):
            await (self._scheduler.pause(job.name) if given["paused"] else self._scheduler.resume(job.name))
            said += f" It is {'paused' if given['paused'] else 'not paused'}."
        return said

    async def _cancel(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        name = (await self._own_job(rights, given)).job.name
        await self._scheduler.remove_job(name)
        return f"The job {name} is removed."

    async def _list_jobs(self, rights: ToolRights) -> str:
        jobs = await self._scheduler.jobs()
        mine = [status for status in jobs if rights.has_made(status.job)]
        told = json.dumps([_told(status) for status in mine], ensure_ascii=False) if mine else "There are none."
        others = [status.job.name for status in jobs if rights.sees_all and status not in mine]
        if not others:
            return told
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        return f"{told}\nJobs that are not of this conversation: {', '.join(others[:MOST_NAMED])}{more}."

    async def _past_runs(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        name = await self._readable(rights, given)
        if given.get("run"):
            record = await self._scheduler.run_record(str(given["run"]))
            if record.run.job != name:
                raise NotAllowed(f"The run {record.run.id} is none of the job {name}.")
            told = _told_run(record.run) | {"output": record.output}
            return mark_untrusted(json.dumps(told, ensure_ascii=False), source=f"run {record.run.id}")
        runs = await self._scheduler.runs(name, limit=MOST_RUNS)
        return mark_untrusted(json.dumps([_told_run(run) for run in runs], ensure_ascii=False), source=f"job {name}")

    async def _put(self, rights: ToolRights, document: Mapping[str, Any], given: Mapping[str, Any]) -> str:
        deliver = _texts(given.get("deliver"))
        for target in deliver:
            rights.require_target(target)
            self._messenger.check(target)
        bounds = {"origin": str(Origin.RUNTIME), "timeout": rights.timeout, "idle_timeout": rights.idle_timeout}
        resources = [f"server:{server}" for server in _servers_of(document["action"])]
        whole = {**document, **bounds, "resources": resources, **({"deliver": deliver} if deliver else {})}
        job = from_document(whole)
        await self._scheduler.put_job(job)
        times = await self._scheduler.next_times(job.name, 1)
        return f"The job {job.name} is scheduled; it starts next at {times[0].isoformat() if times else 'no time'}."

    async def _action(self, rights: ToolRights, given: Mapping[str, Any]) -> dict[str, JSON]:
        """What the job does, with no more rights than those of who schedules it; it bears whose it is."""
        if ("prompt" in given) == ("tool" in given):
            raise UsageError("Give one of prompt and tool.")
        return self._prompt(rights, given) if "prompt" in given else await self._call(rights, given)

    def _prompt(self, rights: ToolRights, given: Mapping[str, Any]) -> dict[str, JSON]:
        servers = _texts(given.get("servers"))
        for server in servers:
            rights.require_server(server)
        return {
            "kind": "prompt",
            "prompt": _required(given, "prompt"),
            "servers": list[JSON](servers),
            "models": None if rights.models is None else list(rights.models),
            "instructions": rights.instructions,
            **rights.limits(),
            **rights.handed_on(),
        }

    async def _call(self, rights: ToolRights, given: Mapping[str, Any]) -> dict[str, JSON]:
        server, _, tool = _required(given, "tool").partition(".")
        if not tool:
            raise UsageError(f"Name the tool as server.tool, not {server!r}.")
        rights.require_server(server)
        rules = rights.rules.of(server, rights.servers)
        known = {each.name: each for each in await self._pool.tools(server, allow=rules)}
        if tool not in known:
            raise UsageError(f"Server {server!r} has no tool {tool!r} for this {rights.noun}.")
        if needs_approval(rights.level(server, tool), known[tool].annotations):
            raise NotAllowed(
                f"Calls of {server}.{tool} wait for a person here, and a scheduled call cannot; schedule a prompt."
            )
        arguments = given.get("arguments") or {}
        return {
            "kind": "call",
            "server": server,
            "tool": tool,
            "arguments": dict(arguments) if isinstance(arguments, Mapping) else {},
            **rights.handed_on(),
            "tools": _lists_of(rules),
        }

    def _when(self, rights: ToolRights, given: Mapping[str, Any]) -> dict[str, Any]:
        kinds = {"every_seconds": "every", "cron": "cron", "at": "at"}
        asked = [key for key in kinds if given.get(key) is not None]
        if len(asked) != 1:
            raise UsageError("Give exactly one of every_seconds, cron and at.")
        if asked == ["at"] and _moment(str(given["at"])) <= self._clock.now():
            raise UsageError(f"{given['at']} has passed; now it is {self._clock.now().isoformat()}.")
        if asked == ["every_seconds"] and _number(given["every_seconds"]) < rights.least_seconds:
            raise NotAllowed(f"What this {rights.noun} schedules may run every {rights.least_seconds:g} s at most.")
        if asked == ["cron"] and len(str(given["cron"]).split()) > CRON_FIELDS:
            raise NotAllowed(f"A cron expression has {CRON_FIELDS} fields here; the first is the minute.")
        schedule = {kinds[asked[0]]: given[asked[0]]}
        return {"schedule": schedule, "timezone": str(given.get("timezone") or "UTC")}

    async def _readable(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        """The name of the job that is asked for, if its runs may be read."""
        name = given.get("name") or rights.itself or _required(given, "name")
        for status in await self._scheduler.jobs():
            if status.job.name == name and rights.may_read(status.job):
                return status.job.name
        raise UsageError(f"This {rights.noun} has no job {name!r}.")

    async def _own_job(self, rights: ToolRights, given: Mapping[str, Any]) -> JobStatus:
        name = _required(given, "name")
        for status in await self._scheduler.jobs():
            if status.job.name == name and rights.has_made(status.job):
                return status
        raise UsageError(f"This {rights.noun} has no job {name!r}.")

    # Memories

    def _memory_tools(self, rights: ToolRights) -> tuple[OwnTool, ...]:
        return (
            OwnTool(
                name="remember",
                description="Keep a fact for later conversations.",
                schema=_schema({"text": _text("one fact, understandable by itself")}, required=["text"]),
                run=lambda given: self._remember(rights, given),
            ),
            OwnTool(
                name="recall",
                description="Find what was remembered, by words; without words the newest.",
                schema=_schema({"words": _text("any of these")}),
                run=lambda given: self._recall(rights, given),
            ),
            OwnTool(
                name="forget",
                description="Remove a memory.",
                schema=_schema({"id": _text("as recall gave it")}, required=["id"]),
                run=lambda given: self._forget(rights, given),
            ),
        )

    async def _remember(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        made = await self._memories.add(_required(given, "text"), source=rights.owned, at=self._clock.now())
        return f"Remembered as {made.id}."

    async def _recall(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        found = await self._memories.find(str(given.get("words") or ""), source=rights.owned, limit=MOST_MEMORIES)
        told = [{"id": each.id, "text": each.text, "at": each.at.isoformat()} for each in found]
        return mark_untrusted(json.dumps(told, ensure_ascii=False), source="memory") if told else "Nothing."

    async def _forget(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        gone = await self._memories.remove(_required(given, "id"), source=rights.owned)
        return "Forgotten." if gone else "There is no such memory."

    # Messages

    def _send_tools(self, rights: ToolRights) -> tuple[OwnTool, ...]:
        return (
            OwnTool(
                name="send_message",
                description="Send a message to a target of this gateway, NAME or NAME:RECIPIENT.",
                schema=_schema({"target": _target(rights), "text": _text("what to say")}, required=["target", "text"]),
                run=lambda given: self._send(rights, given),
                asks=True,
            ),
        )

    async def _send(self, rights: ToolRights, given: Mapping[str, Any]) -> str:
        target = _required(given, "target")
        rights.require_target(target)
        key = f"{':'.join(rights.mark)}:{uuid.uuid4().hex}"
        await self._messenger.send(target, _required(given, "text"), key=key)
        return f"The message to {target} is on its way."


_TEXTS: Final = {"type": "array", "items": {"type": "string"}}


def _text(about: str) -> dict[str, str]:
    return {"type": "string", "description": about}


def _target(rights: ToolRights) -> dict[str, Any]:
    return _text("where to") | ({} if rights.targets is None else {"enum": sorted(rights.targets)})


def _job_keys(rights: ToolRights) -> dict[str, Any]:
    return {**_JOB, "every_seconds": {"type": "number", "minimum": rights.least_seconds}}


_JOB: Final[Mapping[str, Any]] = {
    "prompt": _text("what the agent is asked to do"),
    "servers": {**_TEXTS, "description": "the servers whose tools the prompt needs"},
    "tool": _text("server.tool, for one call instead of a prompt"),
    "arguments": {"type": "object", "description": "the arguments of that call"},
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


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{value!r} is no number of seconds.")
    return float(value)


def _servers_of(action: Mapping[str, Any]) -> Sequence[str]:
    return [str(action["server"])] if action.get("kind") == "call" else sorted(names_in(action, "servers"))


def _narrowed(job: Job, maker: Job) -> Mapping[str, JSON]:
    """The action of `job` with the rights that `maker` has now, which may be others than when it made it."""
    action, now = job.action, maker.action
    hint = f"remove this one, so that it can be made anew: sexton jobs remove {job.name}"
    if gone := sorted(set(_servers_of(action)) - names_in(now, "servers")):
        raise NotAllowed(f"The job {maker.name!r}, which made this one, has no server {gone[0]!r} any more.", hint=hint)
    if action.get("kind") == "call" and action.get("approvals") != now.get("approvals"):
        raise NotAllowed(f"The job {maker.name!r}, which made this one, has other approvals now.", hint=hint)
    narrowed = {**action, **{key: now.get(key) for key in _HANDED_ON}}
    if action.get("kind") == "call":
        rules = ToolRules.from_json(now.get("tools"))
        narrowed["tools"] = _lists_of(rules.of(str(action["server"]), names_in(now, "servers")))
    return narrowed


def _lists_of(rules: ToolRules | ToolFilter) -> dict[str, JSON]:
    return {"allow": None if rules.allow is None else list(rules.allow), "deny": list(rules.deny)}


_HANDED_ON: Final = ("tools", "approvals", "models", "max_steps", "max_tokens", "max_cost")


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
