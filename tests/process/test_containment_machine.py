"""Any sequence of starts, ends and deaths, found by hypothesis: what is in use lives, everything else is gone.

A gateway in a process of its own is driven by rules; the model knows which trees have to live.  After every rule three
oracles that ask nothing of the code under test are consulted: the truth of each tree's family, the bystanders, and the
ledger.  A failing sequence is shrunk to the shortest script of faults.

`SEXTON_MACHINE_RUNS` sets the number of sequences; more than the default are drawn at random.

Mutant seen to fail here: a keeper that takes no notice of a closed lifeline (`lose_the_handle`).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from process.conftest import boundaries_here
from sexton.containment import Boundary
from waiting import PATIENCE
from zoo.gateway_process import GatewayProcess
from zoo.oracles import Bystanders, wait_until
from zoo.trial import Trial, trials

RUNS = int(os.environ.get("SEXTON_MACHINE_RUNS", "8"))
KINDS = ("stubborn", "polite", "daemonises", "daemonises_and_exits", "scrubs", "stopped", "slow_hoppers", "headless")
EVASIVE = ("scrubs", "slow_hoppers")
MOST_TREES = 4
GONE_WITHIN = PATIENCE


class ContainmentMachine(RuleBasedStateMachine):
    """The model is `_live`: the trees that somebody holds."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="sexton-machine-"))
        self._apparatus = ExitStack()
        self._live: dict[str, Trial] = {}
        self._ended: list[Trial] = []
        self._count = 0

    @initialize(boundary=st.sampled_from(boundaries_here()))
    def open(self, boundary: Boundary) -> None:
        self._boundary = boundary
        self._gateway = GatewayProcess(self._folder / "state", boundary)
        [model] = self._apparatus.enter_context(trials(self._new_folder(), ["polite"]))
        self._bystanders = self._apparatus.enter_context(Bystanders(self._folder, [model.argv]))

    # What a holder does

    @precondition(lambda self: len(self._live) < MOST_TREES)
    @rule(kind=st.sampled_from(KINDS))
    def start(self, kind: str) -> None:
        [trial] = self._apparatus.enter_context(trials(self._new_folder(), [kind]))
        started = self._gateway.start([trial])
        if kind == "daemonises_and_exits":  # its leader's exit is its end
            self._ended.append(trial)
        else:
            self._live[started[kind]] = trial

    @precondition(lambda self: self._live)
    @rule(data=st.data(), how=st.sampled_from(["release", "kill"]))
    def end(self, data: st.DataObject, how: str) -> None:
        self._end(data, how)

    @precondition(lambda self: self._live)
    @rule(data=st.data())
    def lose_the_handle(self, data: st.DataObject) -> None:
        self._end(data, "drop")

    @rule()
    def sweep(self) -> None:
        self._gateway.tell(sweep=True)

    # What goes wrong

    @precondition(lambda self: self._live)
    @rule(data=st.data())
    def kill_keeper(self, data: st.DataObject) -> None:
        tree = self._any_tree(data)
        [_, keeper] = self._gateway.tell(trees=True)["trees"][tree]
        os.kill(keeper, signal.SIGKILL)
        self._ended.append(self._live.pop(tree))

    @precondition(lambda self: self._live)
    @rule()
    def kill_warden(self) -> None:
        os.kill(self._gateway.warden, signal.SIGKILL)
        self._end_all()

    @rule()
    def kill_gateway(self) -> None:
        self._gateway.kill()
        self._end_all()
        self._restart()

    @precondition(lambda self: self._boundary is Boundary.CGROUP or not self._holds(*EVASIVE))
    @rule()
    def kill_gateway_and_helpers(self) -> None:
        """Without a cgroup, who wiped its environment or forks all the time may survive this (see `sexton doctor`)."""
        self._gateway.kill_with_all_helpers()
        self._end_all()
        self._restart()

    # What always holds

    @invariant()
    def the_ended_are_gone(self) -> None:
        for trial in self._ended:
            trial.truth.wait_empty(within=GONE_WITHIN)
        self._ended.clear()

    @invariant()
    def the_held_are_alive(self) -> None:
        dead = [trial.kind for trial in self._live.values() if trial.truth.is_empty()]
        assert dead == []

    @invariant()
    def the_ledger_agrees(self) -> None:
        if hasattr(self, "_gateway"):
            wait_until(lambda: set(self._gateway.tell(trees=True)["trees"]) == set(self._live), within=GONE_WITHIN)

    @invariant()
    def nobody_else_was_touched(self) -> None:
        if hasattr(self, "_bystanders"):
            self._bystanders.assert_untouched()

    def teardown(self) -> None:
        try:
            if hasattr(self, "_gateway"):
                self._gateway.close()
            self._end_all()
            self.the_ended_are_gone()
        finally:
            self._apparatus.close()
            shutil.rmtree(self._folder)

    def _end(self, data: st.DataObject, how: str) -> None:
        tree = self._any_tree(data)
        self._gateway.tell(**{how: tree})
        self._ended.append(self._live.pop(tree))

    def _any_tree(self, data: st.DataObject) -> str:
        """By age, since the ids differ from run to run."""
        return list(self._live)[data.draw(st.integers(0, len(self._live) - 1))]

    def _holds(self, *kinds: str) -> bool:
        return any(trial.kind in kinds for trial in self._live.values())

    def _end_all(self) -> None:
        self._ended += self._live.values()
        self._live.clear()

    def _restart(self) -> None:
        old, self._gateway = self._gateway, GatewayProcess(self._folder / "state", self._boundary)
        old.forget()

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self._folder / f"trial-{self._count}"
        folder.mkdir()
        return folder


TestContainmentMachine = ContainmentMachine.TestCase
TestContainmentMachine.settings = settings(
    max_examples=RUNS,
    stateful_step_count=12,
    derandomize="SEXTON_MACHINE_RUNS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
