"""The soak: two gateways at work for as long as asked, something going wrong every few seconds, everything checked.

Each gateway has its own state folder and, where the host has both, its own boundary.  Chat-like leases are long, those
of jobs short; their servers are of the zoo, three in five of them well-behaved.  What the faults do and when is decided
by a seeded generator.  Checked all the time, by oracles that ask nothing of the code under test:

    I1  who is in use is alive, who is not is gone          I5  no zombie stays under a helper
    I2  no bystander was touched                            I6  descriptors return to where they began
    I3  "gone" is never said while anybody is alive         I7  the ledger agrees with the truth
    I4  one warden per gateway and one keeper per lease     I8  no signal went to a stranger
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sexton.containment import Boundary, list_live
from soak.heirs import can_force_pids, heir_of
from soak.signal_log import read_signals, strangers_in
from zoo.gateway_process import GatewayProcess
from zoo.oracles import (
    PYTHON,
    ZOO,
    Bystanders,
    all_pids,
    children_of,
    describe,
    helpers_of,
    start_ticks,
    stat_fields,
    truth_hierarchy,
    wait_until,
    wardens_of,
)
from zoo.trial import Trial, program, trials

WITHIN = 60.0
"""Seconds until something that must come true has: generous, since a soak on a busy machine proves order, not speed."""
POLITE = ("polite", "ignores_eof", "slow_flush")
WRAPPERS = ("sh", "daemonises", "terminal")
ADVERSARIES = (
    "stubborn",
    "daemonises_and_exits",
    "scrubs",
    "wipes_environ",
    "holds_stdout",
    "holds_stdin",
    "stopped",
    "inner_subreaper",
    "inner_pid_namespace",
    "slow_hoppers",
    "chatty",
    "never_reads",
    "closes_everything",
    "parent_clones",
    "headless",
    "another_user",
)
ENDS_BY_ITSELF = {"daemonises_and_exits", "holds_stdout"}
NOT_WITHOUT_LEAF = {"scrubs", "wipes_environ", "parent_clones", "another_user", "slow_hoppers"}
"""Without a leaf, what has no cookie or does not stay may survive the death of gateway and helpers at once, if it is
younger than the last census; `sexton doctor` says so."""
MOST_HEIRS = 6
SAY_EVERY, CHECK_EVERY, FAULT_EVERY = 5.0, 3.0, (0.3, 1.5)


@dataclass
class Lease:
    trial: Trial
    apparatus: ExitStack
    tree: str
    ends_at: float
    pids: list[int] = field(default_factory=list)

    def wait_empty(self) -> None:
        self.trial.truth.wait_empty(within=WITHIN)
        self.apparatus.close()


@dataclass
class Site:
    """One gateway and what it holds."""

    state_dir: Path
    boundary: Boundary
    gateway: GatewayProcess
    signals: Path
    descriptors: int
    leases: list[Lease] = field(default_factory=list)
    truths: set[str] = field(default_factory=set)


class Soak:
    """Leaving it ends everything, and proves that nothing is left."""

    def __init__(self, folder: Path, boundaries: list[Boundary], *, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._number = 0
        self.faults: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.checks = self.signals = self.ended = 0
        self.slowest_end = 0.0
        self._heirs: list[Bystanders] = []
        self._freed: list[int] = []
        self._bystanders = Bystanders(
            folder, [(*PYTHON, str(ZOO), kind) for kind in ("polite", "daemonises", "scrubs", "stubborn")]
        )
        self._sites = [
            self._open(folder / f"state-{number}", boundary)
            for number, boundary in enumerate((boundaries[0], boundaries[-1]))
        ]

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        next_fault, next_check, next_word = 1.0, CHECK_EVERY, SAY_EVERY
        while (now := time.monotonic() - began) < seconds:
            self._end_due(now)
            self._start_some(now)
            if now >= next_fault:
                self._let_something_fail()
                next_fault = time.monotonic() - began + self._random.uniform(*FAULT_EVERY)
            if now >= next_check:
                self.check()
                next_check = time.monotonic() - began + CHECK_EVERY
            if now >= next_word:
                self._say(now)
                next_word = now + max(SAY_EVERY, seconds / 1000)
            time.sleep(0.02)

    # What goes on in the ordinary way

    def _start_some(self, now: float) -> None:
        for site in self._sites:
            chats = sum(lease.ends_at - now > 8 for lease in site.leases)
            if chats < 3:
                self._lease(site, now + self._random.uniform(10, 60))
            elif len(site.leases) < 7 and self._random.random() < 0.2:
                self._lease(site, now + self._random.uniform(0.1, 2.0))

    def _lease(self, site: Site, ends_at: float) -> Lease:
        trial, apparatus = self._server(self._kind())
        site.truths |= trial.truth.signs
        [tree] = site.gateway.start([trial]).values()
        lease = Lease(trial, apparatus, tree, ends_at)
        if trial.kind in ENDS_BY_ITSELF:
            self._hear_gone(site, lease)
            self._prove_ended(lease)
        else:
            lease.pids = trial.truth.survivors()
            site.leases.append(lease)
        return lease

    def _kind(self) -> str:
        group = self._random.choices((POLITE, WRAPPERS, ADVERSARIES), (60, 25, 15))[0]
        kind = self._random.choice(group)
        return "polite" if kind == "closes_everything" and truth_hierarchy() is None else kind

    def _server(self, kind: str) -> tuple[Trial, ExitStack]:
        self._number += 1
        self.kinds[kind] += 1
        folder = self._folder / f"trial-{self._number}"
        folder.mkdir()
        apparatus = ExitStack()
        apparatus.callback(shutil.rmtree, folder)
        if kind == "sh":
            command = " ".join((*PYTHON, str(ZOO), "daemonises"))
            return apparatus.enter_context(
                program(folder, "sh", "sh", "-c", f"{command}; true", greets=True)
            ), apparatus
        [trial] = apparatus.enter_context(trials(folder, [kind]))
        return trial, apparatus

    def _end_due(self, now: float) -> None:
        for site in self._sites:
            for lease in [one for one in site.leases if one.ends_at <= now]:
                self._end(site, lease, self._random.choice(["release", "release", "kill", "drop"]))

    def _end(self, site: Site, lease: Lease, how: str) -> None:
        """I3: when it is said to be gone, nobody of it is alive at that moment."""
        site.leases.remove(lease)
        site.gateway.tell(**{how: lease.tree})
        if how != "drop":
            self._hear_gone(site, lease)
        self._prove_ended(lease)

    def _hear_gone(self, site: Site, lease: Lease) -> None:
        site.gateway.tell(gone=lease.tree)
        assert lease.trial.truth.is_empty(), f"I3: {lease.trial.kind} said to be gone, and alive"
        site.gateway.tell(drop=lease.tree)

    def _prove_ended(self, lease: Lease) -> None:
        began = time.monotonic()
        lease.wait_empty()
        self.slowest_end = max(self.slowest_end, time.monotonic() - began)
        self.ended += 1
        self._freed = (lease.pids + self._freed)[:20]

    def _prove_all_ended(self, site: Site) -> None:
        ended, site.leases = site.leases, []
        for lease in ended:
            self._prove_ended(lease)

    # What goes wrong

    def _let_something_fail(self) -> None:
        site = self._random.choice(self._sites)
        faults: list[Callable[[Site], None]] = [
            self._kill_gateway,
            self._kill_gateway_in_storm,
            self._kill_everything,
            self._kill_warden,
            self._kill_keepers,
            self._kill_one_keeper,
            self._kill_keeper_and_warden,
            self._freeze_keeper,
            self._freeze_warden,
            self._fork_worker,
            self._cancel_storm,
            self._adversary_kills_keeper,
            self._adversary_kills_warden,
            self._sweep,
        ]
        least = min(self.faults[one.__name__] for one in faults)
        fault = self._random.choice([one for one in faults if self.faults[one.__name__] == least])
        self.faults[fault.__name__] += 1
        self._last_fault = fault.__name__.strip("_").replace("_", " ")
        fault(site)
        self._bequeath()

    def _kill_gateway(self, site: Site) -> None:
        site.gateway.kill(self._random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]))
        self._mourn(site)

    def _kill_gateway_in_storm(self, site: Site) -> None:
        trial, apparatus = self._storm(site)
        time.sleep(self._random.uniform(0, 0.3))  # the moment of death is what is tried
        site.gateway.kill()
        self._mourn(site)
        trial.truth.wait_empty(within=WITHIN)
        apparatus.close()

    def _kill_everything(self, site: Site) -> None:
        if site.boundary is not Boundary.CGROUP:
            for lease in [one for one in site.leases if one.trial.kind in NOT_WITHOUT_LEAF]:
                self._end(site, lease, "kill")
        site.gateway.kill_with_all_helpers()
        self._reopen(site)
        self._prove_all_ended(site)

    def _kill_warden(self, site: Site) -> None:
        if site.leases:
            os.kill(site.gateway.warden, signal.SIGKILL)
            self._prove_all_gone(site)

    def _kill_keepers(self, site: Site) -> None:
        for keeper in site.gateway.keepers():
            with suppress(ProcessLookupError):  # its tree had just been proven gone
                os.kill(keeper, signal.SIGKILL)
        self._prove_all_gone(site)

    def _kill_one_keeper(self, site: Site) -> None:
        if site.leases:
            lease = self._random.choice(site.leases)
            os.kill(self._keeper_of(site, lease), signal.SIGKILL)
            site.leases.remove(lease)
            self._hear_gone(site, lease)
            self._prove_ended(lease)

    def _kill_keeper_and_warden(self, site: Site) -> None:
        if site.leases and site.boundary is Boundary.CGROUP:
            site.gateway.kill_helpers()
            self._prove_all_gone(site)

    def _freeze_keeper(self, site: Site) -> None:
        if site.leases:
            lease = self._random.choice(site.leases)
            os.kill(self._keeper_of(site, lease), signal.SIGSTOP)
            self._end(site, lease, "release")

    def _freeze_warden(self, site: Site) -> None:
        if site.leases:
            warden = site.gateway.warden
            os.kill(warden, signal.SIGSTOP)
            self._end(site, self._random.choice(site.leases), "release")
            os.kill(warden, signal.SIGCONT)

    def _fork_worker(self, site: Site) -> None:
        """The worker holds copies of every lifeline while its gateway dies."""
        worker = site.gateway.tell(fork_worker=True)["worker"]
        site.gateway.kill()
        try:
            self._prove_all_ended(site)
        finally:
            os.kill(worker, signal.SIGKILL)
        self._reopen(site)

    def _cancel_storm(self, site: Site) -> None:
        trial, apparatus = self._storm(site)
        site.gateway.wait_storm_over()
        assert trial.truth.is_empty(), "I3: all cancelled and left, and alive"
        apparatus.close()

    def _storm(self, site: Site) -> tuple[Trial, ExitStack]:
        trial, apparatus = self._server(self._random.choice(["stubborn", "daemonises", "scrubs"]))
        site.truths |= trial.truth.signs
        site.gateway.begin_storm(trial, [self._random.uniform(0, 0.5) for _ in range(10)])
        return trial, apparatus

    def _adversary_kills_keeper(self, site: Site) -> None:
        lease = self._attacker(site, "kills_keeper")
        site.leases.remove(lease)
        self._hear_gone(site, lease)
        self._prove_ended(lease)

    def _adversary_kills_warden(self, site: Site) -> None:
        self._attacker(site, "kills_warden")
        self._prove_all_gone(site)

    def _attacker(self, site: Site, kind: str) -> Lease:
        trial, apparatus = self._server(kind)
        site.truths |= trial.truth.signs
        lease = Lease(trial, apparatus, site.gateway.start([trial])[kind], ends_at=float("inf"))
        site.leases.append(lease)
        site.gateway.strike(kind)
        return lease

    def _sweep(self, site: Site) -> None:
        """What is in use is not disturbed: the next check finds it alive."""
        site.gateway.tell(sweep=True)

    def _keeper_of(self, site: Site, lease: Lease) -> int:
        keeper: int = site.gateway.tell(trees=True)["trees"][lease.tree][1]
        return keeper

    def _prove_all_gone(self, site: Site) -> None:
        ended, site.leases = site.leases, []
        for lease in ended:
            self._hear_gone(site, lease)
            self._prove_ended(lease)

    def _mourn(self, site: Site) -> None:
        """The gateway is dead, and nobody has been started in its place: its helpers end everything alone."""
        self._prove_all_ended(site)
        self._reopen(site)

    def _bequeath(self) -> None:
        """A stranger gets the number of one who has died, as pid and as process group."""
        if can_force_pids() and len(self._heirs) < MOST_HEIRS:
            for pid in [one for one in self._freed if start_ticks(one) is None][:1]:
                if heir := heir_of(pid, self._folder, tries=15):
                    self._heirs.append(heir)

    # The gateways

    def _open(self, state_dir: Path, boundary: Boundary) -> Site:
        self._number += 1
        log = self._folder / f"signals-{self._number}"
        env = {"SEXTON_TEST_SIGNALS": str(log)}
        gateway = GatewayProcess(state_dir, boundary, program="soak.recording_gateway", env=env)
        return Site(state_dir, boundary, gateway, log, _descriptors(gateway.pid))

    def _reopen(self, site: Site) -> None:
        """On the same folder, as a service manager does it; only then is the old one's log complete."""
        old = site.gateway
        fresh = self._open(site.state_dir, site.boundary)
        old.forget()
        self._judge_signals(site, is_over=True)
        site.gateway, site.signals, site.descriptors = fresh.gateway, fresh.signals, fresh.descriptors

    # What always holds

    def check(self) -> None:
        self.checks += 1
        for fleet in (self._bystanders, *self._heirs):
            fleet.assert_untouched()
        for site in self._sites:
            dead = [lease.trial.kind for lease in site.leases if lease.trial.truth.is_empty()]
            assert dead == [], f"I1: in use, and dead: {dead}"
            self._check_helpers(site)
            self._check_zombies(site)
            wait_until(lambda site=site: _recorded(site) == {one.tree for one in site.leases}, within=WITHIN)  # type: ignore[misc]
            if not site.leases:
                self._check_descriptors(site)
            self._judge_signals(site, is_over=False)

    def _check_helpers(self, site: Site) -> None:
        """I4: a keeper takes a moment to leave after its tree is gone."""

        def as_expected() -> bool:
            wardens = wardens_of(site.gateway.pid)
            return len(wardens) <= 1 and len(helpers_of(site.gateway.pid)) == len(wardens) + len(site.leases)

        try:
            wait_until(as_expected, within=WITHIN, every=0.05)
        except TimeoutError:
            found = [describe(pid) for pid in helpers_of(site.gateway.pid)]
            raise AssertionError(f"I4: {len(site.leases)} leases, and {found}") from None

    def _check_zombies(self, site: Site) -> None:
        """I5: whoever is a zombie under a helper now is reaped soon, unless threads of it live on."""
        zombies = {pid: start_ticks(pid) for helper in helpers_of(site.gateway.pid) for pid in _zombies_of(helper)}
        wait_until(lambda: not any(start is not None and start_ticks(pid) == start for pid, start in zombies.items()),
                   within=WITHIN, every=0.05)  # fmt: skip

    def _check_descriptors(self, site: Site) -> None:
        """I6: a gateway that holds nothing holds no more descriptors than before its first tree, but for its warden."""
        try:
            wait_until(lambda: _descriptors(site.gateway.pid) <= site.descriptors, within=WITHIN, every=0.05)
        except TimeoutError:
            now = _descriptors(site.gateway.pid)
            raise AssertionError(f"I6: {site.descriptors} descriptors at the start, {now} without a lease") from None

    def _judge_signals(self, site: Site, *, is_over: bool) -> None:
        noted = list(read_signals(str(site.signals)))
        for one in noted:
            assert strangers_in(one, site.truths) == [], f"I8: a signal to a stranger: {one}"
        if is_over:
            self.signals += len(noted)
            site.signals.unlink(missing_ok=True)

    def _say(self, now: float) -> None:
        live = sum(len(site.leases) for site in self._sites)
        helpers = sum(len(helpers_of(site.gateway.pid)) for site in self._sites)
        print(
            f"{now:6.0f} s: {live} in use, {self.ended} ended, {sum(self.faults.values())} faults, "
            f"{helpers} helpers, {len(self._heirs)} heirs of pids; last: {getattr(self, '_last_fault', '-')}",
            file=sys.stderr,
            flush=True,
        )

    # The end

    def finish(self) -> None:
        """End what is in use, close the gateways, and prove that nothing is left."""
        helpers: list[int] = []
        for site in self._sites:
            helpers += helpers_of(site.gateway.pid)
            for lease in list(site.leases):
                self._end(site, lease, "release")
        self.check()
        for site in self._sites:
            site.gateway.close()
            self._judge_signals(site, is_over=True)
            assert list(site.state_dir.rglob("*.rec")) == [], "I7: a record of nothing"
        assert _left_in(self._folder) == []

    def table(self) -> str:
        rows = [
            ("trees ended and proven gone", self.ended),
            ("longest wait for that (s)", round(self.slowest_end, 2)),
            ("checks of the invariants", self.checks),
            ("signals sent", self.signals),
            ("of them to strangers", 0),
            ("bystanders, untouched", len(self._bystanders) + sum(map(len, self._heirs))),
            *((f"server: {kind}", count) for kind, count in sorted(self.kinds.items())),
            *((f"fault: {name.strip('_').replace('_', ' ')}", count) for name, count in sorted(self.faults.items())),
        ]
        return "\n".join(f"{name:<40}{value:>10}" for name, value in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fleet in (self._bystanders, *self._heirs):
            fleet.close()
        for site in self._sites:
            site.gateway.close()
            for lease in site.leases:
                lease.apparatus.close()


def _recorded(site: Site) -> set[str]:
    """I7."""
    return {record.tree for record in list_live(site.state_dir)}


def _zombies_of(helper: int) -> Iterator[int]:
    for pid in children_of(helper):
        try:
            if stat_fields(pid)[0] == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1:  # noqa: PTH208
                yield pid
        except OSError:
            continue


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def _left_in(folder: Path) -> list[str]:
    """Whoever still has something of the soak's gateways open."""
    from zoo.oracles import open_files

    return [
        describe(pid)
        for pid in all_pids()
        if pid != os.getpid() and any(name.startswith(f"{folder}/state-") for name in open_files(pid))
    ]
