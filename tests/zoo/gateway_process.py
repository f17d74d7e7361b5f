"""A gateway of the tests, seen from outside: told what to hold, and killed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

from sexton.containment import Boundary, StopTimes
from waiting import PATIENCE
from zoo.oracles import Identities, helpers_of, wait_none_of, wardens_of
from zoo.trial import QUICK, Trial

_ROOT = Path(__file__).parents[2]


class GatewayProcess:
    """Leaving it closes it, and proves that its helpers are gone."""

    def __init__(
        self,
        state_dir: Path,
        boundary: Boundary | None,
        *,
        program: str = "zoo.gateway",
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        terminal: int | None = None,
    ) -> None:
        """`boundary` None is the strongest that works.

        `env` with ZOO_ORDERLY set has it leave its containment at SIGTERM, as a real gateway does.  `through` is a
        command that executes its arguments in other surroundings.  `terminal` is a descriptor of its terminal-to-be.
        """
        self.state_dir = state_dir
        path = os.pathsep.join(str(_ROOT / part) for part in ("src", "tests"))
        self._process = subprocess.Popen(
            [*through, sys.executable, "-m", program, str(state_dir), boundary or "strongest"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=None if terminal is None else partial(_take_terminal, terminal),  # noqa: PLW1509 - no threads here
        )
        self._helpers: Identities = {}
        self._started: dict[str, str] = {}
        self.pid = self._process.pid
        assert self._hear() == {"pid": self.pid}

    def start(self, trials: Iterable[Trial], *, stop: StopTimes = QUICK) -> dict[str, str]:
        """The ids of the trees, by kind, when all are ready."""
        started: dict[str, str] = self.tell(start=[_as_json(one, stop) for one in trials])["started"]
        self._helpers |= helpers_of(self.pid)
        self._started |= started
        return started

    def tell(self, **command: Any) -> dict[str, Any]:
        """Give one command; its answer."""
        self._say(command)
        return self._hear()

    def begin_storm(self, trial: Trial, delays: Iterable[float]) -> None:
        """One tree of that trial for each delay, cancelled so many seconds after it was asked for."""
        self._say({"storm": [_as_json(trial, QUICK), [*delays]]})

    def wait_storm_over(self) -> None:
        self._hear()
        self._helpers |= helpers_of(self.pid)

    @property
    def warden(self) -> int:
        [warden] = wardens_of(self.pid)
        return warden

    def keepers(self) -> list[int]:
        return [keeper for _, keeper in self.tell(trees=True)["trees"].values()]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal that it does not handle."""
        os.kill(self.pid, number)
        self._process.wait(PATIENCE)

    def end(self, how: str) -> None:
        """Have it end, or become another program, on the spot."""
        self._helpers |= helpers_of(self.pid)
        self._say({"end": how})

    def wait_exit(self, seconds: float) -> None:
        """Raises subprocess.TimeoutExpired when it still runs then."""
        self._process.wait(seconds)

    def wait_dead(self) -> None:
        """Somebody else has killed it, or it ends by itself."""
        self._process.wait(PATIENCE)

    def terminate(self) -> None:
        """Have it leave in the ordinary way; it was opened with ZOO_ORDERLY."""
        self._helpers |= helpers_of(self.pid)
        os.kill(self.pid, signal.SIGTERM)
        self.wait_dead()

    def kill_with_all_helpers(self) -> None:
        """At once: whoever is killed first, none of the others gets to do anything, since all are stopped before."""
        living = helpers_of(self.pid)
        self._helpers |= living
        _kill_at_once([self.pid, *living])
        self._process.wait(PATIENCE)

    def kill_helpers(self) -> None:
        """Warden and keepers at once; the gateway lives."""
        self._helpers |= helpers_of(self.pid)
        _kill_at_once(list(helpers_of(self.pid)))

    def strike(self, kind: str) -> None:
        """Have the adversary of that kind do its worst."""
        self.tell(strike=self._started[kind])

    def wait_helpers_gone(self, *, within: float) -> float:
        """Seconds until neither warden nor keeper ran any more."""
        return wait_none_of(self._helpers, within=within)

    def _say(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], 100)
        assert ready, "the gateway does not answer"
        line = self._process.stdout.readline()
        assert line, f"the gateway ended with status {self._process.wait(PATIENCE)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def forget(self) -> None:
        """It was killed: let go of its pipes, and prove that its helpers are gone."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self.wait_helpers_gone(within=PATIENCE)

    def close(self) -> None:
        """End the gateway in the ordinary way, if it still runs."""
        self._helpers |= helpers_of(self.pid)
        if self._process.stdin and not self._process.stdin.closed:
            self._process.communicate(timeout=60)
        self.wait_helpers_gone(within=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_terminal(terminal: int) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _as_json(trial: Trial, stop: StopTimes) -> dict[str, Any]:
    return {"name": trial.kind, "argv": trial.argv, "owner": trial.owner, "stop": asdict(stop)}


def _kill_at_once(pids: list[int]) -> None:
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):  # a keeper leaves by itself when its tree has ended
                os.kill(pid, number)
