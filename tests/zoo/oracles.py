"""What is true of a trial, known without asking the code under test.

`Truth` knows who of one adversary's family lives: from a cgroup of another hierarchy that the adversary joined first,
and from a FIFO that every descendant holds open.  `Bystanders` know whether anybody touched a process that is none of
ours.
`helpers_of` and `wait_none_of` tell whether warden and keepers are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from waiting import PATIENCE

ZOO = Path(__file__).with_name("zoo.py")
PYTHON = (sys.executable, "-I", "-S", "-E")


def wait_until(condition: Callable[[], bool], *, within: float, every: float = 0.002) -> float:
    """Poll until `condition` holds; return the seconds it took.  Raises TimeoutError after `within` seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            raise TimeoutError(f"not so after {within} s")
        time.sleep(every)
    return time.monotonic() - began


def mounted_hierarchies() -> dict[str, Path]:
    """The cgroup v1 hierarchies and where they are mounted, by controller (proc_pid_mountinfo(5))."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")
        if kind == "cgroup":
            for option in options.split(","):
                found[option] = Path(before.split(" ")[4])
    return found


def truth_hierarchy() -> Path | None:
    """A hierarchy in which a test may make groups, and which the code under test does not use.  The freezer is best."""
    mounted = mounted_hierarchies()
    for controller in ("freezer", "pids", "name=systemd"):
        folder = mounted.get(controller)
        if folder and os.access(folder, os.W_OK):
            return folder
    return None


def unified_mount() -> Path | None:
    """Where cgroup v2 is mounted, hybrid or not."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split(" ")[4])
    return None


class TruthGroup:
    """One cgroup of the truth hierarchy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._state = folder / "freezer.state"

    @property
    def procs(self) -> Path:
        return self.folder / "cgroup.procs"

    @property
    def can_freeze(self) -> bool:
        return self._state.exists()

    def members(self) -> list[int]:
        """Frozen first: the list of a group that forks all the time is no snapshot."""
        if not self._listed():
            return []
        with self.frozen():
            return self._listed()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the group runs, and nothing in it can die, until this is left."""
        if self.can_freeze:
            self._state.write_text("FROZEN")
            wait_until(lambda: self._state.read_text() == "FROZEN\n", within=PATIENCE)
        try:
            yield
        finally:
            if self.can_freeze:
                self._state.write_text("THAWED")

    def _listed(self) -> list[int]:
        return sorted({int(pid) for pid in self.procs.read_text().split()})

    def close(self) -> None:
        """End whoever is left, so that one failed trial does not fail the next."""

        def emptied() -> bool:
            with self.frozen():
                for pid in self._listed():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return not self._listed()

        wait_until(emptied, within=PATIENCE)
        wait_until(self._removed, within=PATIENCE)

    def _removed(self) -> bool:
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        return not self.folder.exists()


class Truth:
    """Who of one adversary's family is alive.  `arguments` go to its command line, after the kind."""

    def __init__(self, folder: Path, name: str) -> None:
        self._fifo = folder / f"{name}.alive"
        os.mkfifo(self._fifo)
        self._alive = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        hierarchy = truth_hierarchy()
        self.group = TruthGroup(hierarchy / f"zoo-{os.getpid()}-{time.monotonic_ns()}") if hierarchy else None
        joined = ("--truth", str(self.group.procs)) if self.group else ()
        self.signs = {str(self._fifo), *([self.group.folder.name] if self.group else ())}
        """By these any of the family can be told: the name of its cgroup, and the FIFO that it holds open."""
        self.arguments: tuple[str, ...] = (*joined, "--alive", str(self._fifo))

    def survivors(self) -> list[int]:
        """Pids of the living, in order."""
        members = self.group.members() if self.group else []
        return members or (self._holders() if self._is_held() else [])

    def is_empty(self) -> bool:
        return not self.survivors()

    def wait_empty(self, *, within: float) -> float:
        """Seconds until nobody was alive.  Raises AssertionError that names who still was after `within`."""
        try:
            return wait_until(self.is_empty, within=within)
        except TimeoutError:
            left = self.survivors()
            raise AssertionError(f"{len(left)} alive after {within} s: {[describe(pid) for pid in left[:5]]}") from None

    def _is_held(self) -> bool:
        try:
            return os.read(self._alive, 1) != b""
        except BlockingIOError:
            return True

    def _holders(self) -> list[int]:
        return [pid for pid in all_pids() if pid != os.getpid() and str(self._fifo) in open_files(pid)]

    def close(self) -> None:
        """End whoever is left.  A second call does nothing."""
        if not self._fifo.exists():
            return
        if self.group:
            self.group.close()
        for pid in self._holders() if self._is_held() else ():
            os.kill(pid, signal.SIGKILL)
        os.close(self._alive)
        self._fifo.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found


def describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        state, parent = stat_fields(pid)[:2]
    except (OSError, IndexError):
        return f"{pid} (gone meanwhile)"
    return f"{pid} {state} ppid={parent} {command[-120:]}"


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def start_ticks(pid: int) -> int | None:
    """When that process began, in clock ticks since boot; None when it is gone."""
    try:
        return int(stat_fields(pid)[19])
    except (OSError, IndexError):
        return None


def is_running(pid: int, start: int) -> bool:
    """The same process still exists and is no zombie."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return False
    return int(fields[19]) == start and fields[0] not in "ZX"


def children_of(pid: int) -> list[int]:
    """The direct children of all threads of a process."""
    return [child for child in all_pids() if parent_of(child) == pid]


def parent_of(pid: int) -> int | None:
    try:
        return int(stat_fields(pid)[1])
    except (OSError, IndexError):
        return None


Identities = dict[int, int]


def identified(pids: Iterable[int]) -> Identities:
    """Each living one of `pids` with its start time."""
    return {pid: start for pid in pids if (start := start_ticks(pid)) is not None}


def helpers_of(gateway: int) -> Identities:
    """The warden and the keepers of a gateway: those of its children that call themselves so, and theirs."""
    wardens = wardens_of(gateway)
    return identified([*wardens, *(keeper for warden in wardens for keeper in children_of(warden))])


def wardens_of(gateway: int) -> list[int]:
    return [child for child in children_of(gateway) if name_of(child) == "sexton-warden"]


def name_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:
        return None


def wait_none_of(processes: Identities, *, within: float) -> float:
    """Seconds until none of these ran.  Raises AssertionError that names who still did after `within`."""
    try:
        return wait_until(lambda: not any(is_running(*one) for one in processes.items()), within=within)
    except TimeoutError:
        left = [describe(pid) for pid, start in processes.items() if is_running(pid, start)]
        raise AssertionError(f"still running after {within} s: {left}") from None


class Bystanders:
    """Processes that look exactly like adversaries, with the same user and command line, and are none of ours."""

    def __init__(
        self,
        folder: Path,
        command_lines: Iterable[Iterable[str]],
        *,
        extra_env: dict[str, str] | None = None,
        lead_groups: bool = False,
    ) -> None:
        """With `lead_groups` the pid of each is the number of a session and a process group too."""
        self._log = folder / f"bystanders-{time.monotonic_ns()}.log"
        env = {"PATH": os.environ["PATH"], "ZOO_BYSTANDER_LOG": str(self._log), **(extra_env or {})}
        self._leaders = [
            subprocess.Popen(
                [*line], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=lead_groups
            )
            for line in command_lines
        ]
        self._all: Identities = {}
        for leader in self._leaders:
            assert leader.stdout
            assert leader.stdout.readline()
            assert leader.stdout.readline()  # one line of the leader, one of its child
            self._all |= identified([leader.pid, *children_of(leader.pid)])

        self.leader_pids = [leader.pid for leader in self._leaders]
        self.log_name = self._log.name

    def __len__(self) -> int:
        return len(self._all)

    def pids(self) -> list[int]:
        return list(self._all)

    def start_ticks(self) -> list[int]:
        return list(self._all.values())

    def assert_untouched(self) -> None:
        signals = self._log.read_text() if self._log.exists() else ""
        assert signals == "", f"bystanders got signals: {signals}"
        disturbed = [
            pid for pid, start in self._all.items() if not is_running(pid, start) or stat_fields(pid)[0] == "T"
        ]
        assert disturbed == [], f"bystanders died or were stopped: {disturbed} of {list(self._all)}"

    def close(self) -> None:
        for pid, start in self._all.items():
            if is_running(pid, start):
                os.kill(pid, signal.SIGKILL)
        for leader in self._leaders:
            leader.wait(PATIENCE)
            assert leader.stdout
            leader.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()
