"""Every signal that the code under test sends, written down with what /proc says of its targets at that moment.

The product has no hooks for this: in each of its processes the calls that signal are wrapped from outside, before its
code is loaded.  What is written about a target is read here, by other means than the product's own: its line of
ancestors, the truth that it belongs to (see `zoo.oracles`), and whether it is one of our helpers.

Not seen: signals that the kernel sends for us, which are those of PR_SET_PDEATHSIG, to our own child.

Standard library only, since the warden runs it too.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

_GROUP_FLAG = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2)
_TRIES = 100
_write, _readlink = os.write, os.readlink


def record_signals(log: str, role: str, state_dir: str) -> None:
    """From here on this process, and whatever it forks, notes in `log` what it signals, before it does so."""
    note = functools.partial(_note, log, role, state_dir)

    def kill(pid: int, number: int) -> list[int]:
        return note("kill", number, pid, [pid] if pid > 0 else _group(-pid))

    def killpg(group: int, number: int) -> list[int]:
        return note("killpg", number, group, _group(group))

    def pidfd_send_signal(pidfd: int, number: int, info: Any = None, flags: int = 0) -> list[int]:
        pid = _pid_of(pidfd)
        if flags & _GROUP_FLAG:
            return note("pidfd-group", number, pid, _group(pid))
        return note("pidfd", number, pid, [pid] if pid > 0 else [])

    def write(descriptor: int, _content: bytes) -> list[int]:
        path = _link(f"/proc/self/fd/{descriptor}")
        if path is None or not path.endswith("/cgroup.kill"):
            return []
        return note("leaf", signal.SIGKILL, path, _members(os.path.dirname(path)))  # noqa: PTH120

    _before(os, "kill", kill)
    _before(os, "killpg", killpg)
    _before(os, "write", write)
    _before(signal, "pidfd_send_signal", pidfd_send_signal)


def read_signals(log: str) -> Iterator[dict[str, Any]]:
    """What was noted so far: by, sender, how, number, asked, and of each target pid, line, truths, is_helper."""
    if os.path.exists(log):  # noqa: PTH110
        with open(log) as file:  # noqa: PTH123
            yield from map(json.loads, file)


def strangers_in(record: dict[str, Any], truths: set[str]) -> list[dict[str, Any]]:
    """The targets of one signal that were neither of ours: no descendant of the sender, of no truth, no helper."""
    return [
        target
        for target in record["targets"]
        if record["sender"] not in target["line"] and truths.isdisjoint(target["truths"]) and not target["is_helper"]
    ]


def _before(owner: Any, name: str, look: Callable[..., object]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any) -> Any:
        look(*args)
        return original(*args)

    setattr(owner, name, wrapped)


def _note(log: str, role: str, state_dir: str, how: str, number: int, asked: object, pids: list[int]) -> list[int]:
    targets = [target for pid in pids if (target := _look_at(pid, state_dir))]
    told = {"by": role, "sender": os.getpid(), "how": how, "number": number, "asked": asked, "targets": targets}
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _write(file, json.dumps(told).encode() + b"\n")
    finally:
        os.close(file)
    return pids


def _look_at(pid: int, state_dir: str) -> dict[str, Any] | None:
    """None when that process is gone: the signal can reach nobody."""
    line = _line_of(pid)
    if line is None:
        return None
    links = _open_links(pid)
    is_helper = _read(f"/proc/{pid}/comm").startswith("sexton-") and any(one.startswith(state_dir) for one in links)
    truths = _truths_of(pid, links)
    if _is_dead(pid):  # it died while we looked, and a dying process leaves its cgroups and closes its files
        return None
    return {"pid": pid, "line": line, "truths": truths, "is_helper": is_helper}


def _is_dead(pid: int) -> bool:
    """Gone, or a zombie without any living thread (proc_pid_stat(5): state and num_threads)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return not fields or (fields[0] in "ZX" and int(fields[17]) <= 1)


def _line_of(pid: int) -> list[int] | None:
    """Its ancestors, nearest first.  One that dies meanwhile has handed its children on: then look again."""
    for _ in range(_TRIES):
        line = [pid]
        while line[-1] > 1 and (parent := _parent_of(line[-1])) is not None:
            line.append(parent)
        if line[-1] <= 1:
            return line[1:]
        if len(line) == 1:
            return None
    return []


def _parent_of(pid: int) -> int | None:
    stat = _read(f"/proc/{pid}/stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else None


def _truths_of(pid: int, links: list[str]) -> list[str]:
    """The signs by which an adversary's family is known: its cgroup of the truth, and its FIFO (see `zoo.oracles`)."""
    groups = [line.rpartition("/")[2] for line in _read(f"/proc/{pid}/cgroup").splitlines()]
    return [one for one in groups if one.startswith("zoo-")] + [one for one in links if one.endswith(".alive")]


def _group(group: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            stat = _read(f"/proc/{name}/stat")
            if stat and int(stat.rpartition(")")[2].split()[2]) == group:
                found.append(int(name))
    return found


def _members(folder: str) -> list[int]:
    return [int(pid) for inner, _, _ in os.walk(folder) for pid in _read(inner + "/cgroup.procs").split()]


def _pid_of(pidfd: int) -> int:
    """-1 when that process has been reaped."""
    for line in _read(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def _open_links(pid: int) -> list[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:
        return []
    return [link for name in names if (link := _link(f"/proc/{pid}/fd/{name}"))]


def _link(path: str) -> str | None:
    try:
        return _readlink(path)
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
