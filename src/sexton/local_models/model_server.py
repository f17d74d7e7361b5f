"""One server of a model, from the decision to start it until its end is proven."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Final, final

import anyio

from sexton.containment import ProcessSpec, ProcessTree, StopTimes, TreeEnd
from sexton.errors import SextonError
from sexton.local_models import server_main
from sexton.local_models.local_model import EXTRA, SLOTS, LocalModel

CACHE_MIB: Final = 256
"""What a server may keep of prompts that it has read, beside the contexts in use."""

MOST_THREADS: Final = 8
MOST_REPORTED: Final = 4_096
MOST_QUOTED: Final = 300
END_TOLD_WITHIN: Final = 5.0
"""Seconds between the end of a server's output and the news of how it ended."""


class LocalModelFailed(SextonError):
    """A model on this machine cannot answer: its file is missing, its server does not start, or it died."""


@final
class ModelServer:
    """What the holders of a server know of it.

    Always true:
        1. `settled` is set when it serves or never will; then `url` or `failure` is there.
        2. `over` is set when no more use can be made of it; whoever still holds it gets errors from it.
    """

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.key = secrets.token_urlsafe(32)
        self.url = ""
        self.pid: int | None = None
        self.failure: SextonError | None = None
        self.settled = anyio.Event()
        self.over = anyio.Event()
        self.why_over = ""
        self.holders: list[str] = []
        self.idle_since = 0.0
        self._idle = anyio.Event()

    def hold(self, holder: str) -> None:
        self.holders.append(holder)
        if self._idle.is_set():  # else somebody may be waiting for this very one
            self._idle = anyio.Event()

    def let_go(self, holder: str, *, now: float) -> None:
        self.holders.remove(holder)
        if not self.holders:
            self.idle_since = now
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until nobody holds it.  Somebody may again by the time that the caller runs."""
        await self._idle.wait()

    def serves_at(self, url: str) -> None:
        self.url = url
        self.settled.set()

    def fails(self, failure: SextonError) -> None:
        self.failure = failure
        self.ends(failure.what)

    def ends(self, why: str) -> None:
        """From here on nothing comes of it.  Idempotent; the first reason stands."""
        if not self.over.is_set():
            self.why_over = why
            self.failure = self.failure or LocalModelFailed(why)
            self.over.set()
            self.settled.set()


def server_spec(model: LocalModel, log_dir: Path) -> ProcessSpec:
    """The program is a file of ours that loads nothing else of ours."""
    return ProcessSpec(
        name=model.name,
        argv=(sys.executable, "-I", server_main.__file__),
        owner=f"model:{model.name}",
        stderr=log_dir / f"model-{model.name}.log",
        stop=StopTimes(orphaned_stdin_grace=0.0, orphaned_term_grace=0.0),
    )


def order_for(model: LocalModel, file: Path, key: str) -> bytes:
    """What the program is told on its stdin: there nobody else can read the key."""
    order = {
        "file": str(file),
        "key": key,
        "context": model.context,
        "slots": SLOTS,
        "threads": model.threads or min(MOST_THREADS, max(1, len(os.sched_getaffinity(0)) // 2)),
        "name": model.name,
        "cache_mib": CACHE_MIB,
    }
    return json.dumps(order).encode() + b"\n"


async def wait_serving(tree: ProcessTree, model: LocalModel, order: bytes) -> str:
    """Hand over the order and wait for the address.

    Raises:
        LocalModelFailed: it ended before, or took longer than `start_timeout`.
    """
    with anyio.move_on_after(model.start_timeout):
        try:
            os.write(tree.stdin, order)  # far less than a pipe holds
        except BrokenPipeError:
            raise await _never_served(tree, model) from None
        line = await _read_line(tree.stdout)
        if not line:
            raise await _never_served(tree, model)
        return str(json.loads(line)["url"])
    raise LocalModelFailed(
        f"The server of model {model.name!r} was not ready after {model.start_timeout:g} s, so we stopped it.",
        hint=f"raise start_timeout under [models.{model.name}], or take a smaller model",
    )


def ending(model: LocalModel, end: TreeEnd) -> str:
    """How a server that served came to its end, as a sentence."""
    return f"The server of model {model.name!r} {_how(end)}."


async def _never_served(tree: ProcessTree, model: LocalModel) -> LocalModelFailed:
    how = "closed its output"
    with anyio.move_on_after(END_TOLD_WITHIN):
        how = _how(await tree.wait_ended())
    words = _last_words(tree.stderr_tail)
    told = f"\n  Its last words: {words}" if words else ""
    hint = f"see whether {model.file} is a whole GGUF file, and whether memory is enough for it"
    if "xllamacpp" in words:
        hint = f"install what it needs: pip install '{EXTRA}'"
    return LocalModelFailed(f"The server of model {model.name!r} {how} before it was ready.{told}", hint=hint)


def _how(end: TreeEnd) -> str:
    if end.signal is not None:
        name = signal.Signals(end.signal).name if end.signal in set(signal.Signals) else str(end.signal)
        return f"was ended by {name}"
    if end.returncode is not None:
        return f"ended with status {end.returncode}"
    return f"was stopped ({end.reason.value.replace('_', ' ')})"


def _last_words(tail: str) -> str:
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1][:MOST_QUOTED] if lines else ""


async def _read_line(descriptor: int) -> bytes:
    """The first line; empty if the output ends before."""
    read = b""
    while b"\n" not in read and len(read) < MOST_REPORTED:
        await anyio.wait_readable(descriptor)
        try:
            more = os.read(descriptor, MOST_REPORTED)
        except BlockingIOError:
            continue
        if not more:
            return b""
        read += more
    return read.partition(b"\n")[0]
