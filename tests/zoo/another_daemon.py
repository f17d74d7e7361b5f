"""A daemon that is none of ours and starts processes on request, as a service manager or atd does.

What it starts gets the environment of who asked, and stands by as a bystander: it notes every signal.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from waiting import PATIENCE
from zoo.oracles import (
    PYTHON,
    ZOO,
    children_of,
    describe,
    identified,
    is_running,
    unified_mount,
    wait_none_of,
    wait_until,
)


class AnotherDaemon:
    """Runs in the process of the test, so that what it starts has the test for its parent."""

    def __init__(self, folder: Path, *, in_own_cgroup: bool = False) -> None:
        self.socket = str(folder / "service.sock")
        self._log = folder / "service-signals.log"
        self._group: Path | None = None
        if in_own_cgroup:
            mount = unified_mount()
            assert mount
            self._group = mount / f"zoo-service-{os.getpid()}-{time.monotonic_ns()}"
            self._group.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.socket)
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def started(self) -> list[int]:
        """The pids of all that it started, and of their children, in order."""
        leaders = [process.pid for process in self._processes]
        return sorted([*leaders, *(child for pid in leaders for child in children_of(pid))])

    def assert_untouched(self, *, count: int) -> None:
        """So many were started; each and its child live, and none got a signal."""
        assert len(self._processes) == count
        assert len(self.started) == 2 * count, [describe(pid) for pid in self.started]
        assert not self._log.exists(), self._log.read_text()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection, connection.makefile("rb") as asked:
                if not (line := asked.readline()):
                    return
                self._start(json.loads(line))
                connection.sendall(b"started")

    def _start(self, environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            [*PYTHON, str(ZOO), "polite"],
            env={**environment, "ZOO_BYSTANDER_LOG": str(self._log)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.append(process)
        assert process.stdout
        for _ in range(2):  # one line of it, one of its child
            assert process.stdout.readline()
        for pid in self.started if self._group else ():
            (self._group or Path()).joinpath("cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.socket)
        self._thread.join(PATIENCE)
        self._server.close()
        living = identified(self.started)
        for pid, start in living.items():
            if is_running(pid, start):
                os.kill(pid, 9)
        for process in self._processes:
            process.communicate(timeout=PATIENCE)
        wait_none_of(living, within=PATIENCE)
        if self._group:
            wait_until(lambda: (self._group or Path()).joinpath("cgroup.procs").read_text() == "", within=PATIENCE)
            self._group.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
