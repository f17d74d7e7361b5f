"""Z27 from outside: everybody in a PID namespace is killed at once, by one of the adversaries in it.

    python own_pid_namespace.py FOLDER BOUNDARY        as the first process of a PID namespace with a /proc of its own

It runs a gateway with two trees, has one of them signal everybody with SIGKILL (the first process of a namespace is
exempt), and then starts the next gateway on the same folder.  It prints how many of the trees' processes are alive
after the one and after the other, and which trees the recovery ended, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from sexton.containment import Boundary, last_recovery
from waiting import PATIENCE
from zoo.gateway_process import GatewayProcess
from zoo.oracles import all_pids, wait_until
from zoo.trial import trials


def main() -> None:
    folder, boundary = Path(sys.argv[1]), Boundary(sys.argv[2])
    assert os.getpid() == 1, "this is for a PID namespace of its own"
    state = folder / "state"
    with trials(folder, ["kills_everybody", "daemonises"]) as made:
        with GatewayProcess(state, boundary) as gateway:
            gateway.start(made)
            with suppress(AssertionError, BrokenPipeError):  # it dies before it can answer
                gateway.strike("kills_everybody")
            gateway.wait_dead()
            wait_until(_is_attacker_alone, within=PATIENCE)
        after_attack = sum(len(trial.truth.survivors()) for trial in made)
        with GatewayProcess(state, boundary):
            after_start = sum(len(trial.truth.survivors()) for trial in made)
        report = last_recovery(state)
    trees = [] if report is None else sorted(tree["name"] for tree in report["trees"])
    print(json.dumps({"after attack": after_attack, "after start": after_start, "recovered": trees}))


def _is_attacker_alone() -> bool:
    """The first process has to reap whoever is left to it."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    return len(all_pids()) == 2


if __name__ == "__main__":
    main()
