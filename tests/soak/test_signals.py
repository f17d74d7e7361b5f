"""No signal ever goes to a process that is not ours (invariant I8), in the ordinary end of a tree and in every other.

Each signal of gateway, warden and keepers is noted just before it is sent, with what /proc says of its targets then
(`signal_log`).  Beside them run bystanders with the same command lines, also ones that were given the pid, the session
and the process group number of a member that had just died.

Mutants seen to fail here: a signal to the pid that the ledger remembers, without a look at who has it now; a leader
whose zombie is reaped when it exits, and not at the end of its tree.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from process.conftest import boundaries_here
from sexton.containment import Boundary, StopTimes, list_orphans
from soak.heirs import can_force_pids, heir_of
from soak.signal_log import read_signals, strangers_in
from soak.soak import NOT_WITHOUT_LEAF
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, children_of, is_running, start_ticks, wait_until
from zoo.trial import Trial, trials

KINDS = (
    "ignores_eof",
    "stubborn",
    "daemonises",
    "daemonises_and_exits",
    "scrubs",
    "inner_subreaper",
    "slow_hoppers",
    "parent_clones",
)
WITHIN = 60.0

needs_forced_pids = pytest.mark.skipif(not can_force_pids(), reason="pids cannot be forced here")


@pytest.fixture(params=boundaries_here(), ids=str)
def boundary(request: pytest.FixtureRequest) -> Boundary:
    found: Boundary = request.param
    return found


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), kind) for kind in ("daemonises", "stubborn")]) as fleet:
        yield fleet
        fleet.assert_untouched()


def recording(folder: Path, boundary: Boundary) -> GatewayProcess:
    """A gateway whose signals, and those of its helpers, are noted."""
    env = {"SEXTON_TEST_SIGNALS": str(folder / "signals")}
    return GatewayProcess(folder / "state", boundary, program="soak.recording_gateway", env=env)


def signals(folder: Path, made: tuple[Trial, ...]) -> list[dict[str, Any]]:
    """All that were noted, after the proof that each went to one of ours."""
    noted = list(read_signals(str(folder / "signals")))
    truths = set().union(*(trial.truth.signs for trial in made))
    astray = [(one["how"], one["asked"], strangers) for one in noted if (strangers := strangers_in(one, truths))]
    assert astray == []
    return noted


def wait_empty(made: tuple[Trial, ...]) -> None:
    for trial in made:
        trial.truth.wait_empty(within=WITHIN)


def test_whatever_ends_a_tree_signals_go_to_its_members_only(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """The ordinary end, then the death of the keepers, of the warden, of the gateway, and of all of them at once."""
    with trials(tmp_path, KINDS) as made:
        with recording(tmp_path, boundary) as gateway:
            for tree in gateway.start(made).values():
                gateway.tell(release=tree)
            wait_empty(made)
            gateway.start(made)
            for keeper in gateway.keepers():
                with suppress(ProcessLookupError):  # that of the one whose leader exits may have left by itself
                    os.kill(keeper, signal.SIGKILL)
            wait_empty(made)
            gateway.start(made)
            os.kill(gateway.warden, signal.SIGKILL)
            wait_empty(made)
            gateway.wait_helpers_gone(within=WITHIN)
            gateway.start(made)
            gateway.kill()
            wait_empty(made)
        lasting = tuple(trial for trial in made if trial.kind not in NOT_WITHOUT_LEAF)
        with recording(tmp_path, boundary) as gateway:
            gateway.start(lasting)
            gateway.kill_with_all_helpers()
        with recording(tmp_path, boundary):
            wait_empty(made)
        noted = signals(tmp_path, made)
    ways = {(one["by"], one["how"]) for one in noted if one["targets"]}
    assert {("helper", "kill"), ("helper", "killpg")} <= ways
    by_number = {("helper", "pidfd"), ("gateway", "pidfd")}
    assert ({("helper", "leaf"), ("gateway", "leaf")} if boundary is Boundary.CGROUP else by_number) <= ways
    assert bystanders


def test_a_look_at_a_bystander_finds_that_it_is_a_stranger(tmp_path: Path, bystanders: Bystanders) -> None:
    """The oracle itself: our own test's processes are neither descendants of a helper nor of any truth."""
    from soak.signal_log import _look_at

    looks = [_look_at(pid, str(tmp_path / "state")) for pid in bystanders.pids()]
    record = {"sender": bystanders.leader_pids[0], "targets": looks}
    child_of_sender = children_of(bystanders.leader_pids[0])
    assert {one["pid"] for one in strangers_in(record, set())} == set(bystanders.pids()) - set(child_of_sender)


@needs_forced_pids
def test_nobody_gets_the_number_of_a_leader_before_its_tree_has_ended(tmp_path: Path) -> None:
    """The leader has exited and its daemon lives: as long as its zombie is kept, its group can be nobody else's."""
    patient = StopTimes(leader_exit_grace=60.0)
    with trials(tmp_path, ["daemonises_and_exits"]) as made, recording(tmp_path, Boundary.SUBREAPER) as gateway:
        [tree] = gateway.start(made, stop=patient).values()
        wait_until(lambda: len(made[0].truth.survivors()) == 1, within=WITHIN)
        [leader] = [pid for keeper in gateway.keepers() for pid in children_of(keeper) if is_zombie(pid)]
        assert heir_of(leader, tmp_path, tries=3) is None
        gateway.tell(kill=tree)
        wait_empty(made)
        wait_until(lambda: start_ticks(leader) is None, within=WITHIN)
        with heir_of(leader, tmp_path, tries=200) or pytest.skip("too busy here to force a pid") as heir:
            gateway.start(made)
            gateway.kill()
            wait_empty(made)
            with recording(tmp_path, Boundary.SUBREAPER) as later:
                later.tell(sweep=True)
            heir.assert_untouched()
        signals(tmp_path, made)


def is_zombie(pid: int) -> bool:
    ticks = start_ticks(pid)
    return ticks is not None and not is_running(pid, ticks)


@needs_forced_pids
def test_who_inherits_the_pid_of_a_member_that_nobody_watched_die_is_left_alone(
    tmp_path: Path, bystanders: Bystanders
) -> None:
    """All helpers are dead; the ledger names a member whose number has become that of a stranger's process group."""
    with trials(tmp_path, ["daemonises"]) as made:
        with recording(tmp_path, Boundary.SUBREAPER) as gateway:
            gateway.start(made)
            gateway.kill_with_all_helpers()
        assert not made[0].truth.is_empty(), "the crash itself ended everything, so this would prove nothing"
        [leader] = [one.leader.pid for one in list_orphans(tmp_path / "state") if one.leader]
        wait_until(lambda: start_ticks(leader) is None, within=WITHIN)  # it went with its keeper
        with heir_of(leader, tmp_path, tries=200) or pytest.skip("too busy here to force a pid") as heir:
            with recording(tmp_path, Boundary.SUBREAPER):
                wait_empty(made)
            heir.assert_untouched()
        signals(tmp_path, made)
    assert bystanders
