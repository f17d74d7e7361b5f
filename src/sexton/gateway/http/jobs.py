"""Jobs: what is to run, when, and by hand now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator
from starlette.requests import Request

from sexton.gateway.documents import JobDocument, NextDocument, RunDocument, TimesDocument
from sexton.gateway.http.audit import about
from sexton.gateway.http.body import RequestBody, read_body, read_count
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import Problem, bad_request, not_found
from sexton.gateway.http.runs import run_document
from sexton.gateway.http.servers import known_server
from sexton.scheduler import Job, JobStatus, Origin, from_document, to_document

MAX_NEXT = 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
Seconds = Annotated[float, Field(ge=0)]


class ScheduleRequest(RequestBody):
    """Exactly one of: `every` in seconds, a `cron` expression, a time `at` (ISO 8601 with an offset)."""

    every: float | None = Field(default=None, ge=1)
    cron: str | None = None
    at: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ScheduleRequest:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of every, cron, at")
        return self


class CallAction(RequestBody):
    kind: Literal["call"]
    server: str
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    def resources(self) -> tuple[str, ...]:
        """The server's own limit on concurrent runs, where it has one, goes by this name."""
        return (f"server:{self.server}",)


class CommandAction(RequestBody):
    kind: Literal["command"]
    argv: list[str] = Field(min_length=1)
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)

    def resources(self) -> tuple[str, ...]:
        return ()


class PromptTools(RequestBody):
    allow: list[str] | None = None
    deny: list[str] = Field(default_factory=list)


class PromptAction(RequestBody):
    """One turn of an agent with the tools of `servers`; None is what `[agent]` says.

    `may` names what of Sexton's own tools it has; messages go to `send_to` and `deliver` only.
    """

    kind: Literal["prompt"]
    prompt: str = Field(min_length=1)
    servers: list[str] = Field(default_factory=list)
    models: list[str] | None = None
    instructions: str = ""
    output_schema: dict[str, Any] | None = None
    max_steps: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    tools: PromptTools = Field(default_factory=PromptTools)
    approvals: Literal["never", "destructive", "always"] = "never"
    may: list[Literal["runs", "jobs", "memory", "send"]] = Field(default_factory=list)
    send_to: list[str] = Field(default_factory=list)

    def resources(self) -> tuple[str, ...]:
        return tuple(f"server:{server}" for server in self.servers)


class JobRequest(RequestBody):
    """A job as `sexton jobs add` and others hand it in.  Without a schedule it only runs by hand.  Times in seconds."""

    name: str
    schedule: ScheduleRequest | None = None
    action: Annotated[CallAction | CommandAction | PromptAction, Field(discriminator="kind")]
    timezone: str = "UTC"
    jitter: Seconds = 0
    overlap: Literal["skip", "queue", "replace", "parallel"] = "skip"
    catch_up: Literal["none", "latest", "all"] = "latest"
    catch_up_window: Seconds = 86400
    retries: int = Field(default=0, ge=0)
    retry_backoff: Seconds = 1.0
    timeout: float | None = Field(default=None, gt=0)
    idle_timeout: float | None = Field(default=None, gt=0)
    priority: int = 0
    concurrency: int = Field(default=1, ge=1)
    resources: list[str] = Field(default_factory=list)
    on_interrupted: Literal["record", "rerun"] = "record"
    paused: bool = False
    deliver: list[str] = Field(default_factory=list)
    deliver_on: Literal["always", "output", "success", "failure"] = "always"
    node: str | None = None
    labels: list[str] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no usable name: a letter, digit or '_', then letters, digits, '.', '-' and '_', "
                "not longer than 64"
            )
        if "__" in name:
            raise ValueError("'__' cannot stand in a name")
        return name

    def job(self) -> Job:
        """The scheduler's job.  Raises `UsageError` for a schedule or a time zone that cannot be meant."""
        document = self.model_dump(exclude_unset=True) | {"action": self.action.model_dump()}
        resources = [*self.resources, *self.action.resources()]
        return from_document(document | {"resources": resources, "origin": "runtime"})


async def list_jobs(gateway: Gateway, _: Request) -> Sequence[JobDocument]:
    """Every job, by name."""
    return [job_document(status) for status in sorted(await gateway.scheduler.jobs(), key=lambda one: one.job.name)]


async def show_job(gateway: Gateway, request: Request) -> JobDocument:
    """One job, with its waiting and running runs and its last one."""
    return job_document(await _known_job(gateway, request))


async def add_job(gateway: Gateway, request: Request) -> JobDocument:
    """Add a job.  409 if there is one of that name."""
    asked = await read_body(request, JobRequest)
    about(request, asked.name)
    if any(status.job.name == asked.name for status in await gateway.scheduler.jobs()):
        raise Problem(
            status=409,
            kind="exists",
            what=f"There is a job {asked.name!r} already.",
            hint=f"choose another name, or remove it first: sexton jobs remove {asked.name}",
        )
    return await _put(gateway, asked)


async def replace_job(gateway: Gateway, request: Request) -> JobDocument:
    """Add the job or put it in the place of the one with its name, unless that one stands in the config file."""
    asked = await read_body(request, JobRequest)
    if asked.name != request.path_params["job"]:
        raise bad_request(f"The body names the job {asked.name!r}, the path {request.path_params['job']!r}.")
    for status in await gateway.scheduler.jobs():
        if status.job.name == asked.name:
            refuse_configured(gateway, status.job)
    return await _put(gateway, asked)


async def remove_job(gateway: Gateway, request: Request) -> JobDocument:
    """Remove a job that was added at run time; answers with what it was."""
    status = await _known_job(gateway, request)
    refuse_configured(gateway, status.job)
    await gateway.scheduler.remove_job(status.job.name)
    return job_document(status)


async def pause_job(gateway: Gateway, request: Request) -> JobDocument:
    """Let slots pass unused until the job is resumed; runs that are under way go on."""
    name = (await _known_job(gateway, request)).job.name
    await gateway.scheduler.pause(name)
    return job_document(await _known_job(gateway, request))


async def resume_job(gateway: Gateway, request: Request) -> JobDocument:
    """Let the job start again at its times; the slots that passed are recorded as skipped."""
    name = (await _known_job(gateway, request)).job.name
    await gateway.scheduler.resume(name)
    return job_document(await _known_job(gateway, request))


async def run_job(gateway: Gateway, request: Request) -> RunDocument:
    """Run it now, whatever its schedule says; answers at once with the new run."""
    name = (await _known_job(gateway, request)).job.name
    return run_document(await gateway.scheduler.run_now(name))


async def next_times(gateway: Gateway, request: Request) -> NextDocument:
    """When the job starts next: `count` (query, default 5) times, in UTC."""
    job = (await _known_job(gateway, request)).job
    count = read_count(request, "count", default=5, most=MAX_NEXT)
    times = await gateway.scheduler.next_times(job, count)
    return NextDocument(
        job=job.name, timezone=job.timezone, paused=job.paused, times=[time.isoformat() for time in times]
    )


async def try_schedule(gateway: Gateway, request: Request) -> TimesDocument:
    """When a job with the schedule `every`, `cron` or `at` would start, without making one.  With none: never."""
    query = request.query_params
    schedule: dict[str, Any] = {kind: query[kind] for kind in ("cron", "at") if kind in query}
    if "every" in query:
        schedule["every"] = _read_seconds(query["every"])
    job = from_document({"name": "trial", "schedule": schedule or None, "timezone": query.get("timezone", "UTC")})
    times = await gateway.scheduler.next_times(job, read_count(request, "count", default=5, most=MAX_NEXT))
    return TimesDocument(times=[time.isoformat() for time in times])


def _read_seconds(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        raise bad_request(f"The query parameter every must be a number of seconds, not {said!r}.") from None


async def _known_job(gateway: Gateway, request: Request) -> JobStatus:
    name, jobs = request.path_params["job"], await gateway.scheduler.jobs()
    for status in jobs:
        if status.job.name == name:
            return status
    raise not_found("job", name, [status.job.name for status in jobs], listing="sexton jobs")


async def _put(gateway: Gateway, asked: JobRequest) -> JobDocument:
    if isinstance(asked.action, CallAction):
        await _check_tool(gateway, asked.action)
    if isinstance(asked.action, PromptAction):
        _check_prompt(gateway, asked.action)
    for target in asked.deliver:
        gateway.deliveries.check(target)
    await gateway.scheduler.put_job(asked.job())
    return next(job_document(one) for one in await gateway.scheduler.jobs() if one.job.name == asked.name)


async def _check_tool(gateway: Gateway, action: CallAction) -> None:
    """Refuse a server that is not there, and a tool that it did not have when it last ran or may not be used."""
    server = action.server
    known_server(gateway, server)
    if gateway.pool.known_tools(server) is None:
        return  # it never ran: nobody knows yet, and a job is no reason to start it
    usable = [tool.name for tool in await gateway.pool.tools(server)]
    if action.tool not in usable:
        listing = f"sexton servers tools {server}; if it is new: sexton servers check {server}"
        raise not_found(f"usable tool of server {server!r} named", action.tool, usable, listing=listing)


def _check_prompt(gateway: Gateway, action: PromptAction) -> None:
    """Refuse servers and models that are not there.  Without any model the job is taken: it tells when it runs."""
    for server in action.servers:
        known_server(gateway, server)
    known = gateway.chats.config.models
    for model in action.models or ():
        if model not in known:
            raise not_found("model", model, known, listing="[models] in sexton.toml")
    for target in action.send_to:
        gateway.deliveries.check(target)


def refuse_configured(gateway: Gateway, job: Job) -> None:
    """Raise `Problem` 409 for a job that stands in the config file: it is changed there."""
    if job.origin is Origin.CONFIG:
        place = gateway.config_path or "the config file"
        raise Problem(
            status=409,
            kind="configured",
            what=f"The job {job.name!r} stands in {place}; what is written there decides.",
            hint=f"change [jobs.{job.name}] in that file (it is read again at once), or pause it: "
            f"sexton jobs pause {job.name}",
        )


def job_document(status: JobStatus) -> JobDocument:
    document = to_document(status.job) | {
        "paused_since": status.paused_at.isoformat() if status.paused_at else None,
        "next_run": status.next_at.isoformat() if status.next_at else None,
        "active_runs": [run_document(run) for run in status.active],
        "last_run": run_document(status.last) if status.last else None,
    }
    return cast("JobDocument", document)
