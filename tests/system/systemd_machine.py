"""A machine that systemd runs, in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import pytest

from system.gateway_process import wait_for
from waiting import PATIENCE
from zoo.oracles import unified_mount

ROOT = Path(__file__).parents[2]
FIRST = Path(__file__).with_name("systemd_root.py")
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc", "--net")


@contextmanager
def booted_systemd(folder: Path) -> Iterator[SystemdMachine]:
    """systemd as the first process of namespaces of its own; skips, with the reason, where that cannot be."""
    cgroups = unified_mount()
    for needed, why in (
        (shutil.which("systemctl") and Path("/lib/systemd/systemd").exists(), "systemd is not installed"),
        (os.geteuid() == 0, "only root may make these namespaces"),
        (cgroups is not None and os.access(cgroups, os.W_OK), "no cgroup v2 is mounted in which we may make groups"),
    ):
        if not needed:
            pytest.skip(why)
    assert cgroups is not None
    group = cgroups / f"sexton-systemd-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    launcher = subprocess.Popen(
        _launching(folder, group), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield SystemdMachine(launcher, group)
    finally:
        (group / "cgroup.kill").write_text("1")
        launcher.communicate(timeout=PATIENCE)
        wait_for(
            lambda: "populated 0" in (group / "cgroup.events").read_text(), within=PATIENCE, what="the machine is off"
        )
        for inner, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(inner).rmdir()


@final
class SystemdMachine:
    """`group` is the cgroup of all its processes, seen from outside."""

    def __init__(self, launcher: subprocess.Popen[str], group: Path) -> None:
        self.group = group
        self._launcher = launcher
        self.first = wait_for(self._find_first, within=PATIENCE, what="systemd has made its first cgroup")
        wait_for(self._is_running, within=PATIENCE, what="systemd has started")

    def write(self, path: str, text: str) -> None:
        """Make a file, and its folder if need be."""
        self.run("sh", "-c", 'mkdir -p "${0%/*}" && cat > "$0"', path, text=text)

    def run(self, *command: str, text: str = "", within: float = 60) -> str:
        """What a command in there says.  Raises AssertionError if it fails."""
        done = self.try_to_run(*command, text=text, within=within)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def try_to_run(self, *command: str, text: str = "", within: float = 60) -> subprocess.CompletedProcess[str]:
        inside = ("nsenter", "--target", str(self.first), "--all", "--", *command)
        return subprocess.run(inside, input=text, capture_output=True, text=True, timeout=within, check=False)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def json(self, *command: str) -> Any:
        return json.loads(self.run(*command))

    def members(self, unit: str) -> list[int]:
        """The processes of a unit and of what it made below its cgroup, by their pids out here."""
        return _members(self.group / "system.slice" / unit)

    def everyone(self) -> list[int]:
        """All processes of the machine, by their pids out here."""
        return _members(self.group)

    def _find_first(self) -> int | None:
        if self._launcher.poll() is not None:
            said = self._launcher.stdout.read() if self._launcher.stdout else ""
            pytest.skip(f"this host lets no systemd boot in namespaces: {said.strip()[-500:]}")
        with suppress(FileNotFoundError):
            pids = (self.group / "init.scope" / "cgroup.procs").read_text().split()
            return int(pids[0]) if pids else None
        return None

    def _is_running(self) -> bool:
        return self.try_to_run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}


def _launching(folder: Path, group: Path) -> list[str]:
    """The command that boots it: root in its cgroup, then in its namespaces."""
    (overlay := folder / "overlay").mkdir()
    kept = dict.fromkeys(str(Path(path).resolve()) for path in (ROOT, sys.prefix, sys.base_prefix))
    joining = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))
    return [*joining, "unshare", *NAMESPACES, sys.executable, str(FIRST), str(overlay), *kept]


def _members(group: Path) -> list[int]:
    found: list[int] = []
    for folder, _, _ in os.walk(group):
        with suppress(OSError):  # it is removed while we look
            found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found
