"""Who is alive, by two oracles that owe nothing to the code under test.

A `Leaf` is a cgroup of the benchmark's own that a host is started in: whatever the host starts is in it or in a cgroup
below it. A cookie is a random word in the environment of one server, inherited by its descendants (none of our servers
scrubs it), which tells server processes from the host's own and finds those that left the leaf.
Sources: cgroups(7), proc_pid_environ(5).
"""

import contextlib
import os
import select
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COOKIE = "BENCH_COOKIE"
CLEAR_SECONDS = 10.0


def cgroup2_folder() -> Path | None:
    """The cgroup2 folder of this process, if it may make a cgroup there; else None."""
    mount = _cgroup2_mount()
    if mount is None:
        return None
    own = next(
        (line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/"
    )
    folder = mount / own.lstrip("/")
    return folder if os.access(folder, os.W_OK) and (folder / "cgroup.procs").exists() else None


def _cgroup2_mount() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A cgroup of the benchmark's own. Everything in it, at any depth, was started by the host under test."""

    folder: Path

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator["Leaf"]:
        """A leaf that is empty when it is given and gone when it is left, whatever was started in it.

        Raises RuntimeError where no cgroup2 folder is writable: without it a benchmark could not prove what it says.
        """
        parent = cgroup2_folder()
        if parent is None:
            raise RuntimeError("these benchmarks need a writable cgroup2 folder as their oracle (run as root)")
        leaf = cls(parent / f"sexton-bench-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        leaf.folder.mkdir()
        try:
            yield leaf
        finally:
            leaf._clear()

    def entering(self, argv: list[str]) -> list[str]:
        """`argv` as a command that joins the leaf before anything else runs."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *argv]

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """This process is in the leaf meanwhile, and so is what it starts."""
        home = self.folder.parent / "cgroup.procs"
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            home.write_text(str(os.getpid()))

    def pids(self) -> set[int]:
        """Every live process in the leaf and in the cgroups below it, zombies left out."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.folder):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
        return {pid for pid in found if is_alive(pid)}

    def _clear(self) -> None:
        end = time.monotonic() + CLEAR_SECONDS
        while self.folder.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                (self.folder / "cgroup.kill").write_text("1")
            for folder, _, _ in os.walk(self.folder, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.005)
        if self.folder.exists():
            raise RuntimeError(f"{self.folder} cannot be emptied: {sorted(self.pids())}")


def cookie_pids(cookie: str) -> set[int]:
    """Every live process whose environment holds `cookie`, wherever it is."""
    needle = f"{COOKIE}={cookie}".encode()
    return {pid for pid in _all_pids() if needle in _read(pid, "environ").split(b"\0") and is_alive(pid)}


def end_cookie_pids(cookie: str) -> None:
    """SIGKILL to each process that carries `cookie`, by pidfd, until none is left.

    Raises RuntimeError if some are left after `CLEAR_SECONDS`.
    """
    end = time.monotonic() + CLEAR_SECONDS
    while found := cookie_pids(cookie):
        if time.monotonic() > end:
            raise RuntimeError(f"processes of the benchmark cannot be ended: {sorted(found)}")
        for pid in found:
            _kill_if_it_carries(pid, cookie)


def _kill_if_it_carries(pid: int, cookie: str) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if f"{COOKIE}={cookie}".encode() in _read(pid, "environ").split(b"\0"):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 1.0)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Whether `pid` is there and no zombie."""
    state = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(state) and state[0] not in (b"Z", b"X")


def parent_of(pid: int) -> int:
    """The parent's pid, or 0 if `pid` is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def command_line(pid: int) -> str:
    """The arguments of `pid`, joined by spaces; empty if it is gone."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def is_sexton_helper(pid: int) -> bool:
    """Whether `pid` is a warden or a keeper, by the name that they give themselves; no server of ours takes it."""
    return _read(pid, "comm").startswith((b"sexton-warden", b"sexton-keeper"))


def private_bytes(pid: int) -> int:
    """Memory that only `pid` uses (USS): what would be free if it ended. 0 if it is gone."""
    return sum(size for key, size in _memory(pid).items() if key.startswith("Private_"))


def cpu_seconds(pid: int) -> float:
    """Processor time that `pid` has used, to 0.01 s (proc_pid_stat(5), fields 14 and 15). 0 if it is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def proportional_bytes(pid: int) -> int:
    """Memory of `pid`, shared pages divided by their users (PSS): what adds up over many processes. 0 if it is gone."""
    return _memory(pid).get("Pss", 0)


def _memory(pid: int) -> dict[str, int]:
    lines = _read(pid, "smaps_rollup").decode().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
