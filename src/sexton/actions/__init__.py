"""What a run does: a direct tool call (`call`), a program (`command`) or a turn of an agent (`prompt`).

Owns the way from a job's action to its outcome, and how a result reads as
text.  Promises that a failure says what happened and what to do next.  When a
run happens, how long it may take and what becomes of its outcome is the
scheduler's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from difflib import get_close_matches

from sexton.actions.call import render_content, run_call
from sexton.actions.command import run_command
from sexton.actions.prompt import run_prompt
from sexton.agent import Agent, OwnToolsOfJob
from sexton.containment import Containment
from sexton.journal import JSON
from sexton.mcp_servers import ServerPool
from sexton.scheduler import Outcome, RunContext, RunFailed

__all__ = ["perform_action", "render_content", "run_call", "run_command", "run_prompt"]


async def perform_action(
    action: Mapping[str, JSON],
    ctx: RunContext,
    *,
    pool: ServerPool,
    containment: Containment,
    agent: Agent,
    own_tools: OwnToolsOfJob | None = None,
) -> Outcome:
    """Do what `action` says, by its `kind`; it is the one of `ctx.job`, with references to secrets put in.

    `own_tools` makes those of Sexton's own tools that a prompt may have.

    Raises:
        RunFailed: it failed, or there is no such kind of action.
    """
    kinds: Mapping[str, Callable[[], Awaitable[Outcome]]] = {
        "call": lambda: run_call(pool, action, ctx),
        "command": lambda: run_command(containment, action, ctx),
        "prompt": lambda: run_prompt(agent, action, ctx, own_tools),
    }
    kind = str(action.get("kind"))
    if (perform := kinds.get(kind)) is None:
        near = get_close_matches(kind, kinds, n=1)
        raise RunFailed(
            f"job {ctx.job.name!r} wants an action of kind {kind!r}; there are {', '.join(kinds)}.",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    return await perform()
