"""`sexton up` as a program of its own, and the truth about every process that came of it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from waiting import PATIENCE, promised
from zoo.oracles import TruthGroup, describe, truth_hierarchy

SERVER = Path(__file__).with_name("stdio_server.py")
JOIN = 'echo $$ > "$0" && exec "$@"'

BUSY = """
drain_timeout = "500ms"
[servers.small]
@SERVER --helper@

[servers.other]
@SERVER@

[jobs.holder]
at = "start"
call = "small.slow"
arguments = { seconds = 600, text = "held", mark = "MARK", until = "GO" }

[jobs.quick]
every = "1s"
command = ["echo", "quick"]
"""
"""A run holds a server, and makes the file MARK, until there is the file GO; another comes every second."""


def write_busy(gateway: GatewayProcess, *more: str) -> GatewayProcess:
    """Settings with a run that holds a server from `mark` on until `go`, both in the gateway's folder."""
    text = "\n".join((BUSY, *more)).replace("MARK", str(gateway.folder / "mark"))
    return gateway.write(text.replace("GO", str(gateway.folder / "go")))


def start_busy(gateway: GatewayProcess) -> GatewayProcess:
    """Start it with those settings; the run is in the middle of its call, and another has come and gone."""
    write_busy(gateway).up()
    wait_for((gateway.folder / "mark").exists, what="the call of the run has arrived")
    gateway.wait_event("run.ended", subject="quick", state="ran")
    return gateway


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(condition: Callable[[], Any], *, within: float = PATIENCE, what: str) -> Any:
    """What `condition` answers as soon as that is true.  Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.01)
    return found


class GatewayProcess:
    """One gateway on one folder; may be started again after it has ended.

    Every process that it starts, and whatever that starts, stays in a cgroup
    of a hierarchy that sexton does not use; so `survivors` is the truth.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "sexton.toml"
        self.data = folder / "state"
        self.program: tuple[str, ...] = ("-m", "sexton")
        self.database: str | None = None
        """For the settings; None: the file in the data folder."""
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._reads = threading.Event()
        self._hierarchy = truth_hierarchy()
        self.group: TruthGroup | None = None

    # Settings

    def write(self, text: str) -> Self:
        """Replace the settings at once, as a good editor does.

        `@SERVER ARGUMENT …@` stands for the command of the small server with those arguments.
        """
        draft = self.folder / ".draft"
        database = f'database = "{self.database}"\n' if self.database else ""
        draft.write_text(f'listen = "127.0.0.1:0"\n{database}' + re.sub(r"@SERVER(.*)@", _server_keys, text))
        draft.chmod(0o600)
        draft.replace(self.settings)
        return self

    # Running

    def start(self, *launcher: str, stdin: IO[bytes] | int = subprocess.DEVNULL, **environment: str) -> Self:
        """Start it, by `launcher` if one is given; returns at once."""
        if self.group is None and self._hierarchy is not None:
            self.group = TruthGroup(self._hierarchy / f"system-{os.getpid()}-{time.monotonic_ns()}")
        joining = ("sh", "-c", JOIN, str(self.group.procs)) if self.group else ()
        self.lines = []
        self.process = subprocess.Popen(
            [*joining, *launcher, *self.command("up")],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._reads.set()
        self._reader = threading.Thread(target=self._keep_reading, args=(self.process,), daemon=True)
        self._reader.start()
        return self

    def up(self, *launcher: str, stdin: IO[bytes] | int = subprocess.DEVNULL, **environment: str) -> Self:
        """Start it and wait until it serves."""
        self.start(*launcher, stdin=stdin, **environment)
        self.wait_line(r"^ready http://127\.0\.0\.1:\d+$")
        return self

    def command(self, *arguments: str) -> list[str]:
        where = ["--config", str(self.settings), "--data", str(self.data)]
        return [sys.executable, *self.program, *arguments, *where]

    def cli(self, *arguments: str) -> Any:
        """What a command answers with `--json`."""
        done = subprocess.run(
            [*self.command(*arguments), "--json"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_exit(self, *, within: float) -> int:
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runs on after {within} s; its last lines: {self.lines[-5:]}") from None

    def stop(self) -> None:
        """SIGTERM, and the proof that nothing is left."""
        self.send(signal.SIGTERM)
        assert self.wait_exit(within=PATIENCE) == 0, self.lines[-5:]
        self.wait_nothing_left()

    # What happened

    def wait_line(self, pattern: str, *, within: float = PATIENCE) -> str:
        """The first line of its output that matches."""

        def found() -> str | None:
            return next((line for line in list(self.lines) if re.search(pattern, line)), None)

        wait_for(lambda: found() or self._has_ended(), within=within, what=f"{pattern!r} in {self.lines[-8:]}")
        line = wait_for(found, within=PATIENCE, what=f"it ended before {pattern!r}: {self.lines}")
        return str(line)

    def output(self) -> str:
        return "\n".join(self.lines)

    def events(self, kind: str, **data: Any) -> list[Mapping[str, Any]]:
        """Events of the journal on disk, of that kind (a prefix) and with that data; `subject` may be among it."""
        file = self.data / "journal.jsonl"
        written = file.read_text().rpartition("\n")[0] if file.exists() else ""  # the last line may still be coming
        events = [json.loads(line) for line in written.splitlines()]
        return [event for event in events if event["kind"].startswith(kind) and _has(event, data)]

    def wait_event(self, kind: str, *, count: int = 1, within: float = PATIENCE, **data: Any) -> Mapping[str, Any]:
        """The newest of at least `count` such events."""

        def enough() -> list[Mapping[str, Any]] | None:
            found = self.events(kind, **data)
            return found if len(found) >= count else None

        try:
            found: list[Mapping[str, Any]] = wait_for(enough, within=within, what=f"{count} of {kind} {data}")
        except AssertionError as error:
            assert self.process is not None
            raise AssertionError(f"{error}; exit {self.process.poll()}, last lines: {self.lines[-8:]}") from None
        return found[-1]

    # The truth

    def survivors(self) -> list[int]:
        return self.group.members() if self.group else []

    def wait_nothing_left(self, *, within: float = promised(2), but: tuple[int, ...] = ()) -> float:
        """Seconds until nobody of the whole family was alive, gateway and helpers included, except `but`."""
        began = time.monotonic()
        try:
            wait_for(lambda: not set(self.survivors()) - set(but), within=within, what="all gone")
        except AssertionError:
            left = [describe(pid) for pid in self.survivors() if pid not in but]
            raise AssertionError(f"{len(left)} alive after {within} s: {left}") from None
        return time.monotonic() - began

    def stop_reading(self) -> None:
        """Leave its output in the pipe, which is made as small as pipes get."""
        assert self.process is not None
        assert self.process.stdout is not None
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        self._reads.clear()

    def wait_read(self) -> None:
        """All that an ended gateway has said is in `lines`."""
        assert self._reader is not None
        self._reader.join(PATIENCE)

    def close(self) -> None:
        """End whatever a failed test has left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self._reads.set()
        if self.group is not None:
            self.group.close()

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _keep_reading(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                self._reads.wait()


def _has(event: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    said = {**event["data"], "subject": event["subject"]}
    return all(_trimmed(said.get(key)) == value for key, value in data.items())


def _trimmed(value: Any) -> Any:
    """An output without the newline that most programs end theirs with."""
    return value.removesuffix("\n") if isinstance(value, str) else value


def _server_keys(found: re.Match[str]) -> str:
    words = ["-I", "-S", str(SERVER), *found[1].split()]
    return f"command = {json.dumps(sys.executable)}\nargs = {json.dumps(words)}"
