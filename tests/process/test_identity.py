"""A process is known beyond doubt: one that took over its pid is not it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sexton.containment import identity
from waiting import PATIENCE


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_a_stat_with_spaces_and_parentheses_in_the_name_is_read() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    stat = identity.parse_stat(f"42 (a) R (b c) S {fields}".encode())
    assert (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session, stat.start_ticks) == (42, "S", 4, 5, 6, 22)


def test_a_living_process_is_recognised(sleeper: subprocess.Popen[bytes]) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    assert identity.is_alive(known)


def test_a_zombie_is_nobody(sleeper: subprocess.Popen[bytes]) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.is_alive(known)
    assert identity.identify(sleeper.pid) is None


@pytest.mark.parametrize("weakened", [{}, {"handle": None}, {"handle": None, "inode": None}])
def test_a_signal_reaches_that_process(sleeper: subprocess.Popen[bytes], weakened: dict[str, None]) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    weaker = replace(known, **weakened)  # type: ignore[arg-type]
    assert identity.signal_verified(weaker, signal.SIGTERM)
    assert sleeper.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.parametrize(
    "stranger",
    [{"handle": None, "inode": 1}, {"handle": None, "inode": None, "start_ticks": 1}],
    ids=["inode", "start time"],
)
def test_the_heir_of_a_pid_is_not_signalled(sleeper: subprocess.Popen[bytes], stranger: dict[str, int | None]) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    before_reuse = replace(known, **stranger)  # type: ignore[arg-type]
    assert not identity.signal_verified(before_reuse, signal.SIGKILL)
    assert identity.is_alive(known)


def test_the_handle_of_a_dead_process_opens_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    if known.handle is None:
        pytest.skip("this kernel has no pidfs handles")
    sleeper.kill()
    sleeper.wait(PATIENCE)
    assert not identity.is_alive(replace(known, pid=os.getpid()))  # only the handle counts


def test_no_descriptor_is_left_behind(sleeper: subprocess.Popen[bytes]) -> None:
    identity.is_alive(_must(identity.identify(sleeper.pid)))
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        known = _must(identity.identify(sleeper.pid))
        identity.is_alive(known)
        identity.is_alive(replace(known, handle=None))
        identity.is_alive(replace(known, handle=None, inode=None, start_ticks=1))
    assert set(Path("/proc/self/fd").iterdir()) == before


def _must(known: identity.ProcessIdentity | None) -> identity.ProcessIdentity:
    assert known is not None
    return known
