"""Answers for programs that bring the whole conversation with each question and keep it themselves.

Such an answer is a turn like any other (leases, approvals, budget), but of no
conversation of ours: nothing of it is in the database, and it ends with its
caller.  The tools of the caller are told to the model beside those of the
servers; a step in which the model asks for one of them ends the turn, for it
is the caller who makes these calls.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, final

import anyio

from sexton.agent.budget import Usage
from sexton.agent.events import TurnEvent
from sexton.agent.messages import CallRecord, Message, UserMessage
from sexton.agent.model_config import AgentConfig, ModelConfig
from sexton.agent.toolbox import OWN, OwnTool, ToolSource
from sexton.agent.turn import Agent, TurnPlan
from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.journal import JSON, Journal

HOLDER: Final = "api:"
"""What the holder of a lease is called begins so, before the answer's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTool:
    """A tool that the caller has, and calls itself.  `schema` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked: `history` ends with what is to be answered, as that of a `TurnPlan` does; so does `takes_back`."""

    history: tuple[Message, ...]
    instructions: str = ""
    tools: tuple[ClientTool, ...] = ()
    output_schema: Mapping[str, JSON] | None = None
    takes_back: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer.  `calls` are for the caller to make; then `text` is only what the model said before them."""

    text: str
    usage: Usage
    calls: tuple[CallRecord, ...] = ()


class _HandedOver(Exception):
    """The model asked for tools of the caller."""

    def __init__(self, message: Message, calls: tuple[CallRecord, ...]) -> None:
        super().__init__()
        self.message = message
        self.calls = calls


@final
class Completions:
    """The agent, without a memory."""

    def __init__(self, agent: Agent, *, clock: Clock, journal: Journal) -> None:
        self._agent = agent
        self._clock = clock
        self._journal = journal

    @property
    def config(self) -> AgentConfig:
        """What is configured of models and limits, now."""
        return self._agent.config

    def require_model(self) -> tuple[ModelConfig, ...]:
        """The models that would answer, first choice first.  Raises NoModel."""
        return self._agent.require_model()

    async def answer(self, answer_id: str, wanted: Wanted, *, by: str, tell: Callable[[TurnEvent], None]) -> Completion:
        """Answer as `Agent.run` does, and raise what it raises; being cancelled stops it at once."""
        record = _Record(tell, frozenset(tool.name for tool in wanted.tools))
        subject, holder = f"{HOLDER}{by}", f"{HOLDER}{answer_id}"
        began = self._clock.monotonic()
        self._journal.append("turn.started", subject=subject, turn=answer_id)
        state, error = "stopped", None
        try:
            done = await self._run(answer_id, holder, wanted, record)
            state = "done"
        except SextonError as failure:
            state, error = "failed", failure.what
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._agent.approvals.void(turn=answer_id)
                await self._agent.files.forget(holder)
            usage = replace(record.usage, seconds=self._clock.monotonic() - began)
            self._journal.append(
                "turn.ended", subject=subject, turn=answer_id, state=state, error=error, usage=usage.as_json()
            )
        return done

    async def _run(self, answer_id: str, holder: str, wanted: Wanted, record: _Record) -> Completion:
        plan = TurnPlan(
            tools=self._source(answer_id, holder, wanted),
            history=wanted.history,
            instructions=wanted.instructions,
            budget=self.config.budget,
            output_schema=wanted.output_schema,
            takes_back=wanted.takes_back,
        )
        try:
            result = await self._agent.run(plan, record)
        except _HandedOver as handed:
            return Completion(text=handed.message.text, usage=record.usage, calls=handed.calls)
        return Completion(text=result.text, usage=result.usage)

    def _source(self, answer_id: str, holder: str, wanted: Wanted) -> ToolSource:
        known, chosen = self._agent.known_servers(), self.config.chat_servers
        return ToolSource(
            holder=holder,
            turn=answer_id,
            servers=known if chosen is None else tuple(name for name in chosen if name in known),
            approvals=self.config.approvals,
            own=tuple(
                OwnTool(name=tool.name, description=tool.description, schema=tool.schema, run=_never)
                for tool in wanted.tools
            ),
        )


def client_call(call_id: str, name: str, arguments: str) -> CallRecord:
    """The record of a call that the caller made, as the model asked for it; arguments may be broken JSON."""
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        read = None
    whole = read if isinstance(read, dict) else {"": arguments}
    return CallRecord(id=call_id, name=f"{OWN}__{name}", server=OWN, tool=name, arguments=whole)


@final
class _Record:
    """Keeps nothing but the usage, and ends the turn where the caller has to go on."""

    def __init__(self, tell: Callable[[TurnEvent], None], client_tools: frozenset[str]) -> None:
        self._tell = tell
        self._client_tools = client_tools
        self.usage = Usage()

    async def add_reply(self, message: Message) -> Message:
        calls = tuple(call for call in message.calls if call.server == OWN and call.tool in self._client_tools)
        if calls:
            raise _HandedOver(message, calls)
        return message

    async def call_changed(self, message: Message, call: CallRecord) -> None:
        """Nothing of it is kept."""

    async def take_steering(self) -> tuple[UserMessage, ...]:
        return ()

    def tell(self, event: TurnEvent) -> None:
        self._tell(event)

    def used(self, usage: Usage) -> None:
        self.usage = usage


def _never(_: Mapping[str, Any]) -> Awaitable[str]:
    """A tool of the caller is never called here: `_Record` ends the turn before."""
    return _refuse()


async def _refuse() -> NoReturn:
    raise SextonError("This tool is the caller's own; it cannot be called here.")
