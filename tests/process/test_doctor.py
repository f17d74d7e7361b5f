"""The doctor promises neither more nor less than the host holds.

Mutants seen to fail here: a self-test that does not look whether its adversaries are gone; a doctor that says of the
one hole that it is supervised (P8).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sexton.containment import Boundary, Containment, doctor, identity
from sexton.containment.doctor import THE_HOLE, DoctorReport, Guarantee, Ledger, Level, examine, judge
from sexton.containment.host_facts import ContainerEngine, HostFacts, SystemdUnit, _unit_name, find_host_facts
from sexton.containment.self_test import Trial, try_boundary
from waiting import PATIENCE
from zoo.engine import FakeEngine
from zoo.oracles import helpers_of, unified_mount, wait_none_of

pytestmark = pytest.mark.anyio

UNIT = SystemdUnit(name="sexton.service", kill_mode="mixed", delegate="yes", oom_policy="continue")
PLAIN = HostFacts(
    gateway=None,
    is_root=False,
    cgroup_folder=None,
    controllers=(),
    identity_by="handle",
    has_children_files=True,
    hides_processes=False,
    has_pid_namespaces=True,
    gateway_is_pid_1=False,
    unit=None,
    is_booted_with_systemd=True,
    has_no_new_privs=False,
    engines=(),
)
NO_CGROUP = (Trial(boundary=Boundary.CGROUP, failure="no cgroup v2"), Trial(boundary=Boundary.SUBREAPER, seconds=0.01))
BOTH = (Trial(boundary=Boundary.CGROUP, seconds=0.008), Trial(boundary=Boundary.SUBREAPER, seconds=0.01))
DELEGATED = replace(PLAIN, cgroup_folder="/sys/fs/cgroup/app", controllers=("cpu", "memory", "pids"))


def guarantee(report: DoctorReport, words: str) -> Guarantee:
    [found] = [one for one in report.guarantees if words in one.name]
    return found


ALL_AT_ONCE = "killed at once"


def test_without_a_cgroup_the_one_hole_is_named_in_its_words() -> None:
    report = judge(PLAIN, NO_CGROUP, Ledger())
    assert report.boundary is Boundary.SUBREAPER
    assert report.backend == "subreaper"
    found = guarantee(report, ALL_AT_ONCE)
    assert found.level is Level.BEST_EFFORT
    assert THE_HOLE in found.evidence
    assert THE_HOLE == (
        "simultaneous SIGKILL of gateway+warden+keeper, no systemd, no cgroup, no PID namespace, "
        "env-scrubbing daemon younger than the census interval"
    )
    assert found.fix == "run: sexton service install"


def test_where_there_is_no_systemd_no_fix_asks_for_it() -> None:
    for facts in (PLAIN, DELEGATED):
        report = judge(replace(facts, is_booted_with_systemd=False), NO_CGROUP, Ledger())
        assert not any("service install" in (one.fix or "") for one in report.guarantees)
        assert guarantee(report, ALL_AT_ONCE).fix


@pytest.mark.parametrize(
    ("facts", "trials", "backend", "at_once"),
    [
        (PLAIN, NO_CGROUP, "subreaper", Level.BEST_EFFORT),
        (DELEGATED, BOTH, "cgroup", Level.SUPERVISED),
        (replace(DELEGATED, unit=UNIT), BOTH, "systemd+cgroup", Level.ENFORCED),
        (replace(DELEGATED, unit=replace(UNIT, kill_mode="process")), BOTH, "cgroup", Level.SUPERVISED),
        (replace(DELEGATED, unit=replace(UNIT, name="session-1.scope")), BOTH, "cgroup", Level.SUPERVISED),
        (replace(PLAIN, unit=UNIT), NO_CGROUP, "systemd+subreaper", Level.ENFORCED),
        (replace(PLAIN, gateway_is_pid_1=True), NO_CGROUP, "container-pid1", Level.ENFORCED),
    ],
)
def test_what_stands_above_our_own_processes_decides_what_holds_without_them(
    facts: HostFacts, trials: tuple[Trial, ...], backend: str, at_once: Level
) -> None:
    report = judge(facts, trials, Ledger())
    assert report.backend == backend
    assert guarantee(report, ALL_AT_ONCE).level is at_once


@pytest.mark.parametrize(
    ("facts", "trials", "level"),
    [
        (PLAIN, NO_CGROUP, Level.BEST_EFFORT),
        (DELEGATED, BOTH, Level.ENFORCED),
        (replace(PLAIN, has_no_new_privs=True), NO_CGROUP, Level.ENFORCED),
        (replace(PLAIN, is_root=True), NO_CGROUP, Level.ENFORCED),
    ],
)
def test_descendants_of_another_user(facts: HostFacts, trials: tuple[Trial, ...], level: Level) -> None:
    assert guarantee(judge(facts, trials, Ledger()), "another user").level is level


@pytest.mark.parametrize(
    ("facts", "trials", "level", "missing"),
    [
        (DELEGATED, BOTH, Level.ENFORCED, ""),
        (replace(DELEGATED, controllers=("memory",)), BOTH, Level.NOT_IN_FORCE, "pids, cpu"),
        (DELEGATED, NO_CGROUP, Level.NOT_IN_FORCE, "memory, pids, cpu"),
    ],
)
def test_limits_hold_where_their_controllers_are_ours(
    facts: HostFacts, trials: tuple[Trial, ...], level: Level, missing: str
) -> None:
    found = guarantee(judge(facts, trials, Ledger()), "Limits")
    assert found.level is level
    assert missing in found.evidence


@pytest.mark.parametrize(
    ("engines", "level"),
    [
        ((), Level.BEST_EFFORT),
        ((ContainerEngine(name="docker"),), Level.BEST_EFFORT),
        ((ContainerEngine(name="docker", unreachable="Cannot connect"),), Level.NOT_IN_FORCE),
        ((ContainerEngine(name="docker", unreachable="no"), ContainerEngine(name="podman")), Level.BEST_EFFORT),
    ],
)
def test_containers(engines: tuple[ContainerEngine, ...], level: Level) -> None:
    assert guarantee(judge(replace(PLAIN, engines=engines), NO_CGROUP, Ledger()), "Containers").level is level


def test_a_kernel_without_pidfs_may_confuse_two_processes_of_one_tick() -> None:
    found = guarantee(judge(replace(PLAIN, identity_by="start time"), NO_CGROUP, Ledger()), "Nobody else")
    assert found.level is Level.BEST_EFFORT
    assert "one clock tick" in found.evidence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kill_mode": "process"}, "Set KillMode=mixed."),
        ({"kill_mode": "none"}, "Set KillMode=mixed."),
        ({"delegate": "no"}, "Set Delegate=yes."),
        ({"oom_policy": "stop"}, "Set OOMPolicy=continue."),
    ],
)
def test_a_unit_that_undoes_the_promise_is_a_problem(change: dict[str, str], words: str) -> None:
    unit = replace(UNIT, **change)
    [problem] = judge(replace(DELEGATED, unit=unit), BOTH, Ledger()).problems
    assert problem.endswith(words)


def test_a_good_host_has_no_problems() -> None:
    report = judge(replace(DELEGATED, unit=UNIT), BOTH, Ledger())
    assert report.problems == ()
    assert {one.level for one in report.guarantees} <= {Level.ENFORCED, Level.SUPERVISED, Level.BEST_EFFORT}


def test_where_nothing_holds_nothing_is_promised() -> None:
    report = judge(PLAIN, [replace(trial, failure="ENOSYS") for trial in BOTH], Ledger())
    assert report.boundary is None
    assert [one.level for one in report.guarantees] == [Level.NOT_IN_FORCE]
    assert "ENOSYS" in report.guarantees[0].evidence
    assert report.problems


def test_what_the_ledger_tells_is_a_problem_with_a_next_step() -> None:
    ledger = Ledger(
        stuck=("'x' does not end: process 7, D.",), unfollowed=("It is cut off.",), escaped=("P.",), pending=("C.",)
    )
    problems = judge(PLAIN, NO_CGROUP, ledger).problems
    assert len(problems) == 4
    assert all(len(problem) > 20 for problem in problems)


@pytest.mark.parametrize(
    ("home", "name"),
    [
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sexton.service", "sexton.service"),
        ("/system.slice/sexton.service/gateway", "sexton.service"),
        ("/user.slice/user-0.slice/session-1.scope", "session-1.scope"),
        ("/", None),
        ("/docker/4f2a", None),
    ],
)
def test_the_unit_of_a_cgroup_path(home: str, name: str | None) -> None:
    assert _unit_name(home) == name


async def test_the_doctor_finds_on_this_host_what_the_test_finds(tmp_path: Path) -> None:
    report = await examine(tmp_path)
    assert report.boundary is (Boundary.CGROUP if unified_mount() and os.geteuid() == 0 else report.boundary)
    assert all(one.evidence for one in report.guarantees)
    proven = [trial for trial in report.trials if trial.failure is None]
    assert proven
    assert all(trial.seconds is not None for trial in proven)
    assert list(tmp_path.iterdir()) == []
    wait_none_of(helpers_of(os.getpid()), within=PATIENCE)


async def test_the_doctor_tells_of_damaged_records_and_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "contain" / identity.boot_id() / "lost"
    folder.mkdir(parents=True)
    (folder / "t1.rec").write_text("{")
    report = await examine(tmp_path)
    assert any("t1.rec" in problem for problem in report.problems)
    assert (folder / "t1.rec").exists()


def test_an_engine_that_answers_is_told_from_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEngine(tmp_path) as engine:
        script = f"#!/bin/sh\nexec {engine.bin / 'docker'} -H {engine.socket} ps --filter label=\n"
        other = tmp_path / "other"
        other.mkdir()
        (other / "docker").write_text(script)
        (other / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", str(other), prepend=":")
        assert ContainerEngine(name="docker") in find_host_facts(None).engines
        engine.go_away()
        [docker] = [found for found in find_host_facts(None).engines if found.name == "docker"]
        assert docker.unreachable
        engine.come_back()


@pytest.mark.parametrize("boundary", [Boundary.SUBREAPER, Boundary.CGROUP])
async def test_the_self_test_notices_an_adversary_that_outlives_the_proof(
    boundary: Boundary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced: a process that the boundary does not hold keeps the witness's pipe open."""
    if boundary is Boundary.CGROUP and unified_mount() is None:
        pytest.skip("no cgroup v2 here")
    leaked: list[int] = []
    pipe = os.pipe

    def leaking_pipe() -> tuple[int, int]:
        reader, writer = pipe()
        leaked.append(os.dup(writer))
        return reader, writer

    async with Containment.open(tmp_path, boundary=boundary) as containment:
        assert (await try_boundary(containment)).failure is None
        monkeypatch.setattr(os, "pipe", leaking_pipe)
        assert (await try_boundary(containment)).failure == "an adversary outlived the proof that it is gone"
    monkeypatch.undo()
    for descriptor in leaked:
        os.close(descriptor)


def test_the_words_for_levels_are_stable() -> None:
    assert [level.value for level in Level] == ["enforced", "supervised", "best_effort", "not_in_force"]
    assert doctor.NOT_COVERED
