"""A boundary by cgroup v2: a leaf of the tree's own, in which every descendant is born.

`cgroup.kill` ends all members at once, also those that fork meanwhile or run with other credentials.  A member that may
write elsewhere in the hierarchy can move itself out; that one is caught by descent.

Sources: Documentation/admin-guide/cgroup-v2.rst of Linux, cgroups(7), proc_pid_mountinfo(5).  Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from sexton.containment.identity import ProcessIdentity, is_alive, pid_namespace
from sexton.containment.ledger import CgroupLeaf, Stuck

_GATEWAY_SUBGROUP = "gateway"
"""The folder that systemd's DelegateSubgroup= puts the gateway into, so that its parent may have controllers."""
_GROUP = "sexton"
_GROUP_NAME = re.compile(_GROUP + r"-[0-9a-f]+-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)")
_CONTROLLERS = ("memory", "pids", "cpu")


class Leaf:
    """One tree's cgroup.  The keeper stays outside: `cgroup.kill` spares nobody."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self) -> CgroupLeaf:
        """Make it, new and empty.

        Raises:
            FileExistsError: a leaf of that name exists; whatever is in it is not ours.
            OSError: the hierarchy is not delegated to us.
        """
        os.mkdir(self.path)
        return CgroupLeaf(path=self.path, inode=os.stat(self.path).st_ino)

    def limit(self, *, memory_bytes: int | None, processes: int | None, cpu: float | None) -> None:
        """Set the limits whose controllers are delegated; the others cannot be enforced here.  `cpu` is in cores."""
        wanted = {
            "memory.max": memory_bytes,
            "memory.oom.group": 1 if memory_bytes else None,
            "pids.max": processes,
            "cpu.max": f"{int(cpu * 100_000)} 100000" if cpu else None,
        }
        for name, value in wanted.items():
            if value is not None and os.path.exists(os.path.join(self.path, name)):
                _write(os.path.join(self.path, name), str(value))

    def join(self) -> None:
        """Move the calling process in."""
        _write(os.path.join(self.path, "cgroup.procs"), "0")

    def kill_all(self) -> tuple[Stuck, ...]:
        with suppress(FileNotFoundError):
            _write(os.path.join(self.path, "cgroup.kill"), "1")
        return ()

    def is_empty(self) -> bool:
        try:
            events = _read(os.path.join(self.path, "cgroup.events"))
        except FileNotFoundError:
            return True
        return "populated 0" in events.splitlines()

    def is_(self, recorded: CgroupLeaf) -> bool:
        """Whether this is still the cgroup that was recorded, and not a later one at the same path."""
        try:
            return os.stat(self.path).st_ino == recorded.inode
        except FileNotFoundError:
            return False

    def members(self) -> tuple[int, ...]:
        """The pids in it and below it, for people to read: it is no snapshot."""
        found: list[int] = []
        for folder in _folders(self.path):
            with suppress(OSError):
                found += [int(line) for line in _read(os.path.join(folder, "cgroup.procs")).split()]
        return tuple(found)

    def remove(self) -> bool:
        """Remove it and what its members made in it, deepest first; False when the kernel still holds some of it."""
        for folder in _folders(self.path):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in {errno.EBUSY, errno.ENOTEMPTY}:
                    return False
                raise
        return True


def mount_point() -> str | None:
    """Where cgroup v2 is mounted (in the hybrid layout beside v1); None when it is not."""
    mount = _mount()
    return None if mount is None else mount[1]


def own_folder() -> str | None:
    """The cgroup v2 folder that this process is in; None when there is none that we can see."""
    mount = _mount()
    inside = _own_path()
    if mount is None or inside is None:
        return None
    root, point = mount
    if root != "/":
        if not (inside + "/").startswith(root + "/"):
            return None
        inside = inside[len(root) :]
    folder = os.path.normpath(point + "/" + inside)
    return folder if os.path.isdir(folder) else None


def delegated_folder() -> str | None:
    """The folder in which we may try to make our own; None when there is no cgroup v2."""
    own = own_folder()
    if own is not None and os.path.basename(own) == _GATEWAY_SUBGROUP:
        return os.path.dirname(own)
    return own


def create_group(path: str) -> None:
    """Make the folder that will hold the leaves of one instance, with the controllers that can be had.

    Raises:
        OSError: the hierarchy is not delegated to us.
    """
    os.mkdir(path)
    for folder in (os.path.dirname(path), path):
        for controller in _CONTROLLERS:
            with suppress(OSError):  # not delegated, or the folder has members: limits are best effort
                _write(os.path.join(folder, "cgroup.subtree_control"), f"+{controller}")


def group_name(instance: str, gateway: ProcessIdentity) -> str:
    """The name of the folder for one instance's leaves; it says whose it is, in case no ledger is left to tell."""
    return f"{_GROUP}-{instance}-{pid_namespace()}-{gateway.pid}-{gateway.start_ticks}"


def remove_abandoned(folder: str) -> None:
    """Remove the groups whose gateway is no more and in which nobody is left.

    Nothing is signalled: a group that somebody is in stays, since only the ledger can say whether that is an orphan.
    """
    for name in os.listdir(folder):
        match = _GROUP_NAME.fullmatch(name)
        if match is None or int(match["namespace"]) != pid_namespace():
            continue
        gateway = ProcessIdentity(pid=int(match["pid"]), start_ticks=int(match["start"]))
        group = Leaf(os.path.join(folder, name))
        if group.is_empty() and not is_alive(gateway):
            with suppress(OSError):  # it is another user's
                group.remove()


def _mount() -> tuple[str, str] | None:
    """(root, mount point) of the first cgroup2 mount."""
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            fields = before.split()
            return _unescape(fields[3]), _unescape(fields[4])
    return None


def _own_path() -> str | None:
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


def _unescape(text: str) -> str:
    """mountinfo writes blanks and backslashes as octal escapes."""
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text


def _folders(path: str) -> Iterator[str]:
    """That folder and all below it, deepest first."""
    return (folder for folder, _, _ in os.walk(path, topdown=False))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, content: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content.encode("ascii"))
    finally:
        os.close(descriptor)
