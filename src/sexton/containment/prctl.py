"""What the kernel lets a process say about itself.  Source: prctl(2).  Standard library only."""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From here on, descendants that lose their parent become our children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int) -> None:
    """Have that signal sent to us when the thread that forked us ends.

    The caller has to look at getppid() afterwards: the parent may be gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def refuse_new_privileges() -> None:
    """No program that we or our descendants execute can gain privileges, by setuid or otherwise."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def take_name(name: str) -> None:
    """Be shown under that name (15 bytes) by ps and top."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode("ascii")[:15]))


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    argument = ctypes.c_ulong(value) if isinstance(value, int) else value
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
