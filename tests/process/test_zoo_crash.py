"""Gateway, warden and keepers are all killed at once; the next start finishes what they left.

All are stopped before any is killed, so that none can act on the death of another: the worst order, forced.

Mutants seen to fail here: no recovery at the next start (P7); a recovery that ends the trees of a living gateway (P6).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from process.conftest import BOUNDARIES, needs_cgroup
from sexton.containment import Boundary, TreeState, last_recovery, list_live, list_orphans
from sexton.containment.ledger import Record
from waiting import PATIENCE
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, describe, wait_until
from zoo.trial import CHEAP, Trial, trials

# Their leader exits, so that they end in the ordinary way before anything is killed.
SHORT = {"daemonises_and_exits", "scrubs_and_exits", "holds_stdout"}
# Forks on faster than any ledger is written: only a leaf holds it when all helpers are dead.
RESTLESS = {"hopper", "slow_hoppers"}


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), kind) for kind in ("daemonises", "scrubs", "stubborn")]) as fleet:
        yield fleet
        fleet.assert_untouched()


def survivors(made: Sequence[Trial]) -> dict[str, list[str]]:
    left = {trial.kind: [describe(pid) for pid in trial.truth.survivors()] for trial in made}
    return {kind: pids for kind, pids in left.items() if pids}


def records(state_dir: Path) -> dict[str, Record]:
    return {record.name: record for record in list_live(state_dir)}


def is_counted(state_dir: Path, trial: Trial) -> bool:
    """Whether the census holds everybody of that family who lives."""
    record = records(state_dir).get(trial.kind)
    counted = {one.pid for one in record.census} if record else set()
    return set(trial.truth.survivors()) <= counted


def uncounted(state_dir: Path, made: Sequence[Trial]) -> list[str]:
    return [trial.kind for trial in made if trial.kind not in RESTLESS and not is_counted(state_dir, trial)]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_next_start_ends_what_a_crash_of_everything_left(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    kinds = [kind for kind in CHEAP if kind not in SHORT and (boundary is Boundary.CGROUP or kind not in RESTLESS)]
    state_dir = tmp_path / "state"
    with trials(tmp_path, kinds) as made:
        with GatewayProcess(state_dir, boundary) as gateway:
            gateway.start(made)
            wait_until(lambda: uncounted(state_dir, made) == [], within=PATIENCE, every=0.1)
            gateway.kill_with_all_helpers()
        left = survivors(made)
        assert "scrubs" in left, "the crash itself ended everything, so this would prove nothing"
        assert {record.name for record in list_orphans(state_dir)} == set(kinds)

        with GatewayProcess(state_dir, boundary):
            assert survivors(made) == {}
            assert list_orphans(state_dir) == ()
        report = last_recovery(state_dir)
        assert report
        assert {tree["state"] for tree in report["trees"]} == {TreeState.RECOVERED}
    assert bystanders


def strike_and_crash(state_dir: Path, boundary: Boundary, trial: Trial) -> None:
    """Everything is killed at once, just after a daemon has scrubbed itself that no helper has had the time to see."""
    with GatewayProcess(state_dir, boundary) as gateway:
        gateway.start([trial])
        for helper in (gateway.warden, *gateway.keepers()):  # in this order: a warden wakes its keepers
            os.kill(helper, signal.SIGSTOP)
        gateway.strike(trial.kind)
        wait_until(lambda: len(trial.truth.survivors()) == 2, within=PATIENCE)
        gateway.kill_with_all_helpers()


def test_the_one_hole_is_where_the_doctor_says_it_is(tmp_path: Path) -> None:
    """An env-scrubbing daemon, younger than the census, no leaf, and every helper dead at once: left behind.

    If this fails because nobody survives, the doctor's words promise too little: change them.
    """
    state_dir = tmp_path / "state"
    with trials(tmp_path, ["scrubs_when_struck"]) as [trial]:
        strike_and_crash(state_dir, Boundary.SUBREAPER, trial)
        with GatewayProcess(state_dir, Boundary.SUBREAPER):
            assert len(trial.truth.survivors()) == 1


def test_a_daemon_that_nobody_had_time_to_count_is_known_by_its_cookie(tmp_path: Path, bystanders: Bystanders) -> None:
    state_dir = tmp_path / "state"
    with trials(tmp_path, ["daemonises_when_struck"]) as [trial]:
        strike_and_crash(state_dir, Boundary.SUBREAPER, trial)
        assert len(trial.truth.survivors()) == 1
        with GatewayProcess(state_dir, Boundary.SUBREAPER):
            assert trial.truth.is_empty()
    assert bystanders


@needs_cgroup
def test_with_a_leaf_there_is_no_such_hole(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with trials(tmp_path, ["scrubs_when_struck"]) as [trial]:
        strike_and_crash(state_dir, Boundary.CGROUP, trial)
        with GatewayProcess(state_dir, Boundary.CGROUP):
            assert trial.truth.is_empty()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_leader_goes_with_its_keeper_when_nobody_is_left_to_end_it(boundary: Boundary, tmp_path: Path) -> None:
    """Before any next start.  Mutant seen to fail here: a leader without PR_SET_PDEATHSIG."""
    with trials(tmp_path, ["headless", "ignores_eof"]) as made:
        with GatewayProcess(tmp_path / "state", boundary) as gateway:
            gateway.start(made)
            gateway.kill_with_all_helpers()
        for trial in made:
            trial.truth.wait_empty(within=PATIENCE)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_crash_of_one_gateway_is_no_business_of_another(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Two gateways on folders of their own, and a third on the same folder as the one that lives."""
    with (
        trials(tmp_path, ["daemonises", "scrubs"]) as theirs,
        trials(tmp_path, ["daemonises", "scrubs"]) as ours,
        GatewayProcess(tmp_path / "theirs", boundary) as living,
    ):
        living.start(theirs)
        with GatewayProcess(tmp_path / "ours", boundary) as crashed:
            crashed.start(ours)
            wait_until(lambda: all(is_counted(tmp_path / "ours", trial) for trial in ours), within=PATIENCE, every=0.1)
            crashed.kill_with_all_helpers()
        with GatewayProcess(tmp_path / "ours", boundary), GatewayProcess(tmp_path / "theirs", boundary) as third:
            third.tell(sweep=True)
            assert survivors(ours) == {}
            assert [len(trial.truth.survivors()) for trial in theirs] == [2, 2]
    assert bystanders


def test_while_the_gateway_lives_a_sweep_ends_what_lost_all_its_helpers(tmp_path: Path) -> None:
    """Warden and keepers killed at once: the gateway itself finishes from its ledger, and goes on."""
    state_dir = tmp_path / "state"
    with (
        trials(tmp_path, ["daemonises", "scrubs"]) as lost,
        trials(tmp_path, ["polite"]) as later,
        GatewayProcess(state_dir, Boundary.SUBREAPER) as gateway,
    ):
        gateway.start(lost)
        wait_until(lambda: all(is_counted(state_dir, trial) for trial in lost), within=PATIENCE, every=0.1)
        gateway.kill_helpers()
        gateway.wait_helpers_gone(within=PATIENCE)
        gateway.tell(sweep=True)
        assert survivors(lost) == {}
        gateway.start(later)
        assert len(later[0].truth.survivors()) == 1


def test_a_crash_leaves_no_more_than_the_ledger_says(tmp_path: Path) -> None:
    """What `sexton ps` and `sexton reap --dry-run` show without a gateway, as plain data."""
    with trials(tmp_path, ["daemonises"]) as made:
        with GatewayProcess(tmp_path / "state", Boundary.SUBREAPER) as gateway:
            gateway.start(made)
            gateway.kill_with_all_helpers()
        program = (
            "import json, sys; from sexton.containment import list_orphans; "
            "print(json.dumps([one.name for one in list_orphans(sys.argv[1])]))"
        )
        done = subprocess.run(
            [PYTHON[0], "-c", program, str(tmp_path / "state")], capture_output=True, check=True, timeout=PATIENCE
        )
        assert json.loads(done.stdout) == ["daemonises"]
        with GatewayProcess(tmp_path / "state", Boundary.SUBREAPER):
            assert survivors(made) == {}
