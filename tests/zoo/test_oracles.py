"""The zoo and its oracles themselves: every kind is as alive as it says, and what a test would ask of it is seen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import PATIENCE
from zoo.oracles import PYTHON, ZOO, Bystanders, Truth, children_of, identified, is_running, unified_mount, wait_until

# The least number of processes that each kind makes, itself included.
HEAD_COUNTS = {
    "polite": 1,
    "ignores_eof": 1,
    "stubborn": 1,
    "slow_flush": 1,
    "daemonises": 2,
    "daemonises_and_exits": 1,
    "scrubs": 2,
    "scrubs_and_exits": 1,
    "wipes_environ": 2,
    "holds_stdout": 1,
    "holds_stdin": 2,
    "stopped": 4,
    "inner_subreaper": 5,
    "inner_pid_namespace": 3,
    "terminal": 3,
    "hopper": 2,
    "slow_hoppers": 9,
    "bomb": 127,
    "wide": 101,
    "deep": 101,
    "orphans": 51,
    "kills_keeper": 2,
    "stops_keeper": 2,
    "kills_warden": 2,
    "chatty": 3,
    "never_reads": 1,
    "closes_everything": 2,
    "parent_clones": 4,
    "headless": 1,
    "another_user": 2,
    "vforks": 3,
}


@contextmanager
def loose(kind: str, truth: Truth, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """That kind without any containment, ready."""
    command = [*PYTHON, str(ZOO), kind, *truth.arguments, *arguments]
    # CLONE_PARENT would make the children of this test process: one more process stands between.
    between = ["sh", "-c", '"$@"; wait', "sh"] if kind == "parent_clones" else []
    with subprocess.Popen([*between, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        while b'"ready"' not in process.stdout.readline():
            pass
        yield process
        truth.close()
        process.stdin.close()
        if between:
            process.kill()


@pytest.mark.parametrize("kind", HEAD_COUNTS)
def test_each_kind_makes_the_processes_that_it_says(kind: str, tmp_path: Path) -> None:
    truth = Truth(tmp_path, kind)
    with loose(kind, truth):
        wait_until(lambda: len(truth.survivors()) >= HEAD_COUNTS[kind], within=PATIENCE)


def test_without_a_group_the_fifo_still_tells_of_the_living(tmp_path: Path) -> None:
    truth = Truth(tmp_path, "daemonises")
    with loose("daemonises", truth) as process:
        in_group, truth.group = truth.group, None
        assert process.pid in truth.survivors()
        truth.group = in_group


@pytest.mark.skipif(unified_mount() is None, reason="no cgroup v2 here")
def test_an_escapee_is_seen_although_it_left_its_cgroup(tmp_path: Path) -> None:
    mount = unified_mount()
    assert mount
    refuge = mount / f"zoo-refuge-{os.getpid()}"
    refuge.mkdir()
    truth = Truth(tmp_path, "escapes")
    with loose("escapes", truth, "--escape", str(refuge)):
        moved = {int(pid) for pid in (refuge / "cgroup.procs").read_text().split()}
        assert len(moved) == 2
        assert moved < set(truth.survivors())
    wait_until(lambda: (refuge / "cgroup.procs").read_text() == "", within=PATIENCE)
    refuge.rmdir()


def test_killing_the_group_of_a_server_leaves_its_daemon_and_the_truth_says_so(tmp_path: Path) -> None:
    """What every peer relies on; if this ever passes with nobody left, the zoo has lost its teeth."""
    truth = Truth(tmp_path, "scrubs")
    with loose("scrubs", truth) as process:
        process.kill()
        process.wait(PATIENCE)
        assert len(truth.survivors()) == 1


def test_bystanders_notice_a_signal_that_they_can_catch(tmp_path: Path) -> None:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), "daemonises")]) as bystanders:
        bystanders.assert_untouched()
        os.kill(children_of(bystanders.leader_pids[0])[0], signal.SIGTERM)
        log = tmp_path / bystanders.log_name
        wait_until(lambda: log.exists() and log.stat().st_size > 0, within=PATIENCE)
        with pytest.raises(AssertionError, match="SIGTERM"):
            bystanders.assert_untouched()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_bystanders_notice_a_signal_that_they_cannot_catch(number: signal.Signals, tmp_path: Path) -> None:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), "daemonises")]) as bystanders:
        before = identified(bystanders.leader_pids)
        os.kill(bystanders.leader_pids[0], number)
        if number is signal.SIGKILL:
            wait_until(lambda: not any(is_running(*one) for one in before.items()), within=PATIENCE)
        else:
            os.waitpid(bystanders.leader_pids[0], os.WUNTRACED)
        with pytest.raises(AssertionError, match="died or were stopped"):
            bystanders.assert_untouched()
