"""`sexton.toml`, read and checked once: frozen settings, or every problem at once.

`load_settings` promises that what it returns can be used without further checks: all
references resolve, every schedule has been parsed by the scheduler itself, and
every job names a server that exists.  A value from `${env:…}` or `${file:…}`
never stands in a repr, an error or a warning.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sexton.agent import AgentConfig
from sexton.daemon.references import expand_home, has_reference, resolve
from sexton.daemon.settings_channels import read_channels
from sexton.daemon.settings_endpoint import read_endpoint
from sexton.daemon.settings_file import RootTable, read_table
from sexton.daemon.settings_findings import Findings, texts_in
from sexton.daemon.settings_http import HttpSettings, read_http
from sexton.daemon.settings_jobs import known_zone, read_jobs
from sexton.daemon.settings_models import read_agent
from sexton.daemon.settings_node import NodeSettings, read_node
from sexton.daemon.settings_problems import Problem, SettingsError
from sexton.daemon.settings_servers import read_servers
from sexton.daemon.settings_targets import read_targets
from sexton.daemon.settings_telemetry import TelemetrySettings, read_telemetry
from sexton.daemon.toml_lines import KeyLines, KeyPath, scan_key_lines
from sexton.database import Location, PostgresUrl, is_postgres
from sexton.errors import UsageError
from sexton.gateway.channels import ChannelSetup
from sexton.gateway.deliveries import TargetConfig
from sexton.gateway.mcp_endpoint import EndpointSettings
from sexton.mcp_servers import ServerConfig
from sexton.redaction import SECRET_NAME
from sexton.scheduler import Job

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL|AUTHORIZATION", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that `sexton.toml` says.  Times are in seconds.

    `database` is the SQLite file or the address on PostgreSQL, None for the file in the data folder.
    `require_containment` names the weakest boundary to start with.
    `resources` are the concurrency limits by name: those of the table
    `[resources]`, and `server:NAME` for each server with a `concurrency`.
    `targets` and `channels` are where `deliver` can send to.
    `warnings` are things that work and that the reader should still know.
    `secrets` are the values that references stand for, and those of keys whose
    names say so.
    """

    path: Path
    http: HttpSettings
    telemetry: TelemetrySettings
    timezone: str
    concurrency: int
    drain_timeout: float
    database: Location | None
    require_containment: str | None
    resources: Mapping[str, int]
    servers: Mapping[str, ServerConfig]
    jobs: tuple[Job, ...]
    targets: Mapping[str, TargetConfig]
    channels: Mapping[str, ChannelSetup]
    endpoint: EndpointSettings
    agent: AgentConfig
    node: NodeSettings
    warnings: tuple[Problem, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def needs_restart(self, other: Settings) -> tuple[str, ...]:
        """The keys whose change only a restart brings into force."""
        keys = ("http", "telemetry", "concurrency", "database", "require_containment", "resources", "node")
        return tuple(key for key in keys if getattr(self, key) != getattr(other, key))


def load_settings(
    path: Path, *, environment: Mapping[str, str] | None = None, started_at: datetime | None = None
) -> Settings:
    """The settings in `path`.

    `environment` is what `${env:…}` reads (default: ours); `started_at` is
    what `at = "start"` means (default: now).  Raises SettingsError with all
    problems, UsageError where the file cannot be read.
    """
    text = _read(path)
    lines = scan_key_lines(text)
    raw = _parse(path, text, lines)
    findings = Findings(
        folder=path.resolve().parent, lines=lines, environment=os.environ if environment is None else environment
    )
    settings = _settings(path, raw, findings, started_at or datetime.now(UTC))
    if findings.problems:
        raise SettingsError(path, findings.problems)
    return settings


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be read: {problem.strerror}.", hint=f"look at its owner and mode: ls -l {path}"
        ) from problem
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise SettingsError(
            path, [Problem(line=line, path=(), what="is not UTF-8 text, which TOML has to be")]
        ) from problem


def _parse(path: Path, text: str, lines: KeyLines) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise SettingsError(path, [_syntax_problem(str(problem), text, lines)]) from problem


def _syntax_problem(said: str, text: str, lines: KeyLines) -> Problem:
    """`said` with its line; `tomllib` puts some faults at the end of the document, our scan knows better."""
    if lines.twice:
        key, line = lines.twice[0]
        first = lines.lines[key]
        return Problem(line=line, path=key, what=f"is given twice, first in line {first}; TOML allows each once")
    named = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", said)
    what = said[: named.start()] if named else said
    line = int(named[1]) if named and named[1] else lines.stopped_at or len(text.splitlines())
    shown = text.splitlines()[line - 1].strip() if line and line <= len(text.splitlines()) else ""
    return Problem(line=line, path=(), what=f"is no TOML: {what}{_syntax_advice(what, shown)}")


def _syntax_advice(what: str, shown: str) -> str:
    key = shown.partition("=")[0].strip()
    # The line itself stays out of the message: it may hold a secret.
    if what.startswith(("Invalid value", "Expected newline")) and key and "=" in shown:
        return f' for {key!r}; text needs quotes: {key} = "…"'
    if what.startswith("Expected '='"):
        return "; each line is a [table], or key = value"
    if what.startswith(("Unterminated string", "Illegal character '\\n'")):
        return "; a quote is opened and not closed in its line"
    if what.startswith("Unclosed inline table"):
        return "; { … } must stand in one line, use a [table] for more"
    return ""


def _settings(path: Path, raw: dict[str, Any], findings: Findings, started_at: datetime) -> Settings:
    root, wrong = read_table(RootTable, raw)
    findings.note((), wrong)
    tables = _tables(raw.get("servers"))
    zone = known_zone(findings, ("timezone",), raw.get("timezone", "UTC"))
    servers = {server.name: server for server in read_servers(findings, tables)}
    targets, channels = _tables(raw.get("targets")), _tables(raw.get("channels"))
    models = _tables(raw.get("models"))
    agent = read_agent(findings, models, _tables(raw.get("agent")), servers=tables)
    jobs = tuple(
        read_jobs(
            findings,
            _tables(raw.get("jobs")),
            servers=tables,
            models=models,
            targets={**targets, **channels},
            zone=zone,
            started_at=started_at,
        )
    )
    node = read_node(findings, raw.get("node"))
    http = read_http(findings, root.listen, raw.get("http"), raw.get("tls"))
    _warn_if_others_can_read(findings, path, raw)
    if not tables and not raw.get("jobs"):
        findings.warning((), "has neither servers nor jobs; add [servers.NAME], or: sexton servers import FILE")
    limits = {f"server:{name}": server.concurrency for name, server in servers.items() if server.concurrency}
    return Settings(
        path=path,
        http=http,
        telemetry=read_telemetry(findings, raw.get("telemetry")),
        timezone=zone,
        concurrency=root.concurrency,
        drain_timeout=root.drain_timeout,
        database=_database(findings, root.database) if root.database else None,
        require_containment=root.require_containment,
        resources={**root.resources, **limits},
        servers=servers,
        jobs=jobs,
        targets=dict(read_targets(findings, targets)),
        channels={
            setup.name: setup
            for setup in read_channels(findings, channels, targets=targets, servers=tables, models=models, agent=agent)
        },
        endpoint=read_endpoint(findings, raw.get("endpoint"), _tables(raw.get("profiles")), servers=tables),
        agent=agent,
        node=node,
        warnings=tuple(findings.warnings),
        secrets=frozenset(findings.secrets | set(_named_secrets(raw))),
    )


def _database(findings: Findings, written: str) -> Location | None:
    at = ("database",)
    spelt = partial(quote, safe=":,[]") if is_postgres(written) else str
    text = findings.resolved(at, written, spelt=spelt).removeprefix("sqlite:///")
    if not text:
        return None
    if is_postgres(text):
        return _postgres(findings, PostgresUrl(text))
    if "://" in text:
        kind = text.partition("://")[0]
        findings.problem(at, f"is a {kind} address; write the path of an SQLite file, or postgresql://USER@HOST/NAME")
        return None
    return findings.folder / expand_home(text)


def _postgres(findings: Findings, url: PostgresUrl) -> PostgresUrl:
    if trouble := url.trouble():
        findings.problem(("database",), trouble)
    findings.secrets |= url.secrets()
    return url


def _warn_if_others_can_read(findings: Findings, path: Path, raw: Mapping[str, Any]) -> None:
    mode = path.stat().st_mode
    if not mode & (stat.S_IRGRP | stat.S_IROTH):
        return
    who = "everybody" if mode & stat.S_IROTH else "its group"
    for at, text in texts_in((), raw):
        if _shows_secret(at, text):
            name = "PGPASSWORD" if at == ("database",) else at[-1]
            what = f'looks like a secret, and {who} can read this file; write "${{env:{name}}}" or: chmod 600 {path}'
            findings.warning(at, what)


def _shows_secret(at: KeyPath, text: str) -> bool:
    if at == ("database",):
        return is_postgres(text) and any(not has_reference(secret) for secret in PostgresUrl(text).secrets())
    name, table = str(at[-1]), at[-2] if len(at) > 1 else ""
    return table in {"env", "headers"} and bool(_SECRET_NAME.search(name) and text) and not has_reference(text)


def _named_secrets(raw: Mapping[str, Any]) -> Iterator[str]:
    """What stands in the file itself under a name such as API_KEY."""
    for at, text in texts_in((), raw):
        if SECRET_NAME.search(str(at[-1])) and not has_reference(text):
            yield text


def _tables(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def resolve_action(
    action: Mapping[str, Any], *, environment: Mapping[str, str], folder: Path, learn: Callable[[str], None]
) -> dict[str, Any]:
    """`action` of a configured job with its references put in, as it is handed to the run; `learn` is told each value.

    Raises ReferenceFails.
    """

    def change(text: str) -> str:
        return resolve(text, environment=environment, folder=folder, learn=learn)

    return cast("dict[str, Any]", _mapped(action, change))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, change) for inner in value]
    return value
