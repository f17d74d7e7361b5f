"""A run that is one turn of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from sexton.agent import (
    Agent,
    Approval,
    Budget,
    CallRecord,
    Message,
    OwnToolsOfJob,
    Role,
    TextDelta,
    TextWithdrawn,
    ToolCallStarted,
    ToolRules,
    ToolSource,
    TurnEvent,
    TurnPlan,
    Usage,
    UserMessage,
)
from sexton.agent import CallState as AgentCallState
from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.scheduler import CallState, Outcome, RunContext, RunFailed

_STATES = {
    AgentCallState.DONE: CallState.OK,
    AgentCallState.FAILED: CallState.ERROR,
    AgentCallState.DENIED: CallState.DENIED,
    AgentCallState.CANCELLED: CallState.CANCELLED,
}


async def run_prompt(
    agent: Agent, action: Mapping[str, JSON], ctx: RunContext, own_tools: OwnToolsOfJob | None = None
) -> Outcome:
    """Give a model the prompt and the tools of the job's servers; its reply is the run's output.

    `action` holds `prompt`, and optionally `servers` (names), `models` (the
    chain), `instructions`, `output_schema` (a JSON schema: the output is an
    object of that shape), `max_steps`, `max_tokens`, `max_cost`, `tools`
    (`allow`, `deny`) and `approvals`; `may` and `send_to` are for `own_tools`,
    which makes those of Sexton's own tools that the job has.  Its calls and
    what it used are kept with the run.

    Raises:
        RunFailed: no model is configured or could answer, a server has no tool for it, a limit was reached, or the
            answer has not the shape that was asked for.
    """
    record = _RunRecord(ctx)
    ctx.output_so_far = lambda: record.text
    try:
        result = await agent.run(plan_of(action, ctx, own_tools), record)
    except SextonError as error:
        raise RunFailed(error.what, hint=error.hint, details={"usage": record.usage.as_json()}) from error
    finally:
        await agent.close_run(ctx.run.id)
    details: dict[str, JSON] = {"usage": result.usage.as_json()}
    if result.output is not None:
        details["output"] = result.output
    return Outcome(output=result.text, details=details)


def plan_of(action: Mapping[str, JSON], ctx: RunContext, own_tools: OwnToolsOfJob | None) -> TurnPlan:
    """What the turn of a run is given; `action` is that of `ctx.job`, with references put in."""
    servers, models, schema = action.get("servers"), action.get("models"), action.get("output_schema")
    plan = TurnPlan(
        tools=ToolSource(
            holder=f"run:{ctx.run.id}",
            turn=ctx.run.id,
            servers=_names(servers) or (),
            rules=ToolRules.from_json(action.get("tools")),
            approvals=Approval(str(action.get("approvals") or Approval.NEVER)),
            strict=True,
            returns=False,
        ),
        history=(Message(role=Role.USER, text=str(action["prompt"])),),
        models=_names(models),
        instructions=str(action.get("instructions") or ""),
        budget=_budget(action),
        output_schema=schema if isinstance(schema, Mapping) else None,
    )
    if own_tools is None:
        return plan
    return replace(plan, tools=replace(plan.tools, own=own_tools(ctx.job, plan)))


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else None


def _budget(action: Mapping[str, Any]) -> Budget:
    """The time is the run's own: its timeout is the scheduler's."""
    steps = action.get("max_steps")
    return Budget(
        max_steps=Budget().max_steps if steps is None else steps,
        max_tokens=action.get("max_tokens"),
        max_cost=action.get("max_cost"),
    )


@final
class _RunRecord:
    """Keeps a turn's calls with its run, and tells the scheduler that it is getting on."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._messages = 0
        self.text = ""
        self.usage = Usage()

    async def add_reply(self, message: Message) -> Message:
        self._messages += 1
        self._ctx.progress()
        return replace(message, number=self._messages)

    async def call_changed(self, _message: Message, call: CallRecord) -> None:
        if not call.state.is_final:
            return
        self._ctx.record_call(
            call.server,
            call.tool,
            call.arguments,
            state=_STATES.get(call.state, CallState.FAILED),
            text=call.shown,
            seconds=call.seconds or 0.0,
        )

    async def take_steering(self) -> tuple[UserMessage, ...]:
        return ()

    def tell(self, event: TurnEvent) -> None:
        match event:
            case TextDelta(text=text):
                self.text += text
                self._ctx.progress()
            case TextWithdrawn(characters=characters):
                self.text = self.text[: -characters or None]
                self._ctx.progress("asks again: the answer broke off")
            case ToolCallStarted(server=server, tool=tool):
                self._ctx.progress(f"calls {server}.{tool}")
            case _:
                self._ctx.progress()

    def used(self, usage: Usage) -> None:
        self.usage = usage
