"""The tables `[targets.NAME]` as configurations of targets, and what `deliver` may name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from sexton.daemon.references import expand_home
from sexton.daemon.settings_file import PositiveDuration, Size, StrictTable, Text, read_table, valid_name
from sexton.daemon.settings_findings import Findings
from sexton.daemon.settings_problems import did_you_mean, listed, nearest
from sexton.daemon.toml_lines import KeyPath
from sexton.gateway.deliveries import AppriseConfig, FileConfig, TargetConfig, WebhookConfig

_DAY = 86_400.0


class WebhookTable(StrictTable):
    """`[targets.NAME]` with a url"""

    type: Literal["webhook"] = "webhook"
    url: Text = ""
    secret: Text | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: Literal["json", "text"] = "json"
    timeout: PositiveDuration = 30.0
    give_up_after: PositiveDuration = _DAY


class FileTable(StrictTable):
    """`[targets.NAME]` with a path"""

    type: Literal["file"] = "file"
    path: Text = ""
    form: Literal["text", "jsonl"] = "text"
    max_size: Size = 16 << 20
    older: Annotated[int, Field(ge=0)] = 4
    give_up_after: PositiveDuration = _DAY


class AppriseTable(StrictTable):
    """`[targets.NAME]` with type = "apprise" """

    type: Literal["apprise"] = "apprise"
    url: Text = ""
    give_up_after: PositiveDuration = _DAY


_TYPES = ("webhook", "file", "apprise")


def read_targets(findings: Findings, tables: Mapping[str, Any]) -> Iterator[tuple[str, TargetConfig]]:
    """The targets that have the right shape; everything that is wrong goes to `findings`."""
    for name, raw in tables.items():
        at: KeyPath = ("targets", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if not isinstance(raw, dict):
            findings.problem(at, f"must be a table: [targets.{name}]")
            continue
        config = _target(findings, at, raw)
        if config is not None and not findings.has_problem_at(at):
            yield name, config


def check_deliver(findings: Findings, at: KeyPath, written: Any, *, names: Mapping[str, Any]) -> None:
    """Each of `deliver` must be NAME or NAME:RECIPIENT of a target or channel of this file."""
    if not isinstance(written, list):
        return  # its shape has been told already
    for place, target in enumerate(written):
        name = target.partition(":")[0] if isinstance(target, str) else ""
        if not name or name in names:
            continue
        advice = did_you_mean(name, names) or "; add a table [targets.NAME] or [channels.NAME]"
        findings.problem((*at, place), f"is {target!r}, and there is no target or channel {name!r}{advice}")


def _target(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> TargetConfig | None:
    match raw.get("type") or _guessed(raw):
        case "webhook":
            return _webhook(findings, at, raw)
        case "file":
            return _file(findings, at, raw)
        case "apprise":
            return _apprise(findings, at, raw)
        case None:
            _find_nothing(findings, at, raw)
        case other:
            near = f"; did you mean {found!r}?" if (found := nearest(str(other), _TYPES)) else ""
            platform = "; a chat platform is a table [channels.NAME]" if not near else ""
            findings.problem((*at, "type"), f"is {other!r}; allowed: {listed(_TYPES)}{near}{platform}")
    return None


def _find_nothing(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> None:
    """It says neither what it is nor where; most likely it says it with a slip of the keyboard."""
    slips = {key: near for key in raw if (near := nearest(key, ("url", "path", "type")))}
    for key, near in slips.items():
        findings.problem((*at, key), f"is an unknown key; did you mean {near!r}?")
    if not slips:
        findings.problem(at, 'has neither url nor path; add url = "https://…" for a webhook, path = "…" for a file')


def _guessed(raw: Mapping[str, Any]) -> str | None:
    if "url" in raw:
        return "webhook"
    return "file" if "path" in raw else None


def _webhook(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> WebhookConfig:
    table, wrong = read_table(WebhookTable, raw)
    findings.note(at, wrong)
    url = findings.resolved((*at, "url"), table.url)
    if not findings.has_problem_at((*at, "url")) and not re.match(r"https?://[^/\s]", url):
        findings.problem((*at, "url"), "must begin with http:// or https:// and name a host")
    return WebhookConfig(
        url=url,
        secret=findings.resolved((*at, "secret"), table.secret) if table.secret else None,
        headers={name: findings.resolved((*at, "headers", name), text) for name, text in table.headers.items()},
        body=table.body,
        timeout=table.timeout,
        give_up_after=table.give_up_after,
    )


def _file(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> FileConfig:
    table, wrong = read_table(FileTable, raw)
    findings.note(at, wrong)
    if not table.path and not wrong:
        findings.problem(at, 'has no path; add path = "…"')
    path = findings.folder / expand_home(findings.resolved((*at, "path"), table.path))
    if path.is_dir() and table.path:
        findings.problem((*at, "path"), f"is {table.path!r}, and {path} is a folder")
    return FileConfig(
        path=path,
        form=table.form,
        max_bytes=table.max_size,
        older=table.older,
        give_up_after=table.give_up_after,
    )


def _apprise(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> AppriseConfig:
    table, wrong = read_table(AppriseTable, raw)
    findings.note(at, wrong)
    if find_spec("apprise") is None:
        findings.problem((*at, "type"), "is 'apprise', which is not installed; run: pip install 'sexton[notify]'")
    url = findings.resolved((*at, "url"), table.url)
    if not findings.has_problem_at((*at, "url")) and "://" not in url:
        findings.problem(
            (*at, "url"), "must be an address of Apprise, such as ntfy://topic (https://github.com/caronc/apprise/wiki)"
        )
    return AppriseConfig(url=url, give_up_after=table.give_up_after)
