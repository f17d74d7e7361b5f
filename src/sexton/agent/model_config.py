"""Which models there are, and how a turn may use them: frozen data."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sexton.agent.budget import Budget
from sexton.errors import SextonError, UsageError
from sexton.local_models import LocalModel

Provider = Literal["openai", "anthropic", "ollama", "openrouter", "local"]

BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "ollama": "http://127.0.0.1:11434/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
"""Where each provider is found when `base_url` is not said.  All but anthropic speak OpenAI's chat completions."""

LOCAL_URL: Final = "http://model.invalid/v1"
"""What stands as the address of a local model, whose server has another one each time (RFC 2606: nobody's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Money for one million tokens, in whatever currency `max_cost` is meant."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None

    def of(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """The money for one request; cached tokens are among the input tokens."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = max(0, input_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One `[models.NAME]`.  `timeout` is in seconds without a byte; `retries` are those of one request.

    `local` is set where the provider is this machine.
    """

    name: str
    provider: Provider
    model: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    price: Price | None = None
    max_output_tokens: int | None = None
    context_window: int = 128_000
    temperature: float | None = None
    timeout: float = 120.0
    retries: int = 2
    local: LocalModel | None = None

    @property
    def place(self) -> str:
        """Where the model is, for a person."""
        return self.base_url if self.local is None else "on this machine"


class Approval(enum.StrEnum):
    """Which tool calls wait for a person."""

    NEVER = "never"
    DESTRUCTIVE = "destructive"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerApprovals:
    """What the owner says of one server.  `tools` are patterns of tool names; the first that matches decides."""

    level: Approval = Approval.NEVER
    tools: Mapping[str, Approval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """`[agent]`, `[models.*]` and what `[servers.*]` says about approvals.  Times are in seconds.

    `chain` are the models of a turn that names none, first choice first.
    `result_limit` is how many characters of a tool's result the model gets at
    once, `search_above` the number of tools beyond which it searches for them.
    """

    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    instructions: str = ""
    approvals: Approval = Approval.DESTRUCTIVE
    approval_timeout: float = 600.0
    server_approvals: Mapping[str, ServerApprovals] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    result_limit: int = 16_000
    search_above: int = 40
    compact_above: float = 0.6
    chat_servers: tuple[str, ...] | None = None


class NoModel(UsageError):
    """Nothing can answer a prompt."""


class ModelFailed(SextonError):
    """The models of the chain could not answer."""


def chain_of(config: AgentConfig, names: Sequence[str] | None) -> tuple[ModelConfig, ...]:
    """The models of a turn, first choice first.  Raises NoModel."""
    wanted = tuple(names or config.chain)
    if not wanted:
        raise NoModel(
            "No model is configured, so nothing can answer a prompt; tools can be called all the same.",
            hint="put this into sexton.toml:\n"
            "  [models.main]\n"
            '  provider = "openai"                    # or "anthropic", "ollama", "openrouter"\n'
            '  model = "gpt-5-mini"\n'
            '  api_key = "${env:OPENAI_API_KEY}"\n'
            '  # base_url = "http://127.0.0.1:8080/v1"  for llama.cpp, vLLM and other OpenAI-compatible servers\n'
            'or, without any key, let this machine answer (pip install "sexton[local]"; sexton model pull NAME):\n'
            '  provider = "local"\n'
            '  model = "qwen2.5-coder-1.5b"           # see: sexton model list',
        )
    if unknown := [name for name in wanted if name not in config.models]:
        known = ", ".join(config.models) or "none"
        raise NoModel(
            f"There is no model {unknown[0]!r}; the configured ones are: {known}.",
            hint=f"add [models.{unknown[0]}] to sexton.toml",
        )
    return tuple(config.models[name] for name in wanted)
