"""The tools of one turn, and the leases on their servers.

A `Toolbox` knows its tools from the catalogue and takes a server's lease at
the first call of it; every lease is given back when the toolbox is left,
however that happens.  What became of a call is recorded before the next step
is taken, so that after a crash nobody makes it twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self, final

import anyio

from sexton.agent.approval import (
    Approvals,
    ApprovalState,
    PendingApproval,
    Question,
    QuestionKind,
    level_of,
    needs_approval,
)
from sexton.agent.events import ApprovalAnswered, ApprovalAsked, ToolCallEnded, ToolCallStarted, TurnEvent
from sexton.agent.messages import CallRecord, CallState, Message
from sexton.agent.model_config import AgentConfig, Approval
from sexton.agent.result_files import ResultFiles
from sexton.agent.result_marks import mark_untrusted
from sexton.agent.sampling import Sampler
from sexton.agent.tool_answer import ToolAnswer, cut, read_result
from sexton.agent.tool_rules import ToolRules
from sexton.agent.tool_search import find_tools
from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.mcp_servers import (
    AnswerWanted,
    Callbacks,
    CataloguedTool,
    InputWanted,
    Lease,
    ServerPool,
    callbacks_for,
    name_tools,
    qualified_name,
)

OWN: Final = "sexton"
"""The name that stands where a server's would, for tools of our own."""

MOST_TOLD: Final = 400
"""Characters of a result that an event carries."""

SEARCH: Final = f"{OWN}__search_tools"
CALL: Final = f"{OWN}__call_tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTool:
    """A tool of ours.  `run` gets the arguments as they came and returns text; its SextonError is the model's to read.

    `asks` says whether its call waits for a person where destructive ones do.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Awaitable[str]]
    asks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool as the model is told of it."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSource:
    """Where the tools of a turn come from, and by what rules.

    `strict`: a server that offers no tool fails the turn, before any model is asked.  `returns`: the holder will come
    back, so an exclusive process is kept for it.
    """

    holder: str
    turn: str
    servers: tuple[str, ...]
    rules: ToolRules = field(default_factory=ToolRules)
    approvals: Approval = Approval.DESTRUCTIVE
    own: tuple[OwnTool, ...] = ()
    strict: bool = False
    returns: bool = True


class CallLog(Protocol):
    """Where a turn's calls are recorded, and who hears of them."""

    async def call_changed(self, message: Message, call: CallRecord) -> None:
        """Keep how far a call has come; on disk when this returns."""
        ...

    def tell(self, event: TurnEvent) -> None: ...


class NoTools(SextonError):
    """A job names a server that offers it no tool."""


@final
class Toolbox:
    """Use: `async with Toolbox(...) as box`, then `load`, then for each message of the model `expect` and `call`."""

    def __init__(
        self,
        source: ToolSource,
        pool: ServerPool,
        *,
        config: AgentConfig,
        approvals: Approvals,
        files: ResultFiles,
        log: CallLog,
        clock: Clock,
        sampler: Sampler | None = None,
    ) -> None:
        self._sampler = sampler
        self._source = source
        self._pool = pool
        self._config = config
        self._approvals = approvals
        self._files = files
        self._log = log
        self._clock = clock
        self._stack = AsyncExitStack()
        self._leases: dict[str, Lease] = {}
        self._leasing: dict[str, anyio.Lock] = {}
        self._tools: dict[str, CataloguedTool] = {}
        self._own = {f"{OWN}__{tool.name}": tool for tool in (*source.own, self._reader())}
        self._message: Message | None = None
        self._calls: dict[str, CallRecord] = {}
        self.unavailable: dict[str, str] = {}
        """Servers whose tools could not be had, and why."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        with anyio.CancelScope(shield=True):  # giving back waits for nothing
            await self._stack.aclose()

    # Which tools there are

    async def load(self) -> None:
        """Learn the tools of all servers.  Raises NoTools, ToolNameClash."""
        if OWN in self._source.servers:
            raise NoTools(f"A server cannot be called {OWN!r} here: Sexton's own tools go by that name.")
        listed: dict[str, Sequence[Any]] = {}

        async def ask(server: str) -> None:
            try:
                listed[server] = await self._pool.tools(server, allow=self._filter(server))
            except SextonError as error:
                self.unavailable[server] = error.what

        async with anyio.create_task_group() as tasks:
            for server in self._source.servers:
                tasks.start_soon(ask, server)
        if self._source.strict:
            self._require_tools(listed)
        self._tools = name_tools({server: listed[server] for server in self._source.servers if server in listed})

    @property
    def searches(self) -> bool:
        """Whether there are so many tools that the model has to search for them."""
        return len(self._tools) > self._config.search_above

    def offered(self) -> tuple[OfferedTool, ...]:
        """What the model is told of."""
        own = tuple(_own_offer(name, tool) for name, tool in self._own.items())
        if self.searches:
            return (*_search_offers(len(self._tools)), *own)
        return (*(_offer(tool) for tool in self._tools.values()), *own)

    # Calling

    def expect(self, message: Message) -> None:
        """From here on calls are those of this message, some of which may have been made before a restart."""
        self._message = message
        self._calls = {call.id: call for call in message.calls}

    def planned(self, call_id: str, name: str, arguments: Mapping[str, JSON]) -> CallRecord:
        """The record of a call that the model asks for; one by way of `CALL` keeps that as its name."""
        meant = name
        if name == CALL and self.searches and isinstance(arguments.get("tool"), str):
            inner = arguments.get("arguments")
            meant, arguments = str(arguments["tool"]), inner if isinstance(inner, Mapping) else {}
        server, tool = self._place_of(meant)
        return CallRecord(id=call_id, name=name, server=server, tool=tool, arguments=dict(arguments))

    def record_of(self, call_id: str) -> CallRecord | None:
        return self._calls.get(call_id)

    async def settle(self, call_id: str, text: str) -> None:
        """Keep what the model was told of a call that never came to us (a tool that does not exist, broken JSON)."""
        if (record := self._calls.get(call_id)) and not record.state.is_final:
            await self._keep(replace(record, state=CallState.FAILED, result=text))

    async def call(self, call_id: str) -> CallRecord:
        """Make a call, unless it was made before; how it ended is in the record."""
        record = self._calls[call_id]
        if record.state.is_final:
            return record
        if not await self._is_allowed(record):
            return self._calls[call_id]
        record = await self._keep(replace(record, state=CallState.STARTED))
        self._log.tell(
            ToolCallStarted(
                turn=self._source.turn,
                call=record.id,
                server=record.server,
                tool=record.tool,
                arguments=record.arguments,
            )
        )
        began = self._clock.monotonic()
        try:
            answer = await self._perform(record)
        except SextonError as error:
            answer = ToolAnswer(text=str(error), is_error=True)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._end(
                    record, CallState.CANCELLED, "The call was cancelled; it may have had its effect.", began
                )
            raise
        state = CallState.FAILED if answer.is_error else CallState.DONE
        text = await self._bounded(answer.text, source=f"{record.server}.{record.tool}")
        return await self._end(replace(record, images=answer.images), state, text, began)

    async def _perform(self, record: CallRecord) -> ToolAnswer:
        if record.server == OWN:
            return ToolAnswer(text=await self._run_own(record))
        lease = await self._lease(record.server)
        return read_result(await lease.call_tool(record.tool, record.arguments))

    async def _run_own(self, record: CallRecord) -> str:
        name = f"{OWN}__{record.tool}"
        if name == SEARCH and self.searches:
            return self._search(str(record.arguments.get("query", "")))
        if (tool := self._own.get(name)) is None:
            raise SextonError(f"There is no tool {record.name!r}.")
        return await tool.run(record.arguments)

    async def _end(self, record: CallRecord, state: CallState, text: str, began: float) -> CallRecord:
        seconds = round(self._clock.monotonic() - began, 4)
        ended = await self._keep(replace(record, state=state, result=text, seconds=seconds))
        self._log.tell(
            ToolCallEnded(
                turn=self._source.turn,
                call=ended.id,
                server=ended.server,
                tool=ended.tool,
                state=str(state),
                text=ended.shown[:MOST_TOLD],
                seconds=seconds,
                images=len(ended.images),
            )
        )
        return ended

    async def _keep(self, record: CallRecord) -> CallRecord:
        assert self._message is not None
        self._calls[record.id] = record
        await self._log.call_changed(self._message, record)
        return record

    # Leases

    async def _lease(self, server: str) -> Lease:
        """The turn's lease of a server, taken at the first need; calls that need it at once wait for one taking."""
        async with self._leasing.setdefault(server, anyio.Lock()):
            if server not in self._leases:
                lease = self._pool.lease(
                    server,
                    holder=self._source.holder,
                    allow=self._filter(server),
                    callbacks=self._callbacks(server),
                    returns=self._source.returns,
                )
                self._leases[server] = await self._stack.enter_async_context(lease)
            return self._leases[server]

    def _filter(self, server: str) -> Any:
        return self._source.rules.of(server, self._source.servers)

    def _place_of(self, name: str) -> tuple[str, str]:
        if known := self._tools.get(name):
            return known.server, known.tool.name
        server, _, tool = name.partition("__")
        return (OWN, tool) if name in self._own or name == SEARCH else (server if tool else "", tool or name)

    def _require_tools(self, listed: Mapping[str, Sequence[Any]]) -> None:
        for server in self._source.servers:
            if why := self.unavailable.get(server):
                raise NoTools(f"Its server {server!r} cannot be used, so no model was asked: {why}")
            if not listed[server]:
                raise NoTools(
                    f"Server {server!r} offers this job no tool, so no model was asked.",
                    hint=f"see what it has: sexton servers tools {server}; and what the job's tools let through",
                )

    # Approval

    async def _is_allowed(self, record: CallRecord) -> bool:
        if not self._asks(record):
            return True
        record = await self._keep(replace(record, state=CallState.ASKED))
        assert self._message is not None
        question = Question(
            key=f"{self._source.holder}/{self._message.number}/{record.id}",
            kind=QuestionKind.CALL,
            holder=self._source.holder,
            turn=self._source.turn,
            server=record.server,
            tool=record.tool,
            asked={"arguments": dict(record.arguments)},
        )
        answer = await self._approvals.ask(question, on_asked=self.tell_asked)
        self._tell_answered(answer)
        if answer.state is ApprovalState.APPROVED:
            return True
        why = "in time" if answer.state is ApprovalState.EXPIRED else f"({answer.answered_by or answer.state})"
        text = (
            f"Nobody allowed this call {why}, so it was not made."
            if answer.state is ApprovalState.EXPIRED
            else f"This call was refused {why}, so it was not made."
        )
        await self._end(record, CallState.DENIED, text, self._clock.monotonic())
        return False

    def _asks(self, record: CallRecord) -> bool:
        if record.server == OWN:
            tool = self._own.get(f"{OWN}__{record.tool}")
            return tool is not None and tool.asks and self._source.approvals is not Approval.NEVER
        level = level_of(self._config, self._source.approvals, record.server, record.tool)
        known = self._tools.get(qualified_name(record.server, record.tool))
        return needs_approval(level, known.tool.annotations if known else None)

    # What servers ask back

    def _callbacks(self, server: str) -> Callbacks:
        return callbacks_for(
            fill_in=lambda wanted: self._fill_in(server, wanted),
            answer_for=lambda wanted: self._answer_for(server, wanted),
        )

    async def _fill_in(self, server: str, wanted: InputWanted) -> Mapping[str, Any] | None:
        """A person answers, whatever the approvals are: nobody else can."""
        asked: dict[str, JSON] = {"message": wanted.message}
        if wanted.url is not None:
            asked["url"] = wanted.url
        if wanted.schema is not None:
            asked["schema"] = dict(wanted.schema)
        answer = await self._ask_back(server, QuestionKind.ELICITATION, asked)
        return (answer.content or {}) if answer.state is ApprovalState.APPROVED else None

    async def _answer_for(self, server: str, wanted: AnswerWanted) -> tuple[str, str] | None:
        """The turn's own model answers, when a person lets it; with `never` nobody is asked."""
        if self._sampler is None:
            return None
        self._sampler.admit(server, wanted)
        level = level_of(self._config, self._source.approvals, server, "")
        if level is not Approval.NEVER:
            messages: list[JSON] = [{"role": role, "text": text} for role, text in wanted.messages]
            asked: dict[str, JSON] = {"messages": messages, "system_prompt": wanted.system_prompt}
            answer = await self._ask_back(server, QuestionKind.SAMPLING, asked)
            if answer.state is not ApprovalState.APPROVED:
                return None
        return await self._sampler.answer(server, wanted)

    async def _ask_back(self, server: str, kind: QuestionKind, asked: Mapping[str, JSON]) -> PendingApproval:
        question = Question(
            key=f"{self._source.holder}/{uuid.uuid4().hex}",
            kind=kind,
            holder=self._source.holder,
            turn=self._source.turn,
            server=server,
            tool="",
            asked=asked,
        )
        answer = await self._approvals.ask(question, on_asked=self.tell_asked)
        self._tell_answered(answer)
        return answer

    def tell_asked(self, asked: PendingApproval) -> None:
        question = asked.question
        self._log.tell(
            ApprovalAsked(
                turn=self._source.turn,
                approval=asked.id,
                kind=str(question.kind),
                server=question.server,
                tool=question.tool,
                question=question.asked,
                expires_at=asked.expires_at.isoformat(),
            )
        )

    def _tell_answered(self, answer: PendingApproval) -> None:
        by = answer.answered_by or ""
        self._log.tell(ApprovalAnswered(turn=self._source.turn, approval=answer.id, state=str(answer.state), by=by))

    # Large results, many tools

    async def _bounded(self, text: str, *, source: str) -> str:
        """What the model is given at once, with the way to the rest."""
        if source.startswith(f"{OWN}."):
            return text
        head, is_cut = cut(text, self._config.result_limit)
        marked = mark_untrusted(head, source=source)
        if not is_cut:
            return marked
        name = await self._files.keep(self._source.holder, text)
        return f"{marked}\nThis is the beginning, {len(head)} of {len(text)} characters; {read_on(name, len(head))}."

    def _reader(self) -> OwnTool:
        async def read(arguments: Mapping[str, Any]) -> str:
            offset, length = int(arguments.get("offset") or 0), int(arguments.get("length") or 16_000)
            part, total = await self._files.read(
                self._source.holder, str(arguments.get("file", "")), offset=offset, length=length
            )
            end = offset + len(part)
            marked = mark_untrusted(part, source="read_result")
            return f"{marked}\nCharacters {offset} to {end} of {total}."

        return OwnTool(
            name="read_result",
            description="Read on in a tool's result, or a file of a person's, that was too long to be given whole.",
            schema={
                "type": "object",
                "properties": {
                    "file": {"type": "string", "description": "the name that stood below the beginning"},
                    "offset": {"type": "integer", "description": "the character to begin at"},
                    "length": {"type": "integer", "description": "how many characters, 16000 at most"},
                },
                "required": ["file"],
            },
            run=read,
        )

    def _search(self, query: str) -> str:
        described = {name: _description(tool) for name, tool in self._tools.items()}
        found = find_tools(query, described, most=8)
        if not found:
            names = ", ".join(sorted({tool.server for tool in self._tools.values()}))
            return f"No tool fits {query!r}. The servers are: {names}. Try other words."
        offers = [_offer(self._tools[name]) for name in found]
        return json.dumps(
            [{"tool": one.name, "description": one.description, "arguments": one.schema} for one in offers],
            ensure_ascii=False,
        )


def read_on(file: str, offset: int) -> str:
    """What the model is told of the way to the rest of a kept text."""
    return f'go on with {OWN}__read_result(file="{file}", offset={offset})'


def _description(tool: CataloguedTool) -> str:
    return tool.tool.description or tool.tool.title or ""


def _offer(tool: CataloguedTool) -> OfferedTool:
    return OfferedTool(name=tool.name, description=_description(tool), schema=tool.tool.input_schema)


def _own_offer(name: str, tool: OwnTool) -> OfferedTool:
    return OfferedTool(name=name, description=tool.description, schema=tool.schema)


def _search_offers(count: int) -> tuple[OfferedTool, ...]:
    return (
        OfferedTool(
            name=SEARCH,
            description=f"Find tools by what they are for; there are {count}. Answers with their names and arguments.",
            schema={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        ),
        OfferedTool(
            name=CALL,
            description=f"Call a tool that {SEARCH} has named.",
            schema={
                "type": "object",
                "properties": {"tool": {"type": "string"}, "arguments": {"type": "object"}},
                "required": ["tool"],
            },
        ),
    )
