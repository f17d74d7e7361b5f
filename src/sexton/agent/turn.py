"""One turn: a model and tools, until a reply or a limit.  What a turn is given, what comes of it, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast, final

import anyio

from sexton.agent.approval import Approvals
from sexton.agent.budget import Budget, Meter, Usage, timed_out
from sexton.agent.events import TurnEvent
from sexton.agent.late_import import LateImport
from sexton.agent.messages import CallRecord, CallState, Message, Role, UserMessage
from sexton.agent.model_config import AgentConfig, ModelConfig, chain_of
from sexton.agent.result_files import ResultFiles
from sexton.agent.result_marks import UNTRUSTED
from sexton.agent.sampling import Sampler
from sexton.agent.toolbox import Toolbox, ToolSource
from sexton.clock import Clock
from sexton.database import Database
from sexton.errors import UsageError
from sexton.journal import JSON
from sexton.local_models import LocalModels
from sexton.mcp_servers import AnswerWanted, ServerPool


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlan:
    """All that a turn is given.

    `history` ends with what is to be answered: a message of the user, or one
    of the model whose calls are to be made, or were made.  `models` names the
    chain (None: the configured one); `output_schema` asks for a JSON object of
    that shape instead of text.  `takes_back`: text that was told can still be
    withdrawn, so an answer that breaks off may be asked for again.
    """

    tools: ToolSource
    history: tuple[Message, ...]
    models: tuple[str, ...] | None = None
    instructions: str = ""
    budget: Budget = field(default_factory=Budget)
    output_schema: Mapping[str, JSON] | None = None
    takes_back: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """What came of a turn that reached its reply.  `output` is the object, where one was asked for."""

    text: str
    usage: Usage
    output: JSON = None


class TurnRecord(Protocol):
    """Where a turn is written down, step by step, and who hears of it."""

    async def add_reply(self, message: Message) -> Message:
        """Keep a completed message of the model; on disk, and with its number, when this returns."""
        ...

    async def call_changed(self, message: Message, call: CallRecord) -> None:
        """Keep how far a call has come; on disk when this returns."""
        ...

    async def take_steering(self) -> tuple[UserMessage, ...]:
        """Messages that came in for this turn since it was asked last; they are kept as part of it."""
        ...

    def tell(self, event: TurnEvent) -> None: ...

    def used(self, usage: Usage) -> None:
        """Hear what the turn has used so far; the last word stands also for a turn that fails."""
        ...


class ModelLoop(Protocol):
    """What `sexton.agent.loop` offers; nothing else of it is used."""

    async def answer(
        self,
        plan: TurnPlan,
        chain: tuple[ModelConfig, ...],
        box: Toolbox,
        record: TurnRecord,
        *,
        instructions: str,
        meter: Meter,
    ) -> TurnResult: ...

    async def complete(
        self,
        chain: tuple[ModelConfig, ...],
        *,
        instructions: str,
        prompt: str,
        max_tokens: int | None = None,
        holder: str = "agent",
    ) -> tuple[str, Usage]: ...

    async def aclose(self) -> None: ...


@final
class Agent:
    """Runs turns.  `configure` takes a new configuration; turns under way keep the one that they began with."""

    def __init__(
        self,
        pool: ServerPool,
        *,
        config: AgentConfig,
        approvals: Approvals,
        database: Database,
        clock: Clock,
        local_models: LocalModels | None = None,
        loads_at_once: bool = True,
    ) -> None:
        """`loads_at_once` False: what talks to models is loaded only from `preload` on, when the gateway serves."""
        self._may_load = anyio.Event()
        if loads_at_once:
            self._may_load.set()
        self._pool = pool
        self.config = config
        self.approvals = approvals
        self.files = ResultFiles(database, clock=clock)
        self._clock = clock
        self._library = LateImport("sexton.agent.loop")
        self._local_models = local_models
        self._loop: ModelLoop | None = None

    def configure(self, config: AgentConfig) -> None:
        self.config = config

    def require_model(self, names: tuple[str, ...] | None = None) -> tuple[ModelConfig, ...]:
        """The models of a turn.  Raises NoModel."""
        return chain_of(self.config, names)

    def known_servers(self) -> tuple[str, ...]:
        """The names of all servers that are configured now."""
        return tuple(status.name for status in self._pool.status())

    async def preload(self) -> None:
        """Load what talks to models, which takes seconds of one core, unless nothing would use it."""
        self._may_load.set()
        if self.config.chain:
            await self._loaded()

    async def aclose(self) -> None:
        """Close the connections to the models' servers, and load nothing any more."""
        await self._library.give_up()
        if self._loop is not None:
            await self._loop.aclose()

    async def run(self, plan: TurnPlan, record: TurnRecord) -> TurnResult:
        """Run a turn to its reply.

        Raises:
            NoModel, ModelFailed: no model could be asked, or none could answer.
            NoTools, ToolNameClash: the tools cannot be had (of a strict source) or told apart.
            BudgetSpent: a limit was reached first.
            OutputInvalid: what was to be an object of a given shape is none.
        """
        chain = self.require_model(plan.models)
        config = self.config
        timeout = plan.budget.timeout
        with anyio.move_on_after(timeout) as limit:
            meter = Meter(plan.budget, tell=record.used, now=self._clock.monotonic)
            sampler = Sampler(partial(self._complete, chain, plan.tools.holder), chain, meter)
            async with self._toolbox(plan.tools, record, sampler) as box:
                await box.load()
                loop = await self._loaded()
                instructions = _instructions(plan, config, box)
                return await loop.answer(plan, chain, box, record, instructions=instructions, meter=meter)
        assert limit.cancelled_caught
        raise timed_out(timeout or 0.0)

    async def close_run(self, run_id: str) -> None:
        """Forget what a run that is over still asks, and its files."""
        with anyio.CancelScope(shield=True):
            await self.approvals.void(turn=run_id)
            await self.files.forget(f"run:{run_id}")

    async def call(
        self, source: ToolSource, server: str, tool: str, arguments: Mapping[str, JSON], record: TurnRecord
    ) -> str:
        """Call one tool without any model, as a turn of its own.  Approvals apply as to any call."""
        async with self._toolbox(source, record) as box:
            if server not in source.servers:
                known = ", ".join(source.servers) or "none"
                raise UsageError(f"There is no server {server!r} here; the servers are: {known}.")
            call = CallRecord(id="call", name=f"{server}__{tool}", server=server, tool=tool, arguments=dict(arguments))
            message = await record.add_reply(Message(role=Role.ASSISTANT, text="", calls=(call,)))
            box.expect(message)
            ended = await box.call(call.id)
        said = ended.shown if ended.state is CallState.DONE else f"The call {ended.state}: {ended.shown}"
        await record.add_reply(Message(role=Role.ASSISTANT, text=said, images=ended.images))
        return said

    async def summarise(self, history: tuple[Message, ...], *, before: str, models: tuple[str, ...] | None) -> str:
        """A summary that stands in for these messages, and for the summary of what was before them."""
        loop = await self._loaded()
        told = "\n\n".join(f"{message.role}: {_told(message)}" for message in history)
        earlier = f"Summary of what was before:\n{before}\n\n" if before else ""
        text, _ = await loop.complete(
            self.require_model(models),
            instructions="Summarise this conversation for the assistant who goes on with it: facts, names, numbers, "
            "decisions, what was asked and is open, in at most 400 words. " + UNTRUSTED,
            prompt=f"{earlier}Conversation:\n{told}",
        )
        return text

    async def _complete(
        self, chain: tuple[ModelConfig, ...], holder: str, wanted: AnswerWanted, most: int
    ) -> tuple[str, Usage]:
        """What the models of a turn answer a server."""
        loop = await self._loaded()
        told = "\n\n".join(f"{role}: {text}" for role, text in wanted.messages)
        return await loop.complete(
            chain, instructions=wanted.system_prompt, prompt=told, max_tokens=most, holder=holder
        )

    def _toolbox(self, source: ToolSource, record: TurnRecord, sampler: Sampler | None = None) -> Toolbox:
        return Toolbox(
            source,
            self._pool,
            config=self.config,
            approvals=self.approvals,
            files=self.files,
            log=record,
            clock=self._clock,
            sampler=sampler,
        )

    async def _loaded(self) -> ModelLoop:
        await self._may_load.wait()
        if self._loop is None:
            module: Any = await self._library.get()
            if self._loop is None:  # others may have waited for it, too
                self._loop = cast("ModelLoop", module.Loop(self._clock, self._local_models))
        return self._loop


def _instructions(plan: TurnPlan, config: AgentConfig, box: Toolbox) -> str:
    parts = [config.instructions, plan.instructions, UNTRUSTED]
    if box.searches:
        parts.append("There are more tools than are listed: search for them by what they are for.")
    parts += [f"Server {name!r} cannot be used now: {why}" for name, why in box.unavailable.items()]
    return "\n\n".join(filter(None, parts))


def _told(message: Message) -> str:
    calls = [f"[{call.server}.{call.tool}: {call.state}] {call.result[:1_000]}" for call in message.calls]
    return "\n".join(filter(None, [message.text, *calls]))
