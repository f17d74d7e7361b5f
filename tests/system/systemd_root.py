"""Becomes systemd, as the first process of namespaces of its own, on a throw-away copy of this machine's files.

    unshare --pid --fork --kill-child --mount --cgroup --uts --ipc --net python systemd_root.py FOLDER KEPT...

Nothing that this systemd does may reach the machine, so: the root is an overlay whose upper side is in memory in
FOLDER; /tmp, /run and /dev are empty ones of its own, /proc/sys and /sys cannot be written; no unit starts by itself,
so that nothing is cleaned, tuned or mounted.  The folders KEPT are there as they are, and cannot be written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
NEEDED_UNITS = """
 basic.target local-fs.target local-fs-pre.target multi-user.target network-online.target network.target
 paths.target shutdown.target slices.target sockets.target swap.target sysinit.target time-set.target timers.target
 umount.target final.target network-pre.target poweroff.target systemd-poweroff.service emergency.target
"""


def main(folder: Path, kept: list[Path]) -> None:
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", folder)
    root = make_root(folder)
    fill_root(root)
    for path in kept:
        bind(path, root / path.relative_to("/"), read_only=True)
    keep_units(root)
    run("ip", "link", "set", "lo", "up")
    os.chdir(root)
    (root / "old").mkdir()
    run("pivot_root", ".", "old")
    os.chroot(".")
    os.chdir("/")
    run("umount", "--lazy", "/old")
    environment = {"container": "sexton-test", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    arguments = ["--system", "--log-target=console", "--log-level=info", "--unit=multi-user.target"]
    os.execve("/lib/systemd/systemd", ["/lib/systemd/systemd", *arguments], environment)


def make_root(folder: Path) -> Path:
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    sides = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    run("mount", "-t", "overlay", "-o", sides, "overlay", folder / "root")
    return folder / "root"


def fill_root(root: Path) -> None:
    for name in ("tmp", "run", "dev", "var/tmp"):
        run("mount", "-t", "tmpfs", "tmpfs", root / name)
    for name in DEVICES:
        (root / "dev" / name).touch()
        bind(Path("/dev", name), root / "dev" / name, read_only=False)
    run("mount", "-t", "proc", "proc", root / "proc")
    bind(root / "proc/sys", root / "proc/sys", read_only=True)
    run("mount", "-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    run("mount", "-t", "cgroup2", "cgroup2", root / "sys/fs/cgroup")
    (root / "etc/machine-id").write_text("5e" * 16 + "\n")


def keep_units(root: Path) -> None:
    """Only targets, which do nothing: no service, mount, socket or generator of the machine is there."""
    kept = set(NEEDED_UNITS.split())
    for place in ("usr/lib/systemd/system", "etc/systemd/system"):
        for unit in (root / place).iterdir() if (root / place).is_dir() else ():
            if unit.is_dir() and not unit.is_symlink():
                shutil.rmtree(unit)
            elif unit.name not in kept:
                unit.unlink()
    for place in ("usr/lib/systemd/system-generators", "usr/lib/systemd/system-environment-generators"):
        shutil.rmtree(root / place, ignore_errors=True)


def bind(path: Path, place: Path, *, read_only: bool) -> None:
    if path.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", path, place)
    if read_only:
        run("mount", "-o", "remount,bind,ro", place)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    if os.getpid() != 1:
        sys.exit("this would take the machine apart: it is to be the first process of namespaces of its own")
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
