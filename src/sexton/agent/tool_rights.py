"""What whoever has Sexton's own tools may do with them: a chat, or a job with a prompt (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from sexton.agent.approval import level_of
from sexton.agent.budget import Budget
from sexton.agent.conversation import Conversation
from sexton.agent.model_config import AgentConfig, Approval
from sexton.agent.tool_rules import ToolRules
from sexton.agent.turn import TurnPlan
from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.scheduler import Job, Origin

OWNERS_WAYS: Final = frozenset({"terminal", "web", "api", "openai"})
"""Ways to chat of whoever has a token of this gateway: they share one memory, and see all jobs."""

MOST_JOBS: Final = 50
"""Jobs that one chat may have made."""

MOST_JOBS_OF_JOB: Final = 10
"""Jobs that one job may have made: nobody looks on while it does."""

LEAST_SECONDS: Final = 1.0
LEAST_SECONDS_OF_JOB: Final = 60.0
"""Between two runs of what a job has made; so a prompt that somebody planted there costs at most that often."""


MADE_BY_CHAT: Final = "chat"
MADE_BY_JOB: Final = "job"
MARKS: Final = frozenset({MADE_BY_CHAT, MADE_BY_JOB})
"""The keys of an action that was scheduled by a chat or a job, which say by which."""


class NotAllowed(SextonError):
    """The chat or job may not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRights:
    """What the tools of one chat or job may do.

    `mark` is what an action bears that it has scheduled, `owned` the name that
    its memories go by.  `targets` None: any target of the gateway.  `sees_all`:
    it may read of every job and run, and change only its own.  `timeout` and
    `idle_timeout` bound the runs of what it schedules.
    """

    noun: str
    mark: tuple[str, str]
    may: frozenset[str]
    servers: tuple[str, ...]
    rules: ToolRules
    approvals: Approval
    config: AgentConfig
    owned: str
    models: tuple[str, ...] | None = None
    instructions: str = ""
    budget: Budget | None = None
    timeout: float | None = None
    idle_timeout: float | None = None
    targets: frozenset[str] | None = None
    sees_all: bool = False
    itself: str | None = None
    most_jobs: int = MOST_JOBS
    least_seconds: float = LEAST_SECONDS

    @classmethod
    def of_chat(cls, found: Conversation, config: AgentConfig, known: tuple[str, ...]) -> Self:
        """`known` are the servers that there are."""
        settings = found.settings
        named = settings.servers if settings.servers is not None else config.chat_servers
        is_owners = found.way in OWNERS_WAYS
        return cls(
            noun="conversation",
            mark=(MADE_BY_CHAT, found.id),
            may=frozenset(settings.may),
            servers=known if named is None else named,
            rules=settings.tools,
            approvals=settings.approvals or config.approvals,
            config=config,
            owned="owner" if is_owners else found.key,
            models=settings.models,
            instructions=settings.instructions,
            budget=settings.budget or config.budget,
            timeout=(settings.budget or config.budget).timeout,
            sees_all=is_owners,
        )

    @classmethod
    def of_job(cls, job: Job, plan: TurnPlan, config: AgentConfig) -> Self:
        """`plan` is that of its run.  What it schedules has none of these tools, so jobs do not breed."""
        return cls(
            noun="job",
            mark=(MADE_BY_JOB, job.name),
            may=names_in(job.action, "may"),
            servers=plan.tools.servers,
            rules=plan.tools.rules,
            approvals=plan.tools.approvals,
            config=config,
            owned=f"job:{job.name}",
            models=plan.models,
            instructions=str(job.action.get("instructions") or ""),
            budget=plan.budget,
            timeout=job.timeout,
            idle_timeout=job.idle_timeout,
            targets=frozenset(job.deliver) | names_in(job.action, "send_to"),
            itself=job.name,
            most_jobs=MOST_JOBS_OF_JOB,
            least_seconds=LEAST_SECONDS_OF_JOB,
        )

    def has_made(self, job: Job) -> bool:
        kind, owner = self.mark
        return job.origin is Origin.RUNTIME and job.action.get(kind) == owner

    def may_read(self, job: Job) -> bool:
        return self.sees_all or job.name == self.itself or self.has_made(job)

    def require_server(self, server: str) -> None:
        if server not in self.servers:
            raise NotAllowed(f"This {self.noun} has no server {server!r}.")

    def require_target(self, target: str) -> None:
        if "send" not in self.may:
            raise NotAllowed(f"This {self.noun} may not send messages.")
        if self.targets is not None and target not in self.targets:
            named = ", ".join(sorted(self.targets)) or "nowhere"
            raise NotAllowed(f"This {self.noun} may not send to {target!r}; it may send to: {named}.")

    def level(self, server: str, tool: str) -> Approval:
        return level_of(self.config, self.approvals, server, tool)

    def handed_on(self) -> dict[str, JSON]:
        """What every action that it schedules bears, whatever it does."""
        kind, owner = self.mark
        allow: JSON = None if self.rules.allow is None else list(self.rules.allow)
        tools: dict[str, JSON] = {"allow": allow, "deny": list(self.rules.deny)}
        return {"tools": tools, "approvals": str(self.approvals), kind: owner}

    def limits(self) -> dict[str, JSON]:
        """The budget of each prompt that it schedules: its own."""
        if self.budget is None:
            return {}
        return {
            "max_steps": self.budget.max_steps,
            "max_tokens": self.budget.max_tokens,
            "max_cost": self.budget.max_cost,
        }


def names_in(action: Mapping[str, JSON], key: str) -> frozenset[str]:
    named = action.get(key)
    return frozenset(map(str, named)) if isinstance(named, list | tuple) else frozenset()
