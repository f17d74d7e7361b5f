"""The agent's answer while it is made: its events as they come, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from sexton.agent import Completion, Completions, EventStream, TurnEvent, Wanted
from sexton.errors import SextonError


@dataclass(slots=True)
class _Outcome:
    done: Completion | None = None
    failure: SextonError | None = None
    events: EventStream = field(default_factory=lambda: EventStream(()))


async def answer(
    completions: Completions,
    answer_id: str,
    wanted: Wanted,
    *,
    by: str,
    on_event: Callable[[TurnEvent], Awaitable[None]],
) -> Completion:
    """Answer; `on_event` hears each event in turn, and may be slow.  Raises what `Completions.answer` raises."""
    outcome = _Outcome()

    async def work() -> None:
        try:
            outcome.done = await completions.answer(answer_id, wanted, by=by, tell=outcome.events.put)
        except SextonError as failure:  # raised again outside, for a task group would wrap it
            outcome.failure = failure
        finally:
            outcome.events.end()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        async for event in outcome.events:
            await on_event(event)
    if outcome.failure is not None:
        raise outcome.failure
    assert outcome.done is not None
    return outcome.done
