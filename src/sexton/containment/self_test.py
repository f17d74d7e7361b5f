"""Shows by trial what a boundary holds on this host: small adversaries are started, killed and proven gone.

The adversaries are what defeats weaker ways of ending a tree: a daemon that left its session and its parent; one that
executed another program with an empty environment; one that forks on, again and again, so that its pid is never the
same.  Their witness is independent of the code that ends them: each holds the write end of one pipe, and end of file on
it proves that none lives.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import anyio

from sexton.containment.containment import Containment
from sexton.containment.containment_errors import ContainmentError
from sexton.containment.spec import ProcessSpec
from sexton.containment.tree_state import Boundary

_PROOF_WITHIN = 5.0
_READY_WITHIN = 20.0

# A daemon; a daemon in disguise; a process that lives 1 ms and goes on as its child; and a leader that takes no hint.
_ADVERSARIES = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
        os._exit(0)
    os.wait()
def sit():
    while True:
        signal.pause()
def disguise():
    os.execve("/bin/sh", ["idle", "-c", "while :; do sleep 3600; done"], {})
def hop():
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.001)
for work in (sit, disguise, hop):
    daemon(work)
os.write(1, b"ready")
sit()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How one boundary fared.  `seconds` from the kill to the proof; `failure` is None when it held."""

    boundary: Boundary
    seconds: float | None = None
    failure: str | None = None


async def try_boundary(containment: Containment) -> Trial:
    """Have that containment hold the adversaries, kill them, and look whether any is left."""
    witness, held = os.pipe()
    os.set_blocking(witness, False)
    try:
        spec = ProcessSpec(
            name="self-test",
            owner="doctor",
            argv=(sys.executable, "-I", "-S", "-E", "-c", _ADVERSARIES),
            stderr=held,
        )
        try:
            async with containment.start(spec) as tree:
                os.close(held)
                held = -1
                with anyio.fail_after(_READY_WITHIN):
                    await anyio.wait_readable(tree.stdout)
                began = time.monotonic()
                tree.kill()
                await tree.wait_gone()
                proven = time.monotonic() - began
        except (ContainmentError, TimeoutError) as error:
            return Trial(boundary=containment.boundary, failure=str(error) or "the adversaries did not start in time")
        if not await _has_ended(witness):
            return Trial(boundary=containment.boundary, failure="an adversary outlived the proof that it is gone")
        return Trial(boundary=containment.boundary, seconds=proven)
    finally:
        os.close(witness)
        if held >= 0:
            os.close(held)


async def _has_ended(witness: int) -> bool:
    """Whether nobody holds the other end.  At once: proven empty means empty."""
    try:
        return os.read(witness, 1) == b""
    except BlockingIOError:
        return False
