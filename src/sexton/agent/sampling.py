"""Answers of a turn's own model for the servers that it called (MCP's sampling), out of the budget of that turn."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, final

import anyio

from sexton.agent.budget import CHARACTERS_PER_TOKEN, Budget, BudgetSpent, Meter, Usage, check_next_step
from sexton.agent.model_config import ModelConfig
from sexton.errors import SextonError
from sexton.mcp_servers import AnswerWanted, SamplingDeclined

LOG = logging.getLogger(__name__)

MOST_SAMPLINGS: Final = 10
"""How often servers may ask the model in one turn."""

Complete: TypeAlias = Callable[[AnswerWanted, int], Awaitable[tuple[str, Usage]]]
"""Asks the turn's models, for an answer of so many tokens at most; returns it and what it took."""


@final
class Sampler:
    """Asks for servers, one question after the other, so that several at once cannot spend the same rest twice."""

    def __init__(self, complete: Complete, chain: Sequence[ModelConfig], meter: Meter) -> None:
        self._complete = complete
        self._chain = chain
        self._meter = meter
        self._one_at_a_time = anyio.Lock()
        self._asked = 0

    def admit(self, server: str, wanted: AnswerWanted) -> None:
        """Count a question, before anybody is bothered with it.  Raises SamplingDeclined if it cannot be answered."""
        self._asked += 1
        if self._asked > MOST_SAMPLINGS:
            raise SamplingDeclined(f"Servers may ask the model {MOST_SAMPLINGS} times in one turn, and have.")
        self._room(server, wanted)

    async def answer(self, server: str, wanted: AnswerWanted) -> tuple[str, str]:
        """The answer and the name of the model; it is counted like a step of the turn.  Raises SamplingDeclined."""
        async with self._one_at_a_time:
            most = self._room(server, wanted)
            try:
                text, used = await self._complete(wanted, most)
            except SextonError as failure:
                LOG.warning("the model could not answer a question of server %s: %s", server, failure.what)
                raise SamplingDeclined("No model could answer.") from failure
            self._meter.add(used)
        return text, used.models[-1]

    def _room(self, server: str, wanted: AnswerWanted) -> int:
        try:
            return room_for(wanted, self._meter.budget, self._meter.usage, self._chain)
        except BudgetSpent as spent:
            LOG.info("a question of server %s to the model was declined: %s", server, spent.what)
            raise SamplingDeclined(
                "The budget of the turn that made this call has no room for this request to a model."
            ) from spent


def room_for(wanted: AnswerWanted, budget: Budget, used: Usage, chain: Sequence[ModelConfig]) -> int:
    """How many tokens the answer may have.  Raises BudgetSpent if there is no room for even one.

    What a server asks is as long as the server likes, so it counts, estimated,
    before it is sent; of the models that may answer, the dearest counts.
    """
    check_next_step(budget, used)
    asked = (len(wanted.system_prompt) + sum(len(text) for _, text in wanted.messages)) // CHARACTERS_PER_TOKEN
    most = [wanted.max_tokens, *(model.max_output_tokens for model in chain if model.max_output_tokens is not None)]
    if budget.max_tokens is not None:
        most.append(budget.max_tokens - used.tokens - asked)
    if budget.max_cost is not None:
        most += [_affordable(model, asked, budget.max_cost - (used.cost or 0.0)) for model in chain]
    if min(most) < 1:
        raise BudgetSpent(f"The turn has no budget left for a question of about {asked} tokens and its answer.")
    return min(most)


def _affordable(model: ModelConfig, asked: int, money: float) -> int:
    """Tokens of an answer that this money buys after the question; without a price what was asked last decides."""
    if model.price is None:
        return 1 << 30
    rest = money - model.price.of(input_tokens=asked, cached_tokens=0, output_tokens=0)
    each = model.price.of(input_tokens=0, cached_tokens=0, output_tokens=1)
    return int(rest / each) if each else (1 << 30 if rest > 0 else 0)
