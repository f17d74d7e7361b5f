"""Which tool calls wait for a person, and the waiting.

A question is in the database before anybody waits for its answer, so that it
shows in every way in and outlives a restart; nobody's answer in time is "no".
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Protocol, final

import anyio

from sexton.agent.model_config import AgentConfig, Approval
from sexton.clock import Clock
from sexton.errors import UsageError
from sexton.journal import JSON, Journal

_STRENGTH = (Approval.NEVER, Approval.DESTRUCTIVE, Approval.ALWAYS)


class Hints(Protocol):
    """What a server says of a tool (MCP's tool annotations); None: it does not say."""

    @property
    def read_only_hint(self) -> bool | None: ...
    @property
    def destructive_hint(self) -> bool | None: ...


def needs_approval(level: Approval, hints: Hints | None) -> bool:
    """Say whether a call waits for a person.

    A tool that says nothing of itself counts as destructive, as MCP has it (specification, ToolAnnotations).
    """
    if level is not Approval.DESTRUCTIVE:
        return level is Approval.ALWAYS
    if hints is None:
        return True
    return not hints.read_only_hint and hints.destructive_hint is not False


def level_of(config: AgentConfig, holder: Approval, server: str, tool: str) -> Approval:
    """The stricter of what the owner says of the server or its tool, and what the job or chat has."""
    said = config.server_approvals.get(server)
    if said is None:
        return holder
    for pattern, level in said.tools.items():
        if fnmatchcase(tool, pattern):
            return level  # said of this very tool, so it is meant
    return max(said.level, holder, key=_STRENGTH.index)


class ApprovalState(enum.StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    VOID = "void"
    """What was asked for is over; no answer matters any more."""


class QuestionKind(enum.StrEnum):
    CALL = "call"
    ELICITATION = "elicitation"
    """A server asks for input."""
    SAMPLING = "sampling"
    """A server asks for an answer of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked.

    `key` is the same for the same question after a restart.  `asked` holds
    `arguments` of a call, `message` and `schema` of an elicitation, `messages`
    of a sampling.
    """

    key: str
    kind: QuestionKind
    holder: str
    turn: str
    server: str
    tool: str
    asked: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingApproval:
    """A question as it stands.  `content` is what a person filled in, for an elicitation."""

    id: str
    question: Question
    state: ApprovalState
    asked_at: datetime
    expires_at: datetime
    answered_at: datetime | None = None
    answered_by: str | None = None
    content: Mapping[str, JSON] | None = None

    def as_json(self) -> dict[str, JSON]:
        question = self.question
        return {
            "id": self.id,
            "kind": str(question.kind),
            "holder": question.holder,
            "turn": question.turn,
            "server": question.server,
            "tool": question.tool,
            "question": dict(question.asked),
            "state": str(self.state),
            "asked_at": self.asked_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "answered_at": self.answered_at.isoformat() if self.answered_at else None,
            "answered_by": self.answered_by,
        }


class UnknownApproval(UsageError):
    """There is no such question."""


class ApprovalOver(UsageError):
    """The question is answered already, or nobody waits for its answer any more."""


class ApprovalStore(Protocol):
    """Questions in the database."""

    async def add_or_find(self, fresh: PendingApproval) -> PendingApproval: ...
    async def find(self, approval: str) -> PendingApproval | None: ...
    async def close(self, approval: PendingApproval) -> bool: ...
    async def listed(self, *, pending_only: bool, limit: int) -> tuple[PendingApproval, ...]: ...
    async def void(self, *, turn: str | None, holder_prefix: str | None, at: datetime) -> tuple[str, ...]: ...


@final
class Approvals:
    """The questions of all turns of one gateway."""

    def __init__(self, store: ApprovalStore, *, clock: Clock, journal: Journal, timeout: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._timeout = timeout
        self._answered: dict[str, anyio.Event] = {}

    async def ask(self, question: Question, *, on_asked: Callable[[PendingApproval], None]) -> PendingApproval:
        """Ask, and wait for the answer or for the end of the time for it.  The same question is never asked twice.

        A cancelled wait leaves the question as it is: `void` closes it when its turn is over.
        """
        now = self._clock.now()
        fresh = PendingApproval(
            id=uuid.uuid4().hex[:12],
            question=question,
            state=ApprovalState.PENDING,
            asked_at=now,
            expires_at=now + timedelta(seconds=self._timeout()),
        )
        known = await self._store.add_or_find(fresh)
        if known.state is not ApprovalState.PENDING:
            return known
        news = self._answered.setdefault(known.id, anyio.Event())
        on_asked(known)
        if known.id == fresh.id:
            self._tell("asked", known)
        try:
            return await self._wait_answer(known, news)
        finally:
            self._answered.pop(known.id, None)

    async def answer(
        self, approval: str, *, yes: bool, by: str, content: Mapping[str, JSON] | None = None
    ) -> PendingApproval:
        """Answer a pending question.  Raises UnknownApproval, ApprovalOver."""
        known = await self.find(approval)
        state = ApprovalState.APPROVED if yes else ApprovalState.DENIED
        closed = replace(known, state=state, answered_at=self._clock.now(), answered_by=by, content=content)
        if known.state is not ApprovalState.PENDING or not await self._store.close(closed):
            now = await self.find(known.id)
            raise ApprovalOver(
                f"The question {known.id} ({now.question.server}.{now.question.tool}) is {now.state} already.",
                hint="see what still waits: sexton approvals",
            )
        self._tell("answered", closed)
        if news := self._answered.get(known.id):
            news.set()
        return closed

    async def find(self, approval: str) -> PendingApproval:
        """The question of that id.  Raises UnknownApproval."""
        if found := await self._store.find(approval):
            return found
        raise UnknownApproval(f"There is no question {approval!r}.", hint="see what waits: sexton approvals")

    async def listed(self, *, pending_only: bool = True, limit: int = 200) -> tuple[PendingApproval, ...]:
        """Questions, newest first."""
        return await self._store.listed(pending_only=pending_only, limit=limit)

    async def void(self, *, turn: str | None = None, holder_prefix: str | None = None) -> None:
        """Close what a turn (or every holder of that kind) still asks: nobody waits for it any more."""
        for approval in await self._store.void(turn=turn, holder_prefix=holder_prefix, at=self._clock.now()):
            self._journal.append("approval.void", subject=approval)

    async def _wait_answer(self, asked: PendingApproval, news: anyio.Event) -> PendingApproval:
        async with anyio.create_task_group() as tasks:

            async def expire() -> None:
                await self._clock.sleep((asked.expires_at - self._clock.now()).total_seconds())
                news.set()

            tasks.start_soon(expire)
            await news.wait()
            tasks.cancel_scope.cancel()
        known = await self.find(asked.id)
        if known.state is not ApprovalState.PENDING:
            return known
        expired = replace(known, state=ApprovalState.EXPIRED, answered_at=self._clock.now())
        if await self._store.close(expired):
            self._tell("expired", expired)
            return expired
        return await self.find(asked.id)

    def _tell(self, what_happened: str, approval: PendingApproval) -> None:
        self._journal.append(f"approval.{what_happened}", subject=approval.id, approval=approval.as_json())
