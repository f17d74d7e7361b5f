"""The tables `[jobs.NAME]` as `Job`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from sexton.daemon.quantities import parse_duration
from sexton.daemon.references import expand_home, has_reference
from sexton.daemon.settings_file import JobTable, ServerTable, read_table, valid_name
from sexton.daemon.settings_findings import Findings
from sexton.daemon.settings_problems import did_you_mean, nearest
from sexton.daemon.settings_servers import tool_filter
from sexton.daemon.settings_targets import check_deliver
from sexton.daemon.toml_lines import KeyPath
from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.scheduler import (
    At,
    CatchUp,
    Cron,
    DeliverOn,
    Every,
    Job,
    OnInterrupted,
    Origin,
    Overlap,
    Schedule,
    check_job,
)

Action = Mapping[str, JSON]
PROMPT_KEYS = (
    "servers",
    "model",
    "instructions",
    "output_schema",
    "max_steps",
    "max_tokens",
    "max_cost",
    "tools",
    "approvals",
    "may",
    "send_to",
)
_START = re.compile(r"start(?:\s*\+\s*(?P<after>.+))?")


def read_jobs(
    findings: Findings,
    tables: Mapping[str, Any],
    *,
    servers: Mapping[str, Any],
    targets: Mapping[str, Any],
    models: Mapping[str, Any],
    zone: str,
    started_at: datetime,
) -> Iterator[Job]:
    """The jobs that have the right shape; everything that is wrong goes to `findings`.

    `servers` and `models` are the raw tables of those, `targets` those that `deliver` may name, `zone` the time zone of
    jobs that name none, `started_at` what `at = "start"` means.
    """
    reader = _JobReader(findings=findings, servers=servers, models=models, targets=targets, started_at=started_at)
    for name, raw in tables.items():
        at: KeyPath = ("jobs", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if isinstance(raw, dict):
            yield from reader.job(at, name, raw, zone)
        else:
            findings.problem(at, f"must be a table: [jobs.{name}]")


def known_zone(findings: Findings, at: KeyPath, name: object) -> str:
    """`name` if this machine knows that time zone, else UTC and a problem; a wrong type has been told already."""
    zones = available_timezones()
    if not isinstance(name, str) or name in zones:
        return name if isinstance(name, str) else "UTC"
    by_city = {zone.rpartition("/")[2]: zone for zone in sorted(zones)}
    near = nearest(name, zones) or by_city.get(nearest(name, by_city) or "")
    advice = f"; did you mean {near!r}?" if near else "; it looks like 'Europe/Amsterdam' or 'UTC'"
    findings.problem(at, f"is {name!r}, which is no time zone of this machine{advice}")
    return "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobReader:
    findings: Findings
    servers: Mapping[str, Any]
    targets: Mapping[str, Any]
    models: Mapping[str, Any]
    started_at: datetime

    def job(self, at: KeyPath, name: str, raw: Mapping[str, Any], zone: str) -> Iterator[Job]:
        table, wrong = read_table(JobTable, raw)
        self.findings.note(at, wrong)
        own_zone = known_zone(self.findings, (*at, "timezone"), raw["timezone"]) if "timezone" in raw else zone
        schedule = self.schedule(at, raw, own_zone)
        action = self.action(at, raw)
        check_deliver(self.findings, (*at, "deliver"), raw.get("deliver", []), names=self.targets)
        if action is None or self.findings.has_problem_at(at):
            return
        job = _job(name, table, schedule, own_zone, action)
        try:
            check_job(job)
        except SextonError as problem:
            self.findings.problem(at, f"is not usable: {problem}")
        else:
            yield job

    # -- when

    def schedule(self, at: KeyPath, raw: Mapping[str, Any], zone: str) -> Schedule | None:
        """What `every`, `cron` or `at` says; none of them: the job runs by hand only."""
        given = [key for key in ("every", "cron", "at") if key in raw]
        if len(given) > 1:
            self.findings.problem(
                (*at, given[1]), f"stands beside {given[0]}; a job has one of 'every', 'cron', 'at', or none"
            )
        match given:
            case ["every"]:
                return self.checked((*at, "every"), zone, lambda: Every(seconds=parse_duration(raw["every"])))
            case ["cron"]:
                return self.checked((*at, "cron"), zone, lambda: Cron(expression=raw["cron"]))
            case ["at"]:
                return self.checked((*at, "at"), zone, lambda: At(time=self.moment(raw["at"], zone)))
        return None

    def checked(self, at: KeyPath, zone: str, read: Callable[[], Schedule]) -> Schedule | None:
        """The schedule, checked by the scheduler's own parser."""
        if self.findings.has_problem_at(at):
            return None  # its shape is wrong already
        try:
            schedule = read()
            check_job(Job(name=str(at[1]), schedule=schedule, timezone=zone))
        except SextonError as problem:
            advice = f"; {problem.hint}" if problem.hint else ""
            self.findings.problem(at, f"is not usable: {problem.what.removesuffix('.')}{advice}")
            return None
        except ValueError as problem:
            self.findings.problem(at, str(problem))
            return None
        return schedule

    def moment(self, value: str | datetime, zone: str) -> datetime:
        """A date and time, in `zone` unless it names its own offset; `start + 5s` counts from the gateway's start."""
        if isinstance(value, str) and (start := _START.fullmatch(value.strip())):
            return self.started_at + timedelta(seconds=parse_duration(start["after"]) if start["after"] else 0)
        if isinstance(value, str):
            value = _read_moment(value)
        return value if value.tzinfo else value.replace(tzinfo=ZoneInfo(zone))

    # -- what

    def action(self, at: KeyPath, raw: Mapping[str, Any]) -> Action | None:
        given = [key for key in ("call", "command", "prompt") if key in raw]
        match given:
            case ["call"]:
                return self.call(at, raw)
            case ["command"]:
                return self.command(at, raw)
            case ["prompt"]:
                return self.prompt(at, raw)
            case []:
                what = 'does nothing; add call = "server.tool", command = ["program", "argument"] or prompt = "…"'
                self.findings.problem(at, what)
            case [first, second, *_]:
                self.findings.problem((*at, second), f"stands beside {first}; a job does one thing")
        return None

    def call(self, at: KeyPath, raw: Mapping[str, Any]) -> Action | None:
        for key in ("env", "cwd"):
            if key in raw:
                self.findings.problem((*at, key), "belongs to command; for a call, set it at the server")
        self.refuse_prompt_keys(at, raw, "call")
        arguments = raw.get("arguments", {})
        self.findings.check_references((*at, "arguments"), arguments)
        written = raw["call"]
        if not isinstance(written, str) or not self.is_known_call((*at, "call"), written):
            return None
        server, _, tool = written.partition(".")
        return {"kind": "call", "server": server, "tool": tool, "arguments": _as_json(arguments)}

    def is_known_call(self, place: KeyPath, written: str) -> bool:
        """Whether `server.tool` names a server of this file, and a tool that its filter lets through."""
        server, _, tool = written.partition(".")
        if not (server and tool):
            self.findings.problem(
                place, f'is {written!r}; it must be "server.tool"{did_you_mean(server, self.servers)}'
            )
            return False
        if server not in self.servers:
            near = did_you_mean(server, self.servers)
            self.findings.problem(place, f"names the server {server!r}, which is not in this file{near}")
            return False
        raw = self.servers[server]
        if isinstance(raw, dict):
            self.check_tool(place, server, tool, raw)
        return True

    def check_tool(self, place: KeyPath, server: str, tool: str, raw: Mapping[str, Any]) -> None:
        if raw.get("enabled") is False:
            self.findings.problem(place, f"names the server {server!r}, which has enabled = false")
        table, wrong = read_table(ServerTable, {"tools": raw.get("tools", {})})
        if not wrong and not tool_filter(table.tools).admits(tool):
            near = did_you_mean(tool, table.tools.allow or ())
            self.findings.problem(place, f"names the tool {tool!r}, which servers.{server}.tools keeps out{near}")

    def command(self, at: KeyPath, raw: Mapping[str, Any]) -> Action | None:
        if "arguments" in raw:
            self.findings.problem((*at, "arguments"), "belongs to call; for a command, write them in its list")
        self.refuse_prompt_keys(at, raw, "command")
        argv, env, cwd = raw["command"], raw.get("env", {}), raw.get("cwd")
        self.findings.check_references((*at, "env"), env)
        folder = self.findings.working_folder((*at, "cwd"), cwd if isinstance(cwd, str) else None)
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
            return None
        if not argv:
            self.findings.problem((*at, "command"), 'is empty; write command = ["program", "argument"]')
            return None
        self.findings.check_references((*at, "command"), argv)
        return {"kind": "command", "argv": self.words(argv), "env": _as_json(env), "cwd": str(folder)}

    def prompt(self, at: KeyPath, raw: Mapping[str, Any]) -> Action | None:
        """What an agent is asked to do; which models there are is checked when all tables are read."""
        for key in ("arguments", "env", "cwd"):
            if key in raw:
                self.findings.problem((*at, key), "has no meaning for a prompt")
        table, wrong = read_table(JobTable, raw)
        for place, server in enumerate(table.servers):
            self.check_server((*at, "servers", place), server)
        for path, model in self.named_models(at, raw, table.model):
            if model not in self.models:
                near = did_you_mean(model, self.models)
                self.findings.problem(path, f"names the model {model!r}, which is not in this file{near}")
        self.findings.check_references((*at, "prompt"), raw["prompt"])
        self.check_sending(at, raw)
        if wrong or table.prompt is None:
            return None
        return prompt_action(table)

    def check_sending(self, at: KeyPath, raw: Mapping[str, Any]) -> None:
        """Who may send says to whom, and the other way round."""
        check_deliver(self.findings, (*at, "send_to"), raw.get("send_to", []), names=self.targets)
        may_send = isinstance(raw.get("may"), list) and "send" in raw["may"]
        if may_send and not (raw.get("send_to") or raw.get("deliver")):
            what = 'has "send", and nobody is named to send to; add send_to = ["NAME"], or deliver'
            self.findings.problem((*at, "may"), what)
        if raw.get("send_to") and not may_send:
            self.findings.problem((*at, "send_to"), 'has no effect without may = ["send"]')

    def named_models(
        self, at: KeyPath, raw: Mapping[str, Any], models: list[str] | None
    ) -> Iterator[tuple[KeyPath, str]]:
        for place, model in enumerate(models or ()):
            yield ((*at, "model", place) if isinstance(raw["model"], list) else (*at, "model")), model

    def check_server(self, place: KeyPath, server: str) -> None:
        if server not in self.servers:
            near = did_you_mean(server, self.servers)
            self.findings.problem(place, f"names the server {server!r}, which is not in this file{near}")
        elif isinstance(raw := self.servers[server], dict) and raw.get("enabled") is False:
            self.findings.problem(place, f"names the server {server!r}, which has enabled = false")

    def refuse_prompt_keys(self, at: KeyPath, raw: Mapping[str, Any], kind: str) -> None:
        for key in PROMPT_KEYS:
            if key in raw:
                self.findings.problem((*at, key), f"belongs to prompt and has no meaning for a {kind}")

    def words(self, argv: list[str]) -> list[JSON]:
        """The program from the folder of the file, as for a server; references stay, they are put in at each run."""
        program = expand_home(argv[0])
        if "/" in program and not has_reference(program):
            program = self.findings.path_of(program)
        return [program, *(expand_home(word) for word in argv[1:])]


def _job(name: str, table: JobTable, schedule: Schedule | None, zone: str, action: Action) -> Job:
    return Job(
        name=name,
        schedule=schedule,
        timezone=zone,
        jitter=table.jitter,
        action=action,
        overlap=Overlap(table.overlap),
        catch_up=CatchUp(table.catch_up),
        catch_up_window=table.catch_up_window,
        retries=table.retries,
        retry_backoff=table.retry_backoff,
        timeout=table.timeout,
        idle_timeout=table.idle_timeout,
        priority=table.priority,
        concurrency=table.concurrency,
        resources=(*table.resources, *(f"server:{server}" for server in _servers_of(action))),
        on_interrupted=OnInterrupted(table.on_interrupted),
        paused=table.paused,
        origin=Origin.CONFIG,
        deliver=tuple(table.deliver),
        deliver_on=DeliverOn(table.deliver_on),
        node=table.node,
        labels=tuple(table.labels),
    )


def prompt_action(table: JobTable) -> Action:
    """What a job with a prompt does, as it is kept with the job; `sexton.actions.prompt` reads it."""
    tools = table.tools
    return {
        "kind": "prompt",
        "prompt": table.prompt,
        "servers": list(table.servers),
        "models": None if table.model is None else list(table.model),
        "instructions": table.instructions or "",
        "output_schema": _as_json(table.output_schema) or None,
        "max_steps": table.max_steps,
        "max_tokens": table.max_tokens,
        "max_cost": table.max_cost,
        "tools": {"allow": None if tools.allow is None else list(tools.allow), "deny": list(tools.deny)},
        "approvals": table.approvals,
        "may": list[JSON](table.may),
        "send_to": list[JSON](table.send_to),
    }


def _servers_of(action: Action) -> tuple[str, ...]:
    match action:
        case {"server": str(server)}:
            return (server,)
        case {"servers": list(servers)}:
            return tuple(map(str, servers))
    return ()


def _read_moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f'is {text!r}, which is no date and time; write "2026-12-24 18:00", "2026-12-24T18:00:00+01:00"'
            ' or "start + 5s"'
        ) from None


def _as_json(value: Any) -> JSON:
    """TOML's dates and times as JSON can hold them."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    return cast("JSON", value)
