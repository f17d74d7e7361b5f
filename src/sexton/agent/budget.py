"""What a turn may use up, and what it has used (pure, but for the time that is passed in)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, final

from sexton.errors import SextonError
from sexton.journal import JSON

CHARACTERS_PER_TOKEN: Final = 4
"""By which the tokens of a text are estimated before a model has counted them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one turn; None is no limit.

    `max_steps` are requests to a model, `max_tokens` those read and written
    together, `max_cost` is money by the prices of the models, `timeout` is in
    seconds of wall clock.  All of them also for what servers ask the model
    while the turn calls them.
    """

    max_steps: int | None = 50
    max_tokens: int | None = None
    max_cost: float | None = None
    timeout: float | None = None


class BudgetSpent(SextonError):
    """A turn reached one of its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a turn has used.  `cost` None: the price of a model that answered is not known."""

    steps: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    seconds: float = 0.0
    models: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def with_step(self, model: str, *, input_tokens: int, output_tokens: int, cost: float | None) -> Usage:
        """After one more answer of a model."""
        return replace(
            self,
            steps=self.steps + 1,
            input_tokens=self.input_tokens + input_tokens,
            output_tokens=self.output_tokens + output_tokens,
            cost=None if cost is None or self.cost is None else self.cost + cost,
            models=self.models if model in self.models else (*self.models, model),
        )

    def plus(self, other: Usage) -> Usage:
        """Both together; the time is that of this one, during which the other was."""
        return replace(
            self,
            steps=self.steps + other.steps,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
            models=tuple(dict.fromkeys((*self.models, *other.models))),
        )

    def with_calls(self, count: int) -> Usage:
        return replace(self, calls=self.calls + count)

    def as_json(self) -> dict[str, JSON]:
        return {
            "steps": self.steps,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": None if self.cost is None else round(self.cost, 6),
            "seconds": round(self.seconds, 3),
            "models": list(self.models),
        }


@final
class Meter:
    """What one turn has used, whoever asks the models for it: the turn itself, or a server that it called."""

    def __init__(self, budget: Budget, *, tell: Callable[[Usage], None], now: Callable[[], float]) -> None:
        """`tell` hears of each change, `now` is a monotonic clock."""
        self.budget = budget
        self.usage = Usage()
        self._tell = tell
        self._now = now
        self._began = now()

    def add(self, used: Usage) -> Usage:
        """Count it, and return what has been used so far."""
        self.usage = replace(self.usage.plus(used), seconds=self._now() - self._began)
        self._tell(self.usage)
        return self.usage


def check_next_step(budget: Budget, used: Usage) -> None:
    """Raise BudgetSpent when no further request to a model may be made."""
    if budget.max_steps is not None and used.steps >= budget.max_steps:
        raise _spent(f"{used.steps} steps", f"max_steps = {budget.max_steps}", "max_steps")
    if budget.max_tokens is not None and used.tokens >= budget.max_tokens:
        raise _spent(f"{used.tokens} tokens", f"max_tokens = {budget.max_tokens}", "max_tokens")
    if budget.max_cost is None or not used.steps:
        return
    if used.cost is None:
        raise BudgetSpent(
            f"The turn has max_cost = {budget.max_cost:g}, and what {used.models[-1]!r} costs is not known.",
            hint=f"add price = {{ input = …, output = … }} (per million tokens) to [models.{used.models[-1]}]",
        )
    if used.cost >= budget.max_cost:
        raise _spent(f"a cost of {used.cost:.4g}", f"max_cost = {budget.max_cost:g}", "max_cost")


def tokens_left(budget: Budget, used: Usage) -> int | None:
    """How many tokens the next answer may have, by the budget; None is no limit."""
    return None if budget.max_tokens is None else max(1, budget.max_tokens - used.tokens)


def timed_out(seconds: float) -> BudgetSpent:
    return _spent(f"{seconds:g} s", "its timeout", "timeout")


def _spent(used: str, limit: str, key: str) -> BudgetSpent:
    return BudgetSpent(
        f"The turn was ended after {used}: its budget is {limit}.",
        hint=f"give it a larger {key}, or ask for less at once",
    )
