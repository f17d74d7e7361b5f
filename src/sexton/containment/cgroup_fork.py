"""Fork into a cgroup: the new process is born a member.

To move a process that runs, the kernel waits until nobody forks or exits anywhere on the machine, which can take 5 to
20 ms on a busy one; to bear it there takes no such wait, and leaves no moment in which it is outside.

Sources: clone(2) for clone3 and CLONE_INTO_CGROUP (Linux 5.7), the C API of Python for what surrounds a fork.  Standard
library only.
"""

from __future__ import annotations

import ctypes
import os
import signal

_SYS_CLONE3 = 435
"""The same on every architecture that Python runs on but alpha, where it is refused."""
_CLONE_INTO_CGROUP = 0x200000000
_libc = ctypes.PyDLL(None, use_errno=True)
"""PyDLL keeps the interpreter's lock, as a fork must."""


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def fork_into(folder: str) -> int:
    """Like os.fork, in a process with a single thread whose child soon executes a program or exits.

    The C library is not told, so in the child it takes its thread for the parent's: nothing there may raise a signal at
    itself or start a thread.

    Raises:
        OSError: this cannot be done here (an old kernel, a seccomp filter, no such cgroup), or not now.
    """
    cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _clone(_CloneArguments(flags=_CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=cgroup))
    finally:
        os.close(cgroup)


def _clone(arguments: _CloneArguments) -> int:
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.sizeof(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code))
    return pid
