"""A real server program for a test: started as a plain process on loopback, and proven gone at its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from waiting import PATIENCE
from zoo.oracles import TruthGroup, truth_hierarchy

JOIN = 'echo $$ > "$0" && exec "$@"'
# A server on a busy machine may take long to start; nothing depends on how long.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def real_server(
    argv: Sequence[str],
    *,
    folder: Path,
    is_up: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program runs while the block lasts; afterwards neither it nor anything that it started is left.

    What it says goes to `server.log` in `folder`, which is shown if it does not come up.
    """
    hierarchy = truth_hierarchy()
    group = None if hierarchy is None else TruthGroup(hierarchy / f"server-{os.getpid()}-{time.monotonic_ns()}")
    joining = ("sh", "-c", JOIN, str(group.procs)) if group else ()
    log = folder / "server.log"
    try:
        with log.open("ab") as said:
            process = subprocess.Popen(
                [*joining, *argv],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=folder,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        try:
            _wait(lambda: is_up() or process.poll() is not None, what=f"{argv[0]} to come up")
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
        if group is not None:
            _wait(lambda: not group.members(), what=f"the processes of {argv[0]} to be gone")
    finally:
        if group is not None:
            group.close()


def _wait(condition: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.02)
