"""The crash-point matrix: whatever dies or fails, at whichever point of a tree's life, nothing of it is left.

The victim ignores end of file and every signal that can be ignored, or has daemonised a helper, so that nothing of it
ends by itself.  The neighbour is a tree of the same gateway, which only the death of the gateway or the warden may end.
Bystanders with the victim's command line must not notice anything.

`SEXTON_FULL=1` runs every combination; without it each point meets every third action on one of the two boundaries, and
each action five points.

Mutants seen to fail here: a rescue that takes a keeper for done when it has reported its last step (`before_rmdir`,
`before_gone` with `stop:keeper`); one that cannot replace a keeper it never heard of (`keeper_before_subreaper` with
`stop:keeper`); no recovery while the gateway lives (every `kill:warden+keeper`).
"""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import anyio
import pytest

from process.conftest import left_of
from sexton.containment import Boundary, Containment
from waiting import PATIENCE
from zoo.oracles import Bystanders, wait_until
from zoo.trial import Trial, trials

ROOT = Path(__file__).parents[2]
STARTING = (
    "warden_after_recv",
    "warden_after_fork",
    "keeper_before_subreaper",
    "after_mkdir",
    "after_fork",
    "child_before_join",
    "child_after_join",
    "before_exec",
    "before_started",
    "after_started",
)
ENDING = ("on_release", "in_term_wait", "in_kill_pass", "before_rmdir", "before_gone")
ONLY_WITH_LEAF = {"after_mkdir", "before_rmdir"}
ACTIONS = (
    "kill:gateway",
    "kill:warden",
    "kill:keeper",
    "kill:gateway+warden",
    "kill:warden+keeper",
    "kill:gateway+warden+keeper",
    "stop:keeper",
    "delay:2",
    "raise:ENOMEM",
    "raise:EMFILE",
    "raise:EAGAIN",
)
ENDS_WARDEN = {"warden_after_recv", "warden_after_fork"}
"""An error that is raised there is one in the warden itself."""


def _cases() -> Iterator[tuple[str, str, Boundary]]:
    is_full = "SEXTON_FULL" in os.environ
    everything = itertools.product(enumerate((*STARTING, *ENDING)), enumerate(ACTIONS))
    for (row, point), (column, action) in everything:
        boundaries = [Boundary.CGROUP] if point in ONLY_WITH_LEAF else [Boundary.CGROUP, Boundary.SUBREAPER]
        if is_full:
            yield from ((point, action, boundary) for boundary in boundaries)
        elif (row + column) % 3 == 0:
            yield point, action, boundaries[column % len(boundaries)]
    for point in ("before_sendmsg", "after_sendmsg"):
        yield point, "kill:gateway", Boundary.CGROUP


class CrashingGateway:
    """`crash_gateway.py` as a process; what it says, line by line."""

    def __init__(self, state: Path, case: tuple[str, str, Boundary], *, neighbour: Trial, victim: Trial) -> None:
        point, action, boundary = case
        path = os.pathsep.join(str(ROOT / part) for part in ("src", "tests"))
        wanted = json.dumps({"neighbour": neighbour.argv, "victim": victim.argv})
        program = Path(__file__).with_name("crash_gateway.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(state), boundary, point, action, wanted],
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._heard = b""

    def hear(self) -> str:
        """The next line; empty when the gateway is dead."""
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            ready, _, _ = select.select([descriptor], [], [], 2 * PATIENCE)
            assert ready, "the gateway neither goes on nor ends"
            if not (chunk := os.read(descriptor, 4096)):
                return ""
            self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def hear_the_end(self) -> list[str]:
        """What it says of the victim, until that is decided or the gateway is dead."""
        heard = []
        while line := self.hear():
            heard.append(line)
            if line.startswith(("gone", "failed")):
                break
        return heard

    def wait_dead(self) -> None:
        """Its descriptors close a moment before it has exited."""
        self._process.wait(PATIENCE)

    def leave(self) -> int:
        """Let it end; its exit status."""
        self._process.communicate(timeout=PATIENCE)
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of a failed test stays behind."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait(PATIENCE)


@contextmanager
def _trials(folder: Path, point: str) -> Iterator[tuple[Trial, Trial]]:
    kind = "stubborn" if point == "in_term_wait" else "daemonises"
    with trials(folder, [kind, "polite"]) as (victim, neighbour):
        yield victim, neighbour


@pytest.mark.parametrize("case", list(_cases()), ids="-".join)
def test_whatever_dies_at_whichever_point_nothing_is_left(tmp_path: Path, case: tuple[str, str, Boundary]) -> None:
    point, action, boundary = case
    state, apparatus = tmp_path / "state", tmp_path / "truth"
    apparatus.mkdir()
    with (
        _trials(apparatus, point) as (victim, neighbour),
        Bystanders(apparatus, [victim.argv]) as bystanders,
        CrashingGateway(state, case, neighbour=neighbour, victim=victim) as gateway,
    ):
        assert gateway.hear() == "neighbour"
        heard = gateway.hear_the_end()
        if action == "kill:gateway+warden+keeper":
            gateway.wait_dead()
            anyio.run(_start_again, state, boundary)
        victim.truth.wait_empty(within=PATIENCE)
        if _leaves_neighbour_alone(point, action):
            assert heard, "the gateway died"
            assert not neighbour.truth.is_empty()
        status = gateway.leave()
        assert (status == 0) is ("gateway" not in action)
        neighbour.truth.wait_empty(within=PATIENCE)
        wait_until(lambda: not left_of(state), within=PATIENCE)
        assert list(state.rglob("*.rec")) == []
        bystanders.assert_untouched()


def _leaves_neighbour_alone(point: str, action: str) -> bool:
    ends_warden = "warden" in action or (point in ENDS_WARDEN and action.startswith("raise"))
    return not ends_warden and "gateway" not in action


async def _start_again(state: Path, boundary: Boundary) -> None:
    async with Containment.open(state, boundary=boundary):
        pass
