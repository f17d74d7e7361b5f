"""Chats over real servers, a real database and a scripted model, in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from databases import database_at
from process.programs import MARK
from scripted_model import ScriptedModel
from sexton.agent import (
    Agent,
    AgentConfig,
    Approval,
    Approvals,
    Chats,
    ChatSettings,
    Conversation,
    DatabaseApprovals,
    EventStream,
    ModelConfig,
    OwnToolsOf,
    TurnEnded,
    TurnEvent,
    UserMessage,
)
from sexton.clock import SystemClock
from sexton.containment import Containment, StopTimes, TreeStatus
from sexton.database import Database
from sexton.journal import Journal
from sexton.local_models import LocalModels
from sexton.mcp_servers import ServerConfig, ServerPool, StdioServer

SERVERS = Path(__file__).parents[1] / "process" / "stdio_servers"


def model_config(model: ScriptedModel, name: str = "main", **settings: Any) -> ModelConfig:
    given: dict[str, Any] = {"provider": "openai", "model": "scripted", "base_url": model.url, "retries": 0}
    return ModelConfig(name=name, **{**given, **settings})


def agent_config(model: ScriptedModel, **settings: Any) -> AgentConfig:
    given: dict[str, Any] = {"models": {"main": model_config(model)}, "chain": ("main",), "approvals": Approval.NEVER}
    return AgentConfig(**{**given, **settings})


def raw_server(folder: Path, name: str = "raw", **settings: Any) -> ServerConfig:
    """The server in plain Python; it bears the test's mark."""
    command = ("-I", "-S", str(SERVERS / "raw_server.py"))
    transport = StdioServer(command=sys.executable, args=command, env={MARK: str(folder)})
    return ServerConfig(
        name=name, transport=transport, stop=StopTimes(stdin_grace=0.3, term_grace=0.3), call_timeout=60.0, **settings
    )


@dataclass
class ChatBench:
    chats: Chats
    agent: Agent
    pool: ServerPool
    journal: Journal
    database: Database
    local_models: LocalModels
    containment: Containment
    seen: list[TurnEvent] = field(default_factory=list)

    def trees(self) -> tuple[TreeStatus, ...]:
        return self.containment.trees()

    async def chat(self, key: str = "test:1", **settings: Any) -> Conversation:
        return await self.chats.conversation(key, way="test", settings=ChatSettings(**settings))

    async def ask(self, text: str, key: str = "test:1", **settings: Any) -> TurnEnded:
        """Send, wait, and return the end; what was told meanwhile is in `seen`."""
        found = await self.chat(key, **settings)
        stream = self.chats.events(found.id)
        turn = await self.chats.send(found.id, UserMessage(text))
        with anyio.fail_after(60):
            self.seen = await until_end(stream, turn.id)
            return await turn.wait()

    def told(self, kind: type[TurnEvent]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


async def until_end(stream: EventStream, turn: str) -> list[TurnEvent]:
    seen: list[TurnEvent] = []
    async for event in stream:
        seen.append(event)
        if isinstance(event, TurnEnded) and event.turn == turn:
            break
    return seen


@asynccontextmanager
async def chat_bench(
    folder: Path,
    config: AgentConfig,
    *servers: ServerConfig,
    own_tools: OwnToolsOf | None = None,
    clock: Any = None,
    seconds: float = 100.0,
    begun: bool = True,
    owner: str | None = None,
) -> AsyncIterator[ChatBench]:
    clock = clock or SystemClock()
    journal = Journal.open(None)
    with anyio.fail_after(seconds):
        async with (
            Containment.open(folder / "state") as containment,
            Database.open(database_at(folder / "sexton.db")) as database,
            anyio.create_task_group() as tasks,
        ):
            by_name: Mapping[str, ServerConfig] = {server.name: server for server in servers}
            pool = ServerPool(by_name, containment, clock=SystemClock(), journal=journal, data_dir=folder / "data")
            await tasks.start(pool.run)
            timeout = lambda: config.approval_timeout  # noqa: E731
            approvals = Approvals(DatabaseApprovals(database), clock=clock, journal=journal, timeout=timeout)
            local_models = LocalModels(containment, data_dir=folder / "data", clock=clock, journal=journal)
            await tasks.start(local_models.run)
            agent = Agent(
                pool,
                config=config,
                approvals=approvals,
                database=database,
                clock=clock,
                local_models=local_models,
            )
            chats = Chats(database, agent, clock=clock, journal=journal, own_tools=own_tools, owner=owner)
            async with anyio.create_task_group() as chatting:
                await chatting.start(chats.run)
                await chats.resume()
                if begun:
                    chats.begin()
                yield ChatBench(chats, agent, pool, journal, database, local_models, containment)
                chatting.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
        assert containment.trees() == ()
