"""Every adversary of the zoo against every way in which a tree ends, with and without a cgroup leaf.

Judged by oracles that do not ask the code under test: who is alive by an independent cgroup and a FIFO, whether any
process that is none of ours was touched, and whether a helper was left.  All kinds of one test run side by side, so
each is also the neighbour of all others.

`SEXTON_FULL=1` adds the crowds, and every kind at every await point.

Mutants seen to fail here: SIGKILL to the leader's process group only, a keeper that is no subreaper, no walk of
descendants beside the cgroup (whole trees, P3); a warden that sweeps what living keepers keep (P1); keepers that do not
watch the warden, a warden that is no subreaper (P7).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from process.await_points import Interruption, interrupt
from process.conftest import BOUNDARIES
from sexton.containment import Boundary, Containment, EndReason, ProcessTree
from waiting import PATIENCE, promised
from waiting import wait_until as wait_until_async
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, describe, helpers_of, wait_none_of, wait_until
from zoo.trial import CHEAP, COSTLY, Trial, trials, wait_ready

IS_FULL = "SEXTON_FULL" in os.environ
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900 if IS_FULL else 600)]
PROMISED = promised(20.0 if IS_FULL else 2.0)
"""Seconds within which nothing is left when one of our processes is killed (P7); crowds take longer to die."""
MOST_POINTS = 60
STRUCK_AT_EACH_POINT = ("stubborn", "daemonises", "scrubs", "stopped", "holds_stdin", "parent_clones")


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    """Same user, same command lines, same range of pids."""
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), kind) for kind in ("daemonises", "scrubs", "stubborn")]) as fleet:
        yield fleet
        fleet.assert_untouched()


@pytest.fixture
def cheap(tmp_path: Path) -> Iterator[tuple[Trial, ...]]:
    with trials(tmp_path, (*CHEAP, *COSTLY) if IS_FULL else CHEAP) as made:
        yield made


def survivors(made: Sequence[Trial]) -> dict[str, list[str]]:
    left = {trial.kind: [describe(pid) for pid in trial.truth.survivors()] for trial in made}
    return {kind: pids for kind, pids in left.items() if pids}


class Meeting:
    """Lets nobody go on until everybody has come."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._complete, self._all_but_one = anyio.Event(), anyio.Event()

    async def wait_for_others(self) -> None:
        """Until only the caller is missing."""
        with anyio.fail_after(60):
            await self._all_but_one.wait()

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing == 1:
            self._all_but_one.set()
        if self._missing == 0:
            self._complete.set()
        with anyio.fail_after(60):
            await self._complete.wait()


Ending = Callable[[Containment, Trial, Meeting], Awaitable[None]]


async def close(containment: Containment, trial: Trial, everyone: Meeting) -> None:
    async with containment.start(trial.spec()) as tree:
        await wait_ready(tree)
        await everyone.wait()
    assert (await tree.wait_gone()).reason in {EndReason.RELEASED, EndReason.LEADER_EXIT}


async def fail(containment: Containment, trial: Trial, everyone: Meeting) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with containment.start(trial.spec()) as tree:
            await wait_ready(tree)
            await everyone.wait()
            raise ZeroDivisionError


async def be_cancelled(containment: Containment, trial: Trial, everyone: Meeting) -> None:
    with anyio.CancelScope() as scope:
        async with containment.start(trial.spec()) as tree:
            await wait_ready(tree)
            await everyone.wait()
            scope.cancel()
            await anyio.sleep_forever()


async def kill(containment: Containment, trial: Trial, everyone: Meeting) -> None:
    async with containment.start(trial.spec()) as tree:
        await wait_ready(tree)
        await everyone.wait()
        tree.kill()
        await tree.wait_gone()


async def all_end(made: Sequence[Trial], boundary: Boundary, state_dir: Path, ending: Ending) -> None:
    """Start all of them; when all are ready, end all in that way; when `ending` returns the truth must be empty."""
    everyone = Meeting(len(made) + 1)

    async def one(trial: Trial) -> None:
        await ending(containment, trial, everyone)
        assert trial.truth.is_empty(), f"proven empty, and alive: {survivors([trial])}"

    async with Containment.open(state_dir, boundary=boundary) as containment:
        async with anyio.create_task_group() as tasks:
            for trial in made:
                tasks.start_soon(one, trial)
            await everyone.wait_for_others()
            helpers = helpers_of(os.getpid())
            await everyone.wait()
        assert containment.trees() == ()
    wait_none_of(helpers, within=PATIENCE)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("ending", [close, fail, be_cancelled, kill])
async def test_when_a_tree_has_ended_nobody_of_it_is_alive(
    ending: Ending, boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    await all_end(cheap, boundary, tmp_path / "state", ending)
    assert survivors(cheap) == {}
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_a_tree_whose_handle_is_forgotten_ends(
    boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
        forgotten: list[ProcessTree] = [containment.start(trial.spec()) for trial in cheap]
        for tree in forgotten:
            await wait_ready(tree)
        del tree
        forgotten.clear()
        gc.collect()
        for trial in cheap:
            trial.truth.wait_empty(within=PROMISED)
    assert bystanders


async def live(containment: Containment, trial: Trial) -> None:
    """A whole life: start, talk, end."""
    async with containment.start(trial.spec()) as tree:
        await tree.wait_started()
        await wait_ready(tree)
        tree.close_stdin()


Strike = Callable[[Containment, Trial, int], Awaitable[int]]


async def cancel_scope_at(containment: Containment, trial: Trial, point: int) -> int:
    """How many await points it came to; when this returns the truth must be empty."""
    with anyio.CancelScope() as scope:
        points = await interrupt(live(containment, trial), {point: scope.cancel})
        assert trial.truth.is_empty(), f"cancelled at point {point}, left, and alive: {survivors([trial])}"
        return points
    assert trial.truth.is_empty(), f"cancelled at point {point}, left, and alive: {survivors([trial])}"
    return point


async def cancel_natively_twice_at(containment: Containment, trial: Trial, point: int) -> int:
    """asyncio's own cancellation, and again while the tree is being stopped: the wait is lost then, the end is not."""
    strikes: dict[int, Interruption] = {point: asyncio.CancelledError, point + 1: asyncio.CancelledError}
    try:
        points = await interrupt(live(containment, trial), strikes)
    except asyncio.CancelledError:
        points = point
    await wait_until_async(trial.truth.is_empty, seconds=PATIENCE)
    return points


def _struck() -> Iterator[Any]:
    """Each way on one of the boundaries, or, with SEXTON_FULL, on all."""
    for number, strike in enumerate((cancel_scope_at, cancel_natively_twice_at)):
        for boundary in BOUNDARIES if IS_FULL else (BOUNDARIES[1 - number],):
            yield pytest.param(*boundary.values, strike, marks=boundary.marks, id=f"{boundary.id}-{strike.__name__}")


@pytest.mark.parametrize(("boundary", "strike"), list(_struck()))
async def test_a_cancellation_at_any_await_point_leaves_nobody(
    boundary: Boundary, strike: Strike, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Point by point through start, use and stop; all kinds side by side, so that each is a neighbour of the others."""

    async def at_each_point(trial: Trial) -> None:
        for point in range(1, MOST_POINTS):
            if await strike(containment, trial, point) < point:
                return
        pytest.fail("it never came to its end")

    with trials(tmp_path, CHEAP if IS_FULL else STRUCK_AT_EACH_POINT) as made:
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            async with anyio.create_task_group() as tasks:
                for trial in made:
                    tasks.start_soon(at_each_point, trial)
            await wait_until_async(lambda: containment.trees() == ())
            helpers = helpers_of(os.getpid())
        wait_none_of(helpers, within=PATIENCE)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_when_the_gateway_is_killed_nothing_is_left(
    boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    with GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start(cheap)
        gateway.kill()
        wait_all_empty(cheap, within=PROMISED)
        gateway.wait_helpers_gone(within=PROMISED)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_when_the_gateway_is_terminated_it_has_ended_everything_before_it_leaves(
    boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    """SIGTERM to a gateway that handles it: when it has exited, nobody is alive, without any further wait."""
    with GatewayProcess(tmp_path / "state", boundary, env={"ZOO_ORDERLY": "1"}) as gateway:
        gateway.start(cheap)
        gateway.terminate()
        assert survivors(cheap) == {}
    assert bystanders


def wait_all_empty(made: Sequence[Trial], *, within: float) -> None:
    try:
        wait_until(lambda: all(trial.truth.is_empty() for trial in made), within=within)
    except TimeoutError:
        raise AssertionError(f"alive after {within} s: {survivors(made)}") from None


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_when_the_warden_is_killed_nothing_is_left_and_the_gateway_goes_on(
    boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    with trials(tmp_path, ["scrubs"]) as later, GatewayProcess(tmp_path / "state", boundary) as gateway:
        started = gateway.start(cheap)
        os.kill(gateway.warden, signal.SIGKILL)
        wait_all_empty(cheap, within=PROMISED)
        gateway.wait_helpers_gone(within=PROMISED)
        assert gateway.tell(gone=started["stubborn"])["gone"] == EndReason.WARDEN_DIED
        gateway.start(later)
        assert len(later[0].truth.survivors()) == 2
        gateway.close()
        assert survivors(later) == {}
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_when_all_keepers_are_killed_nothing_is_left_and_the_gateway_goes_on(
    boundary: Boundary, cheap: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    with trials(tmp_path, ["scrubs"]) as later, GatewayProcess(tmp_path / "state", boundary) as gateway:
        started = gateway.start(cheap)
        for keeper in gateway.keepers():
            with suppress(ProcessLookupError):  # that of the one whose leader exits may have left by itself
                os.kill(keeper, signal.SIGKILL)
        wait_all_empty(cheap, within=PROMISED)
        assert gateway.tell(gone=started["stubborn"])["gone"] == EndReason.KEEPER_DIED
        gateway.start(later)
        assert len(later[0].truth.survivors()) == 2
        gateway.close()
        assert survivors(later) == {}
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_killing_one_keeper_does_not_disturb_the_others(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    with trials(tmp_path, ["daemonises", "scrubs"]) as made, GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start(made)
        victim = gateway.keepers()[0]
        os.kill(victim, signal.SIGKILL)
        made[0].truth.wait_empty(within=PROMISED)
        assert len(made[1].truth.survivors()) == 2
    assert bystanders
