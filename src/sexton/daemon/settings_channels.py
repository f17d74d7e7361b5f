"""The tables `[channels.NAME]`: chat platforms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field

from sexton.agent import AgentConfig, Approval, Budget, ChatSettings, ToolRules
from sexton.daemon.settings_file import (
    ApprovalLevel,
    Count,
    DurationOrNever,
    Names,
    PositiveDuration,
    StrictTable,
    Text,
    ToolsTable,
    read_table,
    valid_name,
)
from sexton.daemon.settings_findings import Findings
from sexton.daemon.settings_problems import did_you_mean
from sexton.daemon.toml_lines import KeyPath
from sexton.errors import UsageError
from sexton.gateway.channels import AccessRules, ChannelKind, ChannelSetup, find_kind, kind_names

May: TypeAlias = Literal["jobs", "memory", "send"]


class ChannelTable(StrictTable):
    """The keys of `[channels.NAME]` that every platform has"""

    type: Text | None = None
    enabled: bool = True
    allow: list[Text] = Field(default_factory=list)
    strangers: Literal["tell", "ignore"] | None = None
    when_busy: Literal["queue", "interrupt", "steer"] = "queue"
    home: Text | None = None
    names: dict[str, Text] = Field(default_factory=dict)
    give_up_after: PositiveDuration = 86_400.0
    progress: DurationOrNever = 20.0
    model: Names | None = None
    instructions: Text | None = None
    servers: list[Text] | None = None
    tools: ToolsTable = ToolsTable()
    approvals: ApprovalLevel | None = None
    may: list[May] = Field(default_factory=lambda: list(get_args(May)))
    max_steps: Count | None = None
    max_tokens: Count | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    turn_timeout: PositiveDuration | None = None


def read_channels(
    findings: Findings,
    tables: Mapping[str, Any],
    *,
    targets: Mapping[str, Any],
    servers: Mapping[str, Any],
    models: Mapping[str, Any],
    agent: AgentConfig,
) -> Iterator[ChannelSetup]:
    """The channels that have the right shape; everything that is wrong goes to `findings`."""
    for name, raw in tables.items():
        at: KeyPath = ("channels", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if name in targets:
            findings.problem(at, f"has the name of [targets.{name}]; deliver needs one name for each")
        if isinstance(raw, dict):
            yield from _channel(findings, at, name, raw, servers=servers, models=models, agent=agent)
        else:
            findings.problem(at, f"must be a table: [channels.{name}]")


def _channel(
    findings: Findings,
    at: KeyPath,
    name: str,
    raw: Mapping[str, Any],
    *,
    servers: Mapping[str, Any],
    models: Mapping[str, Any],
    agent: AgentConfig,
) -> Iterator[ChannelSetup]:
    table, wrong = read_table(ChannelTable, {key: value for key, value in raw.items() if key in _COMMON})
    findings.note(at, wrong)
    kind = _kind(findings, at, name, raw)
    if kind is None or not table.enabled:
        return
    _check_names(findings, (*at, "servers"), "server", table.servers or (), servers, raw.get("servers"))
    _check_names(findings, (*at, "model"), "model", table.model or (), models, raw.get("model"))
    own = {key: _resolved(findings, (*at, key), value) for key, value in raw.items() if key not in _COMMON}
    options, wrong = read_table(kind.options, own)
    findings.note(at, wrong)
    _check_missing(findings, at, kind, own)
    if findings.has_problem_at(at):
        return
    names = dict(table.names)
    allow = frozenset(names.get(one, one) for one in table.allow)
    forged = kind.forged(options)
    if forged is not None and allow:
        findings.warning((*at, "allow"), forged)
    yield ChannelSetup(
        name=name,
        kind=kind.name,
        options=options,
        rules=AccessRules(allow=allow, tell_strangers=(table.strangers or kind.strangers) == "tell"),
        when_busy=table.when_busy,
        settings=_settings(table, agent.budget),
        home=table.home,
        names=names,
        give_up_after=table.give_up_after,
        progress=table.progress,
    )


def _settings(table: ChannelTable, usual: Budget) -> ChatSettings:
    """What a chat there may do; what is not said is as `[agent]` says."""
    said: dict[str, Any] = {"max_steps": table.max_steps, "max_tokens": table.max_tokens, "max_cost": table.max_cost}
    limits = {key: value for key, value in {**said, "timeout": table.turn_timeout}.items() if value is not None}
    allow = table.tools.allow
    return ChatSettings(
        models=None if table.model is None else tuple(table.model),
        servers=None if table.servers is None else tuple(table.servers),
        tools=ToolRules(allow=None if allow is None else tuple(allow), deny=tuple(table.tools.deny)),
        approvals=None if table.approvals is None else Approval(table.approvals),
        budget=replace(usual, **limits) if limits else None,
        instructions=table.instructions or "",
        may=tuple(table.may),
    )


def _check_names(
    findings: Findings, at: KeyPath, what: str, named: Iterable[str], known: Mapping[str, Any], raw: object
) -> None:
    for place, name in enumerate(named):
        if name not in known:
            near = did_you_mean(name, known)
            where = (*at, place) if isinstance(raw, list) else at
            findings.problem(where, f"names the {what} {name!r}, which is not in this file{near}")


_COMMON = frozenset(ChannelTable.model_fields)


def _kind(findings: Findings, at: KeyPath, name: str, raw: Mapping[str, Any]) -> ChannelKind | None:
    said = raw.get("type")
    if said is None and name not in kind_names():
        listed = ", ".join(repr(one) for one in kind_names())
        findings.problem(at, f'has no type; add type = "…", one of {listed}')
        return None
    if said is not None and not isinstance(said, str):
        return None  # That is told already.
    try:
        return find_kind(said or name)
    except UsageError as error:
        findings.problem((*at, "type") if said else at, error.what)
        return None


def _resolved(findings: Findings, at: KeyPath, value: Any) -> Any:
    """With references put in, also within lists and tables."""
    if isinstance(value, str):
        return findings.resolved(at, value)
    if isinstance(value, list):
        return [_resolved(findings, (*at, place), inner) for place, inner in enumerate(value)]
    if isinstance(value, dict):
        return {key: _resolved(findings, (*at, key), inner) for key, inner in value.items()}
    return value


def _check_missing(findings: Findings, at: KeyPath, kind: ChannelKind, own: Mapping[str, Any]) -> None:
    for key in kind.needs:
        if not own.get(key) and not findings.has_problem_at((*at, key)):
            findings.problem(at, f'has no {key}; a channel of type {kind.name!r} needs {key} = "…"')
