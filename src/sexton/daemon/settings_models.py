"""The tables `[models.NAME]` and `[agent]`, and what `[servers.NAME]` says of approvals, as `AgentConfig`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sexton.agent import BASE_URLS, AgentConfig, Approval, Budget, ModelConfig, Price, ServerApprovals
from sexton.daemon.settings_file import (
    ApprovalLevel,
    Count,
    Names,
    PositiveDuration,
    ServerTable,
    StrictTable,
    Text,
    read_table,
    valid_name,
)
from sexton.daemon.settings_findings import Findings
from sexton.daemon.settings_problems import did_you_mean
from sexton.daemon.toml_lines import KeyPath

_Money = Annotated[float, Field(ge=0)]


class PriceTable(StrictTable):
    """`price = { input = …, output = … }`, per million tokens."""

    input: _Money
    output: _Money
    cached_input: _Money | None = None


class ModelTable(StrictTable):
    """`[models.NAME]`; a file has to give the first two, which is checked before the shape is."""

    # Defaults all the same: a table with a mistake is read on without its wrong keys.
    provider: Literal["openai", "anthropic", "ollama", "openrouter"] = "openai"
    model: Text = "-"
    base_url: Text | None = None
    api_key: Text | None = None
    price: PriceTable | None = None
    max_output_tokens: Count | None = None
    context_window: Count = 128_000
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    timeout: PositiveDuration = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2


class AgentTable(StrictTable):
    """`[agent]`"""

    model: Names | None = None
    instructions: Text | None = None
    instructions_file: Text | None = None
    servers: list[Text] | None = None
    approvals: ApprovalLevel = "destructive"
    approval_timeout: PositiveDuration = 600.0
    max_steps: Count = 50
    max_tokens: Count | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    turn_timeout: PositiveDuration | None = 1800.0
    result_limit: Annotated[int, Field(ge=500)] = 16_000
    search_above: Count = 40
    compact_above: Annotated[float, Field(gt=0, le=1)] = 0.6


def read_agent(
    findings: Findings, models: Mapping[str, Any], agent: Mapping[str, Any], *, servers: Mapping[str, Any]
) -> AgentConfig:
    """What the file says of models and agents; everything that is wrong goes to `findings`."""
    known = {model.name: model for model in _models(findings, models)}
    table, wrong = read_table(AgentTable, agent)
    findings.note(("agent",), wrong)
    chain = tuple(table.model) if table.model else tuple(models)[:1]
    for name in chain:
        if name not in models:
            near = did_you_mean(name, models) or "; add [models.NAME]"
            findings.problem(("agent", "model"), f"names the model {name!r}, which is not in this file{near}")
    for place, server in enumerate(table.servers or ()):
        if server not in servers:
            near = did_you_mean(server, servers)
            findings.problem(("agent", "servers", place), f"names the server {server!r}, which is not there{near}")
    return AgentConfig(
        models=known,
        chain=chain,
        instructions=_instructions(findings, table),
        approvals=Approval(table.approvals),
        approval_timeout=table.approval_timeout,
        server_approvals=dict(_server_approvals(servers)),
        budget=Budget(
            max_steps=table.max_steps,
            max_tokens=table.max_tokens,
            max_cost=table.max_cost,
            timeout=table.turn_timeout,
        ),
        result_limit=table.result_limit,
        search_above=table.search_above,
        compact_above=table.compact_above,
        chat_servers=None if table.servers is None else tuple(table.servers),
    )


def _models(findings: Findings, tables: Mapping[str, Any]) -> Iterator[ModelConfig]:
    for name, raw in tables.items():
        at: KeyPath = ("models", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if not isinstance(raw, dict):
            findings.problem(at, f"must be a table: [models.{name}]")
            continue
        missing = [key for key in ("provider", "model") if key not in raw]
        for key in missing:
            findings.problem(at, f"has no {key}; add {_EXAMPLES[key]}")
        if missing:
            continue
        table, wrong = read_table(ModelTable, raw)
        findings.note(at, wrong)
        if not wrong:
            yield _model(findings, at, name, table)


_EXAMPLES = {
    "provider": f'provider = "openai" (allowed: {", ".join(BASE_URLS)})',
    "model": 'model = "gpt-5-mini", the name by which the provider knows it',
}


def _model(findings: Findings, at: KeyPath, name: str, table: ModelTable) -> ModelConfig:
    url = findings.resolved((*at, "base_url"), table.base_url) if table.base_url else BASE_URLS[table.provider]
    if url and not re.match(r"https?://[^/\s]", url):
        findings.problem((*at, "base_url"), "must begin with http:// or https:// and name a host")
    if table.api_key is None and table.base_url is None and table.provider != "ollama":
        what = f'has no api_key, and {BASE_URLS[table.provider]} needs one; add api_key = "${{env:NAME}}"'
        findings.problem(at, what)
    price = table.price
    return ModelConfig(
        name=name,
        provider=table.provider,
        model=table.model,
        base_url=url,
        api_key=findings.resolved((*at, "api_key"), table.api_key) if table.api_key else None,
        price=None if price is None else Price(**price.model_dump()),
        max_output_tokens=table.max_output_tokens,
        context_window=table.context_window,
        temperature=table.temperature,
        timeout=table.timeout,
        retries=table.retries,
    )


def _instructions(findings: Findings, table: AgentTable) -> str:
    if table.instructions_file is None:
        return table.instructions or ""
    path = Path(findings.path_of(table.instructions_file))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        findings.problem(
            ("agent", "instructions_file"), f"is {table.instructions_file!r}, which cannot be read: {error}"
        )
        return ""
    return "\n\n".join(filter(None, [table.instructions, text]))


def _server_approvals(servers: Mapping[str, Any]) -> Iterator[tuple[str, ServerApprovals]]:
    for name, raw in servers.items():
        if not isinstance(raw, dict):
            continue
        table, _ = read_table(ServerTable, {key: raw[key] for key in ("approvals", "approve") if key in raw})
        tools = {pattern: Approval(level) for pattern, level in table.approve.items()}
        yield name, ServerApprovals(level=Approval(table.approvals), tools=tools)
