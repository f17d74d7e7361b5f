"""Prompt jobs and chats on the same servers at the same time: the scenario from which Sexton began.

Seven jobs run in parallel, over and over; some are cancelled, some run out of time, some raise.  Three chats use the
same servers meanwhile.  No chat may ever see a server that is lost or another's answer, and no process may be left.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.chat_bench import ChatBench, agent_config, chat_bench, raw_server
from scripted_model import Reply, ScriptedModel, call, say
from sexton.actions import run_prompt
from sexton.agent import UserMessage
from sexton.scheduler import Job, Run, RunContext, RunFailed, RunState, Trigger

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

TURNS = int(os.environ.get("SEXTON_TURNS", "45"))
"""Of the three chats together; SEXTON_TURNS=600 for a longer look."""


def model_answer(body: dict[str, Any]) -> Reply:
    """Calls a tool with the words of the last message, then repeats what the tool said."""
    asked = [message for message in body["messages"] if message["role"] in ("user", "tool")][-1]
    if asked["role"] == "tool":
        return say(re.sub(r"</?tool-result[^>]*>", "", str(asked["content"])).strip())
    kind, server, words = str(asked["content"]).split(" ", 2)
    if kind == "hang":
        return call(f"{server}__hang")
    if kind == "raise":
        return say(status=500)
    return call(f"{server}__echo", text=words)


@pytest.mark.timeout(600 + TURNS)
async def test_chats_are_not_disturbed_by_jobs_that_end_in_every_way(tmp_path: Path, model: ScriptedModel) -> None:
    model.answer = model_answer
    servers = [raw_server(tmp_path, name) for name in ("files", "notes")]
    ended: list[str] = []
    async with chat_bench(tmp_path, agent_config(model, search_above=200), *servers, seconds=500 + TURNS) as bench:

        async def keep_running(number: int) -> None:
            while True:
                ended.append(await one_run(bench, number))

        async with anyio.create_task_group() as jobs:
            for number in range(7):
                jobs.start_soon(keep_running, number)
            async with anyio.create_task_group() as chatting:
                for number in range(3):
                    chatting.start_soon(chat_on, bench, number, TURNS // 3)
            jobs.cancel_scope.cancel()
        assert {"ran", "cancelled", "timed out", "failed"} <= set(ended), sorted(set(ended))
        assert [status.holders for status in bench.pool.status()] == [(), ()]


async def chat_on(bench: ChatBench, number: int, turns: int) -> None:
    found = await bench.chats.conversation(f"test:{number}", way="test")
    for turn in range(turns):
        words = f"chat {number} turn {turn}"
        sent = await bench.chats.send(found.id, UserMessage(f"echo {('files', 'notes')[turn % 2]} {words}"))
        ended = await sent.wait()
        assert (ended.state, ended.text, ended.error) == ("done", words, None)


async def one_run(bench: ChatBench, number: int) -> str:
    """A run that ends as its number wants it."""
    kind = ("echo", "hang", "echo", "hang", "raise", "echo", "hang")[number]
    server = ("files", "notes")[number % 2]
    action: dict[str, Any] = {"kind": "prompt", "prompt": f"{kind} {server} job {number}", "servers": [server]}
    at = datetime(2026, 11, 1, tzinfo=UTC)
    run = Run(id=f"0{number}", job=f"job-{number}", state=RunState.RUNNING, trigger=Trigger.MANUAL, created_at=at)
    began = anyio.Event()
    context = RunContext(
        run, Job(name=run.job), progress=lambda text: began.set() if text else None, log=lambda _: None
    )
    failed, limit = False, anyio.CancelScope(deadline=anyio.current_time() + (0.3 if number == 3 else 600))
    try:
        with limit:
            async with anyio.create_task_group() as tasks:
                if kind == "hang" and number != 3:

                    async def cancel() -> None:
                        await began.wait()  # it is at its server now
                        tasks.cancel_scope.cancel()

                    tasks.start_soon(cancel)
                outcome = await run_prompt(bench.agent, action, context)
                assert outcome.output == f"job {number}"
                return "ran"
    except* RunFailed:
        failed = True
    if failed:
        return "failed"
    return "timed out" if limit.cancelled_caught else "cancelled"
