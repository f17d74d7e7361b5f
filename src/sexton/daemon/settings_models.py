"""The tables `[models.NAME]` and `[agent]`, and what `[servers.NAME]` says of approvals, as `AgentConfig`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sexton.agent import BASE_URLS, LOCAL_URL, AgentConfig, Approval, Budget, ModelConfig, Price, ServerApprovals
from sexton.daemon.references import expand_home
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
from sexton.local_models import EXTRA, MODEL_FILES, LocalModel, is_installed

_Money = Annotated[float, Field(ge=0)]


class PriceTable(StrictTable):
    """`price = { input = …, output = … }`, per million tokens."""

    input: _Money
    output: _Money
    cached_input: _Money | None = None


class ModelTable(StrictTable):
    """`[models.NAME]`; a file has to give the first two, which is checked before the shape is."""

    # Defaults all the same: a table with a mistake is read on without its wrong keys.
    provider: Literal["openai", "anthropic", "ollama", "openrouter", "local"] = "openai"
    model: Text = "-"
    base_url: Text | None = None
    api_key: Text | None = None
    price: PriceTable | None = None
    max_output_tokens: Count | None = None
    context_window: Count = 128_000
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    timeout: PositiveDuration = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    threads: Annotated[int, Field(ge=1, le=512)] | None = None
    idle_timeout: PositiveDuration | None = None
    start_timeout: PositiveDuration | None = None


_ONLY_LOCAL = ("threads", "idle_timeout", "start_timeout")
_NEVER_LOCAL = ("base_url", "api_key")
_LOCAL_CONTEXT = 8_192
_LOCAL_TIMEOUT = 600.0
"""A model on this machine may read a long prompt for minutes before it says a word."""


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
        if wrong:
            continue
        if table.provider == "local":
            yield from _local_model(findings, at, name, table)
        else:
            yield _model(findings, at, name, table)


_EXAMPLES = {
    "provider": f'provider = "openai" (allowed: {", ".join(BASE_URLS)}, local)',
    "model": 'model = "gpt-5-mini", the name by which the provider knows it',
}


def _local_model(findings: Findings, at: KeyPath, name: str, table: ModelTable) -> Iterator[ModelConfig]:
    """A model whose server we start ourselves."""
    for key in _NEVER_LOCAL:
        if key in table.model_fields_set:
            findings.problem((*at, key), "is not for a model on this machine; take it away")
    if not is_installed():
        what = f"is \"local\", which needs xllamacpp, which is not installed; run: pip install '{EXTRA}'"
        findings.problem((*at, "provider"), what)
    file = _model_file(findings, (*at, "model"), table.model)
    if findings.has_problem_at(at) or file is None:
        return
    said = table.model_fields_set
    context = table.context_window if "context_window" in said else _LOCAL_CONTEXT
    times = {key: getattr(table, key) for key in ("idle_timeout", "start_timeout") if getattr(table, key) is not None}
    yield ModelConfig(
        name=name,
        provider=table.provider,
        model=table.model,
        base_url=LOCAL_URL,
        price=Price() if table.price is None else Price(**table.price.model_dump()),
        max_output_tokens=table.max_output_tokens,
        context_window=context,
        temperature=table.temperature,
        timeout=table.timeout if "timeout" in said else _LOCAL_TIMEOUT,
        retries=table.retries,
        local=LocalModel(name=name, file=file, context=context, threads=table.threads, **times),
    )


def _model_file(findings: Findings, at: KeyPath, written: str) -> Path | str | None:
    """A path if it looks like one, else a name of the table of those that can be pulled."""
    if "/" not in written and not written.endswith(".gguf"):
        if written not in MODEL_FILES:
            near = did_you_mean(written, MODEL_FILES) or f"; allowed: {', '.join(MODEL_FILES)}"
            findings.problem(at, f"names {written!r}, which is neither a path of a .gguf file nor a known model{near}")
        return written
    path = Path(findings.path_of(expand_home(findings.resolved(at, written))))
    if not path.is_file():
        findings.problem(at, f"is {written!r}, and there is no file {path}")
    return path


def _model(findings: Findings, at: KeyPath, name: str, table: ModelTable) -> ModelConfig:
    url = findings.resolved((*at, "base_url"), table.base_url) if table.base_url else BASE_URLS[table.provider]
    if url and not re.match(r"https?://[^/\s]", url):
        findings.problem((*at, "base_url"), "must begin with http:// or https:// and name a host")
    if table.api_key is None and table.base_url is None and table.provider != "ollama":
        what = f'has no api_key, and {BASE_URLS[table.provider]} needs one; add api_key = "${{env:NAME}}"'
        findings.problem(at, what)
    for key in _ONLY_LOCAL:
        if key in table.model_fields_set:
            findings.problem((*at, key), 'is only for a model on this machine: provider = "local"')
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
