"""The gateway's side of the warden: starts it, asks it for trees, notices its death and starts the next."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sexton.containment import identity, order
from sexton.containment.containment_errors import ContainmentError
from sexton.containment.order import Descriptors, Order

_LOADER_ENV = ("LD_LIBRARY_PATH",)
"""What an interpreter may need to be found whole."""
_TAKES_ORDERS_WITHIN = 1.0
"""A warden takes an order in about a millisecond; only a burst of hundreds makes us wait for it at all."""
_FULL_QUEUE_WAIT = 0.01
_MAIN = Path(__file__).with_name("warden_main.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incarnation:
    """One warden process: our own child, so its pid is its own until we reap it."""

    process: subprocess.Popen[bytes]
    pidfd: int
    control: socket.socket

    def has_died(self) -> bool:
        return identity.has_exited(self.pidfd)

    def close(self) -> None:
        self.control.close()
        os.close(self.pidfd)


@dataclass(slots=True)
class Warden:
    """Starts the warden when a tree is asked for and there is none.  Safe to use from several threads."""

    log: Path
    """Where a warden or keeper writes what should never happen: its traceback."""
    _current: _Incarnation | None = None
    _until: float | None = None
    _is_told: bool = True
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def pid(self) -> int | None:
        """The warden that would get the next order; None while there is none."""
        with self._lock:
            return None if self._current is None or self._current.has_died() else self._current.process.pid

    def ask(self, wanted: Order, descriptors: Descriptors) -> None:
        """Ask for a tree: one packet, without waiting for an answer.

        Raises:
            ContainmentError: no warden can be started, or it takes no packets any more.
            OSError: there is no descriptor left for a large order.
        """
        with self._lock:
            give_up = time.monotonic() + _TAKES_ORDERS_WITHIN
            while not self._is_taken(wanted, descriptors):
                if time.monotonic() >= give_up:
                    raise ContainmentError(
                        "The warden does not take any more orders: too many processes are being started at once.",
                        hint="start fewer at a time",
                    )
                _wait_writable(self._living().control, _FULL_QUEUE_WAIT)

    def keep_until(self, until: float | None) -> None:
        """See `Containment.keep_until`.  A warden that cannot be told now is told before its next order."""
        with self._lock:
            self._until, self._is_told = until, False
            self._tell()

    def kill_keeper(self, tree: str) -> None:
        """Have a keeper replaced that does not answer: the warden kills it and sweeps its tree."""
        with self._lock, suppress(OSError):
            if self._current is not None:
                order.send_kill_keeper(self._current.control, tree)

    def wake(self) -> None:
        """A warden that was stopped goes on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """The keepers end their trees by themselves when they have lost their warden."""
        self._signal(signal.SIGKILL)

    def dismiss(self) -> int | None:
        """Let the warden go when all its trees are gone; a pidfd that tells when it has left, to be given to `bury`."""
        with self._lock:
            if self._current is None:
                return None
            self._current.control.close()
            return self._current.pidfd

    def bury(self) -> None:
        """Take the exit status of a warden that has left, if there is one."""
        with self._lock:
            self._bury()

    def _is_taken(self, wanted: Order, descriptors: Descriptors) -> bool:
        """False when the queue to the warden is full, or the warden has just died: the next try starts a new one.

        A queue is full of packets (EAGAIN) or of descriptors on their way (ETOOMANYREFS, unix(7)).
        """
        try:
            order.send_order(self._living().control, wanted, descriptors)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                return False
            raise
        return True

    def _living(self) -> _Incarnation:
        if self._current is not None and self._current.has_died():
            self._bury()
        if self._current is None:
            self._current, self._is_told = self._start(), self._until is None
        self._tell()
        return self._current

    def _tell(self) -> None:
        if self._is_told or self._current is None:
            return
        with suppress(OSError):  # it is dead, or has not taken what it was sent
            order.send_keep_until(self._current.control, self._until)
            self._is_told = True

    def _bury(self) -> None:
        if self._current is not None and self._current.has_died():
            self._current.process.wait()
            self._current.close()
            self._current = None

    def _signal(self, signum: int) -> None:
        with self._lock:
            if self._current is not None and not self._current.has_died():
                self._current.process.send_signal(signum)

    def _start(self) -> _Incarnation:
        """Without a shell, without preexec_fn: a vfork, whatever the size of this process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gateway = os.pidfd_open(os.getpid())
        try:
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-E", str(_MAIN), str(theirs.fileno()), str(gateway)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd="/",
                    env={name: os.environ[name] for name in _LOADER_ENV if name in os.environ},
                    start_new_session=True,
                    pass_fds=(theirs.fileno(), gateway),
                )
        except OSError as error:
            ours.close()
            raise ContainmentError(f"The warden cannot be started: {error}.") from error
        finally:
            theirs.close()
            os.close(gateway)
        return _Incarnation(process=process, pidfd=os.pidfd_open(process.pid), control=ours)


def _wait_writable(control: socket.socket, seconds: float) -> None:
    poll = select.poll()
    poll.register(control, select.POLLOUT)
    poll.poll(seconds * 1000)
