"""Says what is promised on this host, how firmly, on what evidence, and what would make it firmer.

`judge` is pure: facts in, guarantees out.  `examine` finds the facts, tries each boundary with real adversaries
(`self_test`) and adds what the ledger tells of earlier failures.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sexton.containment import recovery
from sexton.containment.containment import Containment
from sexton.containment.containment_errors import ContainmentError
from sexton.containment.host_facts import HostFacts, find_host_facts
from sexton.containment.self_test import Trial, try_boundary
from sexton.containment.tree_state import Boundary, TreeState
from sexton.threads import in_thread

THE_HOLE = (
    "simultaneous SIGKILL of gateway+warden+keeper, no systemd, no cgroup, no PID namespace, "
    "env-scrubbing daemon younger than the census interval"
)
"""The one combination in which a process can be left behind for good."""

NOT_COVERED = (
    "What other daemons start on request (systemd-run, at, cron, D-Bus, `docker run` inside a server) is not ours.",
    "A server that has root's rights and means harm: root can leave any boundary.",
    "tmux, screen, ssh-agent and build daemons that a tool starts end with its server.",
)

_INSTALL = "run: sexton service install"
_DELEGATE = (
    "run: sexton service install (its unit sets Delegate=yes), or start the gateway with: systemd-run --user "
    "--scope -p Delegate=yes sexton up"
)
_NO_SYSTEMD = "use a host with systemd, or run the gateway as process 1 of a container of its own"


class Level(StrEnum):
    """How firmly a guarantee stands."""

    ENFORCED = "enforced"
    """By the kernel, whatever becomes of our processes."""
    SUPERVISED = "supervised"
    """By our processes, of which the ones that are left suffice."""
    BEST_EFFORT = "best_effort"
    """Usually; the evidence says when not."""
    NOT_IN_FORCE = "not_in_force"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """One promise.  `evidence` is what was seen here, `fix` what to do for a higher level, None when there is none."""

    name: str
    level: Level
    evidence: str
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the ledger tells: trees that do not end, records nobody may follow, and the last recovery's remarks."""

    stuck: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    escaped: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """`boundary` is the strongest that the self-test proved, None when none did.

    `backend` names it together with what stands above it: systemd+cgroup, cgroup, container-pid1 or subreaper.
    `problems` need a person; `not_covered` is outside of the promise on every host.
    """

    boundary: Boundary | None
    backend: str
    guarantees: tuple[Guarantee, ...]
    problems: tuple[str, ...]
    not_covered: tuple[str, ...]
    trials: tuple[Trial, ...]


async def examine(state_dir: str | os.PathLike[str]) -> DoctorReport:
    """Look at this host and at the ledger in that folder, and try the boundaries.  Takes about a second.

    Works with and without a running gateway; it holds its trials in a folder of its own.
    """
    gateway = _gateway_of(state_dir)
    facts = await in_thread(lambda: find_host_facts(gateway))
    trials = [await _try(boundary) for boundary in (Boundary.CGROUP, Boundary.SUBREAPER)]
    return judge(facts, trials, _read_ledger(state_dir))


def judge(facts: HostFacts, trials: Sequence[Trial], ledger: Ledger) -> DoctorReport:
    """What these facts amount to."""
    boundary = next((trial.boundary for trial in trials if trial.failure is None), None)
    judgement = _Judgement(facts, boundary, tuple(trials))
    return DoctorReport(
        boundary=boundary,
        backend=judgement.backend,
        guarantees=judgement.guarantees() if boundary else (_nothing_holds(trials),),
        problems=(*_problems_of_trials(boundary, trials), *_problems_of_unit(facts), *_problems_of_ledger(ledger)),
        not_covered=NOT_COVERED,
        trials=tuple(trials),
    )


@dataclass(frozen=True, slots=True)
class _Judgement:
    facts: HostFacts
    boundary: Boundary | None
    trials: tuple[Trial, ...]

    @property
    def has_leaf(self) -> bool:
        return self.boundary is Boundary.CGROUP

    @property
    def unit_ends_all(self) -> bool:
        """Whether systemd kills everything in the unit when its main process is gone."""
        unit = self.facts.unit
        return unit is not None and unit.name.endswith(".service") and unit.kill_mode in {"mixed", "control-group"}

    @property
    def backend(self) -> str:
        if self.facts.gateway_is_pid_1:
            return "container-pid1"
        if self.has_leaf:
            return "systemd+cgroup" if self.unit_ends_all else "cgroup"
        return "systemd+subreaper" if self.unit_ends_all else str(self.boundary or "none")

    def guarantees(self) -> tuple[Guarantee, ...]:
        return (
            self._lease_end(),
            self._gateway_killed(),
            self._helper_killed(),
            self._all_killed(),
            self._other_users(),
            self._strangers(),
            self._limits(),
            self._containers(),
            self._restart(),
        )

    def _lease_end(self) -> Guarantee:
        trial = next(trial for trial in self.trials if trial.boundary is self.boundary)
        took = f"{(trial.seconds or 0) * 1000:.0f} ms"
        seen = f"self-test: a daemon, a daemon in disguise and a fork hopper were killed and proven gone in {took}"
        if self.has_leaf:
            return Guarantee(
                name="A tree ends with its holder, all of it",
                level=Level.ENFORCED,
                evidence=f"{seen}; cgroup.kill in {self.facts.cgroup_folder}, and the keeper's ECHILD as second proof",
            )
        return Guarantee(
            name="A tree ends with its holder, all of it",
            level=Level.SUPERVISED,
            evidence=f"{seen}; proof by the keeper: no child is left to it (ECHILD)",
            fix=self._by_systemd(_DELEGATE),
        )

    def _gateway_killed(self) -> Guarantee:
        name = "The gateway is killed (SIGKILL, out of memory): its trees end"
        if self.facts.gateway_is_pid_1:
            return Guarantee(name=name, level=Level.ENFORCED, evidence="it is process 1 of its PID namespace")
        return Guarantee(
            name=name,
            level=Level.SUPERVISED,
            evidence="keepers and warden watch its pidfd; SIGKILL of what ignores all else within 2 s",
        )

    def _helper_killed(self) -> Guarantee:
        return Guarantee(
            name="The warden or a keeper is killed: their trees end",
            level=Level.SUPERVISED,
            evidence="each watches the other, and orphans fall to the warden",
        )

    def _all_killed(self) -> Guarantee:
        name = "Gateway, warden and keepers are killed at once"
        if self.facts.gateway_is_pid_1:
            return Guarantee(name=name, level=Level.ENFORCED, evidence="the PID namespace dies with the gateway")
        if self.unit_ends_all and self.facts.unit:
            seen = f"{self.facts.unit.name} has KillMode={self.facts.unit.kill_mode}: systemd ends everything in it"
            return Guarantee(name=name, level=Level.ENFORCED, evidence=seen)
        if self.has_leaf:
            return Guarantee(
                name=name,
                level=Level.SUPERVISED,
                evidence="each tree's cgroup is in the ledger; the next start or `sexton reap` kills it whole",
                fix=self._by_systemd(_INSTALL),
            )
        return Guarantee(
            name=name,
            level=Level.BEST_EFFORT,
            evidence="leaders die at once (PDEATHSIG), known daemons at the next start or `sexton reap`; "
            f"not guaranteed: {THE_HOLE}",
            fix=self._by_systemd(_INSTALL),
        )

    def _other_users(self) -> Guarantee:
        name = "Descendants that run as another user (sudo, setuid) end too"
        if self.facts.is_root:
            return Guarantee(
                name=name, level=Level.ENFORCED, evidence="the gateway runs as root and may signal anybody"
            )
        if self.has_leaf:
            return Guarantee(name=name, level=Level.ENFORCED, evidence="cgroup.kill asks for no permission")
        if self.facts.has_no_new_privs:
            return Guarantee(name=name, level=Level.ENFORCED, evidence="NoNewPrivs is set for the gateway itself")
        return Guarantee(
            name=name,
            level=Level.BEST_EFFORT,
            evidence="servers get no_new_privs, so there are none, but for servers configured without it",
            fix=self._by_systemd(_DELEGATE),
        )

    def _strangers(self) -> Guarantee:
        name = "Nobody else is ever signalled"
        by = self.facts.identity_by
        if by == "start time":
            return Guarantee(
                name=name,
                level=Level.BEST_EFFORT,
                evidence="this kernel has no pidfs: after a crash of everything, a pid that is used again within one "
                "clock tick (10 ms) cannot be told apart",
                fix="use Linux 6.9 or later",
            )
        return Guarantee(name=name, level=Level.ENFORCED, evidence=f"recorded processes are known by their pidfs {by}")

    def _limits(self) -> Guarantee:
        name = "Limits of memory, processes and cpu per tree"
        missing = [one for one in ("memory", "pids", "cpu") if not self.has_leaf or one not in self.facts.controllers]
        if not missing:
            return Guarantee(name=name, level=Level.ENFORCED, evidence="the controllers memory, pids, cpu are ours")
        return Guarantee(
            name=name,
            level=Level.NOT_IN_FORCE,
            evidence=f"cgroup controllers not delegated to us: {', '.join(missing)}; open_files is enforced (rlimit)",
            fix=self._by_systemd(_INSTALL),
        )

    def _containers(self) -> Guarantee:
        name = "Containers that a server's command starts are removed"
        engines = self.facts.engines
        if not engines:
            return Guarantee(name=name, level=Level.BEST_EFFORT, evidence="no docker, podman or nerdctl on PATH")
        away = [f"{engine.name}: {engine.unreachable}" for engine in engines if engine.unreachable]
        if len(away) == len(engines):
            return Guarantee(
                name=name,
                level=Level.NOT_IN_FORCE,
                evidence="; ".join(away),
                fix="start the engine's daemon, or ignore this if no server uses it",
            )
        answering = ", ".join(engine.name for engine in engines if not engine.unreachable)
        return Guarantee(
            name=name,
            level=Level.BEST_EFFORT,
            evidence=f"{answering} answers; `run` is labelled and removed by label, once the engine can be asked",
        )

    def _restart(self) -> Guarantee:
        name = "The gateway is started again when it fails"
        if self.facts.unit and self.facts.unit.name.endswith(".service"):
            return Guarantee(name=name, level=Level.SUPERVISED, evidence=f"systemd unit {self.facts.unit.name}")
        fix = _INSTALL if self.facts.is_booted_with_systemd else "run it under a service manager"
        return Guarantee(name=name, level=Level.NOT_IN_FORCE, evidence="it does not run as a service", fix=fix)

    def _by_systemd(self, fix: str) -> str:
        """That fix where there is a systemd to carry it out."""
        return fix if self.facts.is_booted_with_systemd else _NO_SYSTEMD


def _nothing_holds(trials: Sequence[Trial]) -> Guarantee:
    return Guarantee(
        name="A tree ends with its holder, all of it",
        level=Level.NOT_IN_FORCE,
        evidence="; ".join(f"{trial.boundary}: {trial.failure}" for trial in trials),
        fix="use Linux 5.4 or later with /proc mounted; on Windows, use WSL2",
    )


def _problems_of_trials(boundary: Boundary | None, trials: Sequence[Trial]) -> tuple[str, ...]:
    if boundary is None:
        return ("No boundary held in the self-test: nothing is started on this host.",)
    failed = [trial for trial in trials if trial.failure and trial.boundary is not Boundary.CGROUP]
    return tuple(f"The self-test of {trial.boundary} failed: {trial.failure}." for trial in failed)


def _problems_of_unit(facts: HostFacts) -> tuple[str, ...]:
    unit = facts.unit
    if unit is None or not unit.name.endswith(".service"):
        return ()
    problems = []
    if unit.kill_mode in {"process", "none"}:
        problems.append(
            f"{unit.name} has KillMode={unit.kill_mode}: a restart leaves processes behind, and they pile up. "
            "Set KillMode=mixed."
        )
    if unit.delegate != "yes":
        problems.append(
            f"{unit.name} has Delegate={unit.delegate}: trees get no cgroup of their own. Set Delegate=yes."
        )
    if unit.oom_policy == "stop":
        problems.append(
            f"{unit.name} has OOMPolicy=stop: one server that runs out of memory stops the whole gateway. "
            "Set OOMPolicy=continue."
        )
    return tuple(problems)


def _problems_of_ledger(ledger: Ledger) -> tuple[str, ...]:
    return (
        *(f"{one} Look at what it waits for, then run: sexton reap" for one in ledger.stuck),
        *(f"{one} Start its engine, then run: sexton reap" for one in ledger.pending),
        *(
            f"{one} It is not followed; remove the file when you know that nothing of it runs."
            for one in ledger.unfollowed
        ),
        *(f"{one} End it yourself if it should not run." for one in ledger.escaped),
    )


def _gateway_of(state_dir: str | os.PathLike[str]) -> int | None:
    return next((record.gateway.pid for record in recovery.list_live(state_dir)), None)


def _read_ledger(state_dir: str | os.PathLike[str]) -> Ledger:
    records = (*recovery.list_live(state_dir), *recovery.list_orphans(state_dir))
    return Ledger(
        stuck=tuple(
            f"{record.name!r} does not end: process {one.pid}, {one.why}."
            for record in records
            for one in record.stuck
            if record.state is TreeState.STUCK
        ),
        pending=tuple(
            f"A container of {record.name!r} may still run."
            for record in records
            if record.state is TreeState.EXTERNAL_PENDING
        ),
        unfollowed=tuple(one.why[:1].upper() + one.why[1:] + "." for one in recovery.list_unfollowed(state_dir)),
        escaped=_escaped(recovery.last_recovery(state_dir) or {}),
    )


def _escaped(last: dict[str, Any]) -> tuple[str, ...]:
    """Only of those that still run: a report is old news."""
    return tuple(
        f"Process {pid} carries the cookie of {tree['name']!r} but runs elsewhere (escaped by delegation)."
        for tree in last.get("trees", ())
        for pid in tree["escaped"]
        if Path(f"/proc/{pid}").exists()
    )


async def _try(boundary: Boundary) -> Trial:
    """A trial in a folder of its own, so that it says nothing to and hears nothing from a running gateway."""
    with tempfile.TemporaryDirectory(prefix="sexton-doctor-") as folder:
        try:
            async with Containment.open(Path(folder), boundary=boundary, recover=False) as containment:
                return await try_boundary(containment)
        except ContainmentError as error:
            return Trial(boundary=boundary, failure=error.what)
