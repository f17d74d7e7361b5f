"""A cancellation at any await point of a tree's life leaves nothing behind, once or twice, on both backends.

Mutant seen to fail here: a keeper that never looks at its lifeline (P2).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import anyio
import pytest

from process.await_points import Interruption, interrupt
from process.conftest import boundaries_here, left_of
from process.programs import POLITE, STUBBORN, Program
from sexton.containment import Boundary, Containment, StopTimes
from waiting import PATIENCE
from zoo.oracles import wait_until

BRISK = StopTimes(stdin_grace=0.03, term_grace=0.03, leader_exit_grace=0.03)
MOST_POINTS = 60


@pytest.fixture
def boundary() -> Boundary:
    """The strongest: who waits and is cancelled knows nothing of it."""
    return boundaries_here()[0]


async def live(containment: Containment, program: Program, argv: tuple[str, ...]) -> None:
    """A whole life: start, talk, end."""
    async with containment.start(program(*argv, stop=BRISK)) as tree:
        await tree.wait_started()
        await anyio.wait_readable(tree.stdout)
        os.read(tree.stdout, 100)
        if argv is POLITE:
            os.write(tree.stdin, b"x\n")
            await anyio.wait_readable(tree.stdout)
            tree.close_stdin()
            await tree.wait_ended()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("argv", [POLITE, STUBBORN], ids=["polite", "stubborn"])
async def test_a_scope_may_be_cancelled_at_any_await_point(
    containment: Containment, program: Program, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    for point in range(1, MOST_POINTS):
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            points = await interrupt(live(containment, program, argv), {point: scope.cancel})
        _assert_only_helpers_left(containment, tmp_path)
        if not scope.cancelled_caught and points < point:
            return
    pytest.fail("it never came to its end")


@pytest.mark.anyio
@pytest.mark.parametrize("argv", [POLITE, STUBBORN], ids=["polite", "stubborn"])
@pytest.mark.parametrize("again_after", [None, 1, 3])
async def test_asyncios_own_cancellation_may_strike_at_any_await_point_and_again_during_the_stop(
    containment: Containment, program: Program, tmp_path: Path, argv: tuple[str, ...], again_after: int | None
) -> None:
    """It defeats every shield; the wait for the end is lost then, the end is not."""
    for point in range(1, MOST_POINTS):
        strikes: dict[int, Interruption] = {point: asyncio.CancelledError}
        if again_after is not None:
            strikes[point + again_after] = asyncio.CancelledError
        try:
            with anyio.fail_after(PATIENCE):
                points = await interrupt(live(containment, program, argv), strikes)
        except asyncio.CancelledError:
            points = point
        wait_until(lambda: not _programs_left(containment, tmp_path), within=PATIENCE)
        if points < point:
            return
    pytest.fail("it never came to its end")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_error_in_the_body_ends_the_tree_and_comes_through(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    async def fail() -> None:
        async with containment.start(program(*STUBBORN)) as tree:
            await tree.wait_started()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    _assert_only_helpers_left(containment, tmp_path)


def _assert_only_helpers_left(containment: Containment, folder: Path) -> None:
    assert _programs_left(containment, folder) == []
    assert containment.trees() == ()


def _programs_left(containment: Containment, folder: Path) -> list[int]:
    """Keepers may take a moment to leave after their proof; programs may not.

    A process that is just ending has lost its command line before its descriptors, and is no program of ours: those are
    known by their environment, which they would have lost with it.
    """
    return [pid for pid in left_of(folder) if (command := _command(pid)) and b"warden_main.py" not in command]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
