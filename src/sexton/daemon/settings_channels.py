"""The tables `[channels.NAME]`: chat platforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from sexton.daemon.settings_file import PositiveDuration, StrictTable, Text, read_table, valid_name
from sexton.daemon.settings_findings import Findings
from sexton.daemon.toml_lines import KeyPath
from sexton.errors import UsageError
from sexton.gateway.channels import AccessRules, ChannelKind, ChannelSetup, find_kind, kind_names


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


def read_channels(
    findings: Findings, tables: Mapping[str, Any], *, targets: Mapping[str, Any]
) -> Iterator[ChannelSetup]:
    """The channels that have the right shape; everything that is wrong goes to `findings`."""
    for name, raw in tables.items():
        at: KeyPath = ("channels", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if name in targets:
            findings.problem(at, f"has the name of [targets.{name}]; deliver needs one name for each")
        if isinstance(raw, dict):
            yield from _channel(findings, at, name, raw)
        else:
            findings.problem(at, f"must be a table: [channels.{name}]")


def _channel(findings: Findings, at: KeyPath, name: str, raw: Mapping[str, Any]) -> Iterator[ChannelSetup]:
    table, wrong = read_table(ChannelTable, {key: value for key, value in raw.items() if key in _COMMON})
    findings.note(at, wrong)
    kind = _kind(findings, at, name, raw)
    if kind is None or not table.enabled:
        return
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
        home=table.home,
        names=names,
        give_up_after=table.give_up_after,
    )


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
