"""What Sexton adds to a turn and to a tool call of the bare library, and what a chat costs in memory.

One scripted model (`servers/model.py`) and one MCP server (`servers/echo.py`), each a process of its own, serve all in
one run, in turn: pydantic-ai alone with a function as its tool; the same with the SDK's stdio client behind that
function; a turn of Sexton as a job makes it (leases, budget, approvals, marked results); a turn of a chat (the same,
with each step on disk); and a chat by the HTTP API of `sexton up`. A call is what each of --calls calls adds to a turn;
it includes the request to the model that leads to it. Then the memory of a gateway with chats that are idle (a turn
with a call is over) or active (a turn under way that holds a lease and streams).

    python -m benchmarks.agent [--turns 40] [--rounds 3] [--calls 8] [--chats 1 100 1000]
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from pydantic_ai import Agent as BareAgent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.first_result import pool_task
from benchmarks.gateway import Gateway, toml_servers
from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT
from benchmarks.report import markdown_table, say, spread, times, write_csv
from benchmarks.truth import Leaf, private_bytes
from benchmarks.waiting import wait_until
from sexton.agent import (
    Agent,
    AgentConfig,
    Approval,
    Approvals,
    CallRecord,
    Chats,
    ChatSettings,
    DatabaseApprovals,
    Message,
    ModelConfig,
    Role,
    ToolSource,
    TurnEvent,
    TurnPlan,
    Usage,
    UserMessage,
)
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.database import Database
from sexton.journal import Journal
from sexton.mcp_servers import ServerConfig, ServerPool, StdioServer

SERVER = [sys.executable, "-I", "-S", str(ROOT / "benchmarks/servers/echo.py")]
MODEL = [sys.executable, "-I", "-S", str(ROOT / "benchmarks/servers/model.py")]
ANSWER = "That is all."
BARE = "pydantic-ai, a function"
MIB = 2**20
TURN_SECONDS = 600.0

Ask = Callable[[int], Awaitable[str]]
"""Makes a turn with so many calls, and gives its reply."""


@dataclass(slots=True)
class Seconds:
    """Of each turn without a call, and of each with `--calls` of them."""

    plain: list[float] = field(default_factory=list)
    calling: list[float] = field(default_factory=list)

    def per_call(self, calls: int) -> float:
        """What one call adds, by the medians."""
        return (statistics.median(self.calling) - statistics.median(self.plain)) / calls


def prompt(calls: int, *, holds: bool = False) -> str:
    """What the scripted model does as it says."""
    return json.dumps({"calls": calls, "holds": holds})


@contextlib.contextmanager
def scripted_model() -> Iterator[str]:
    """The URL of a model's server, until left."""
    with subprocess.Popen(MODEL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.kill()


# --- the ways to make a turn --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bare(url: str, _folder: Path) -> AsyncIterator[Ask]:
    """The library alone."""

    async def echo(text: str) -> str:
        """Says what it is told."""
        return text

    yield _library(url, echo)


@contextlib.asynccontextmanager
async def bare_with_server(url: str, _folder: Path) -> AsyncIterator[Ask]:
    """The library, its tool being a call through the SDK's own client."""
    parameters = StdioServerParameters(command=SERVER[0], args=SERVER[1:])
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()

        async def echo(text: str) -> str:
            """Says what it is told."""
            content: Any = (await session.call_tool("echo", {"text": text})).content[0]
            return str(content.text)

        yield _library(url, echo)


def _library(url: str, tool: Callable[[str], Awaitable[str]]) -> Ask:
    model = OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=url, api_key="none"))
    agent = BareAgent(model, tools=[tool])

    async def ask(calls: int) -> str:
        async with agent.run_stream(prompt(calls)) as run:
            return str(await run.get_output())

    return ask


@contextlib.asynccontextmanager
async def job_turns(url: str, folder: Path) -> AsyncIterator[Ask]:
    """Sexton's turn, with nothing kept but in memory."""
    async with sexton(url, folder) as (agent, _):

        async def ask(calls: int) -> str:
            source = ToolSource(holder="run:1", turn="1", servers=("echo",), approvals=Approval.NEVER, strict=True)
            plan = TurnPlan(tools=source, history=(Message(role=Role.USER, text=prompt(calls)),))
            return (await agent.run(plan, Kept())).text

        yield ask


@contextlib.asynccontextmanager
async def chat_turns(url: str, folder: Path) -> AsyncIterator[Ask]:
    """Sexton's chat, each turn in a conversation of its own, as the bare library has no history either."""
    async with sexton(url, folder) as (_, chats):
        numbers = iter(range(sys.maxsize))

        async def ask(calls: int) -> str:
            found = await chats.conversation(f"bench:{next(numbers)}", way="api", settings=ChatSettings())
            return (await (await chats.send(found.id, UserMessage(prompt(calls)))).wait()).text

        yield ask


@contextlib.asynccontextmanager
async def http_turns(url: str, folder: Path) -> AsyncIterator[Ask]:
    """The same by `sexton up`."""
    with Leaf.made() as leaf, gateway(leaf, url, folder) as running:
        async with httpx2.AsyncClient(**running.address(), timeout=TURN_SECONDS) as client:

            async def ask(calls: int) -> str:
                made = await client.post("/conversations", json={"may": []})
                said = {"text": prompt(calls), "wait": True}
                ended = await client.post(f"/conversations/{made.json()['id']}/messages", json=said)
                return str(ended.json()["text"])

            yield ask


WAYS: dict[str, Callable[[str, Path], contextlib.AbstractAsyncContextManager[Ask]]] = {
    BARE: bare,
    "pydantic-ai, the SDK's client": bare_with_server,
    "sexton, as a job": job_turns,
    "sexton, as a chat (SQLite, synced)": chat_turns,
    "sexton up, by HTTP": http_turns,
}


@contextlib.asynccontextmanager
async def sexton(url: str, folder: Path) -> AsyncIterator[tuple[Agent, Chats]]:
    """Its parts in this process, with one warm server."""
    clock = SystemClock()
    journal = Journal.open(clock=clock)
    model = ModelConfig(name="main", provider="openai", model="scripted", base_url=url)
    config = AgentConfig(models={"main": model}, chain=("main",), approvals=Approval.NEVER)
    echo = ServerConfig(name="echo", transport=StdioServer(command=SERVER[0], args=tuple(SERVER[1:])))
    async with (
        Containment.open(folder) as containment,
        Database.open(folder / "sexton.db") as database,
        anyio.create_task_group() as tasks,
    ):
        pool = ServerPool({"echo": echo}, containment, clock=clock, journal=journal, data_dir=folder)
        await tasks.start(pool_task, pool)
        approvals = Approvals(DatabaseApprovals(database), clock=clock, journal=journal, timeout=lambda: 60.0)
        agent = Agent(pool, config=config, approvals=approvals, database=database, clock=clock)
        chats = Chats(database, agent, clock=clock, journal=journal)
        tasks.start_soon(_serve, chats)
        await anyio.wait_all_tasks_blocked()
        chats.begin()
        yield agent, chats
        tasks.cancel_scope.cancel()


async def _serve(chats: Chats) -> None:
    await chats.run()


class Kept:
    """What a turn wants to be recorded, in memory."""

    def __init__(self) -> None:
        self._messages = 0

    async def add_reply(self, message: Message) -> Message:
        """Numbers it."""
        self._messages += 1
        return Message(**{**{name: getattr(message, name) for name in message.__slots__}, "number": self._messages})

    async def call_changed(self, message: Message, call: CallRecord) -> None:
        """Nothing."""

    async def take_steering(self) -> tuple[UserMessage, ...]:
        """Nobody steers."""
        return ()

    def tell(self, event: TurnEvent) -> None:
        """Nobody listens."""

    def used(self, usage: Usage) -> None:
        """Nobody counts."""


@contextlib.contextmanager
def gateway(leaf: Leaf, url: str, folder: Path) -> Iterator[Gateway]:
    """A `sexton up` with the model and the server."""
    (folder / "sexton.toml").write_text(
        'listen = "127.0.0.1:0"\n\n[agent]\napprovals = "never"\n\n'
        f'[models.main]\nprovider = "openai"\nmodel = "scripted"\nbase_url = "{url}"\ntimeout = "1h"\n\n'
        + toml_servers({"echo": {"command": SERVER[0], "args": SERVER[1:]}})
    )
    running = Gateway(leaf, folder)
    running.start()
    try:
        yield running
    finally:
        running.kill()


# --- time ----------------------------------------------------------------------------------------------


async def measure(url: str, options: argparse.Namespace) -> dict[str, Seconds]:
    """All ways are open at once and take turns, so that a busy moment of the machine hits all alike."""
    measured = {name: Seconds() for name in WAYS}
    async with contextlib.AsyncExitStack() as stack:
        asks = {}
        for number, (name, way) in enumerate(WAYS.items()):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"agent-{number}-")))
            asks[name] = await stack.enter_async_context(way(url, folder))
            for calls in (0, options.calls):
                await timed(asks[name], calls)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds} …")
            for _ in range(options.turns):
                for name, ask in asks.items():
                    measured[name].plain.append(await timed(ask, 0))
                    measured[name].calling.append(await timed(ask, options.calls))
    return measured


async def timed(ask: Ask, calls: int) -> float:
    """Seconds of one turn.  Raises RuntimeError if its reply is not the model's."""
    began = time.perf_counter()
    reply = await ask(calls)
    if reply != ANSWER:
        raise RuntimeError(f"not the model's answer: {reply!r}")
    return time.perf_counter() - began


def time_table(measured: dict[str, Seconds], calls: int) -> tuple[Sequence[str], list[list[str]]]:
    """A row for each way, beside the bare library."""
    bare_turn, bare_call = statistics.median(measured[BARE].plain), measured[BARE].per_call(calls)
    headers = (
        "turn",
        "without calls, ms",
        "to bare",
        f"with {calls} calls, ms",
        "to bare",
        "a call adds, ms",
        "to bare",
    )
    bare_calling = statistics.median(measured[BARE].calling)
    return headers, [
        [
            name,
            spread([one * 1000 for one in seconds.plain]),
            times(statistics.median(seconds.plain), bare_turn),
            spread([one * 1000 for one in seconds.calling]),
            times(statistics.median(seconds.calling), bare_calling),
            f"{seconds.per_call(calls) * 1000:.2f}",
            times(seconds.per_call(calls), bare_call),
        ]
        for name, seconds in measured.items()
    ]


# --- memory --------------------------------------------------------------------------------------------


def memory_of(url: str, count: int, *, active: bool) -> tuple[float, float]:
    """Private MiB of a gateway before there is a chat but one, which has loaded all, and with `count` more."""
    with tempfile.TemporaryDirectory() as name, Leaf.made() as leaf, gateway(leaf, url, Path(name)) as running:
        assert running.process is not None
        with running.client(timeout=TURN_SECONDS) as client:
            begin(client, active=False)
            before = private_bytes(running.process.pid)
            for _ in range(count):
                begin(client, active=active)
            if active and not wait_until(lambda: leases(client) == count, TURN_SECONDS, every=0.5):
                raise TimeoutError(f"{leases(client)} turns of {count} are under way")
            return before / MIB, private_bytes(running.process.pid) / MIB


def begin(client: httpx2.Client, *, active: bool) -> None:
    """One more conversation, whose turn is over when this returns, or goes on for ever."""
    conversation = client.post("/conversations", json={"may": []}).json()["id"]
    said = {"text": prompt(1, holds=active), "wait": not active}
    client.post(f"/conversations/{conversation}/messages", json=said).raise_for_status()


def leases(client: httpx2.Client) -> int:
    """How many turns have made their call, and hold the lease that it took."""
    [server] = client.get("/servers").json()
    return len(server["holders"])


def memory_table(url: str, counts: Sequence[int]) -> tuple[Sequence[str], list[list[str]]]:
    """A row for each number of chats, idle and active."""
    rows = []
    for count in counts:
        for kind in ("idle", "active"):
            before, after = memory_of(url, count, active=kind == "active")
            each = (after - before) * 1024 / count
            rows.append([f"{count:,} {kind}", f"{before:.1f}", f"{after:.1f}", f"{each:.0f}"])
            say(f"memory: {rows[-1]} …")
    return ("chats", "gateway before, MiB private", "with them", "KiB a chat"), rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40, help="turns of each kind in each round")
    parser.add_argument("--rounds", type=int, default=3, help="each measures every way")
    parser.add_argument("--calls", type=int, default=8, help="tool calls of the turns with calls")
    parser.add_argument("--chats", type=int, nargs="*", default=[1, 100, 1000], help="whose memory is measured")
    options = parser.parse_args()
    say(f"on {describe_machine()}\n")
    with scripted_model() as url:
        headers, rows = time_table(anyio.run(measure, url, options), options.calls)
        say(f"\n{markdown_table(headers, rows)}\n")
        write_csv("agent-time", headers, rows)
        headers, rows = memory_table(url, options.chats)
        say(f"\n{markdown_table(headers, rows)}")
        write_csv("agent-memory", headers, rows)


if __name__ == "__main__":
    main()
