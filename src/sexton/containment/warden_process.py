"""The warden: the one process that forks keepers, and the last resort for their trees.

A zygote with a single thread: forking it is cheap and safe, whatever the gateway has loaded or started.  It is the
subreaper above all keepers, so when a keeper dies its tree falls to the warden, and any child of the warden that is not
a keeper is garbage by definition.  It leaves when the gateway is gone and nothing is left.  Standard library only.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from sexton.containment import identity, launch, ledger, lifeline, order, prctl
from sexton.containment.cgroup_boundary import Leaf
from sexton.containment.dead_mans_switch import DeadMansSwitch
from sexton.containment.identity import ProcessIdentity
from sexton.containment.keeper import Custody, Keeper
from sexton.containment.ledger import LedgerError
from sexton.containment.order import Descriptors, KeepUntil, KillKeeper, Order, OrderLost
from sexton.containment.poller import Poller
from sexton.containment.reserve import Reserve, is_shortage
from sexton.containment.subreaper_boundary import Descent, has_no_children
from sexton.containment.tree_state import EndReason, TreeState

_SWEEP_EVERY = 0.001
_SWEEP_AT_LEAST_EVERY = 0.25


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One tree as the warden knows it.  `lifeline` is a copy of its keeper's end, to speak for a dead keeper."""

    order: Order
    lifeline: socket.socket
    end: EndReason = EndReason.KEEPER_DIED
    """Why it is over, if it is orphaned."""
    stuck_at: float = 0.0
    is_reported_stuck: bool = False

    @property
    def leaf(self) -> Leaf | None:
        return Leaf(self.order.leaf) if self.order.leaf else None


class Warden:
    def __init__(self, *, control: int, gateway: int) -> None:
        self._control = socket.socket(fileno=control)
        self._poller = Poller()
        self._switch = DeadMansSwitch()
        self._custody = Custody(
            warden=_who_am_i(),
            warden_pidfd=os.pidfd_open(os.getpid()),
            gateway_pidfd=gateway,
            switch=self._switch.thrown,
            open_files=_raise_open_files(),
        )
        self._reserve = Reserve()
        self._keepers: dict[int, _Kept] = {}
        self._orphaned: list[_Kept] = []
        """Trees whose keeper died or never was, until nothing is left of them."""
        self._descent = Descent(spared=self._keepers.keys())
        self._is_closing = False
        self._sweep_in: float | None = None
        """Seconds until the next look at what is to be swept; None when there is nothing."""
        self._folders: set[str] = set()
        self._groups: set[str] = set()

    def run(self) -> None:
        """Returns when the gateway is gone or wants no more trees, and all that there were are proven empty."""
        self._poller.watch(self._control.fileno(), self._hear_gateway)
        self._poller.watch(self._custody.gateway_pidfd, self._close)
        while not self._is_over():
            self._poller.wait(self._patience())
            self._switch.look()
            self._look_after_keepers()
            self._sweep_whatever_is_left()
        self._leave()

    def _patience(self) -> float | None:
        due = (self._sweep_in, self._switch.look_in())
        return min((seconds for seconds in due if seconds is not None), default=None)

    def _hear_gateway(self) -> None:
        while True:
            try:
                request = order.receive(self._control)
            except BlockingIOError:
                return
            except OrderLost as error:
                _refuse(error.lifeline, "the warden has no free descriptor")
                continue
            except ConnectionResetError:
                continue
            if request is None:
                self._close()
                return
            if isinstance(request, KillKeeper):
                self._kill_keeper(request.tree)
            elif isinstance(request, KeepUntil):
                self._switch.keep_until(request.until)
            else:
                self._start_keeper(*request)

    def _close(self) -> None:
        self._is_closing = True
        self._poller.forget(self._control.fileno())
        self._poller.forget(self._custody.gateway_pidfd)

    def _start_keeper(self, wanted: Order, descriptors: Descriptors) -> None:
        self._folders.add(wanted.ledger_folder)
        if wanted.leaf is not None:
            self._groups.add(os.path.dirname(wanted.leaf))
        try:
            pid = os.fork()
        except OSError as error:
            self._do_without_keeper(wanted, descriptors.lifeline, error)
        else:
            if pid == 0:
                _become_keeper(wanted, descriptors, self._custody)
            self._keepers[pid] = _Kept(order=wanted, lifeline=socket.socket(fileno=descriptors.lifeline))
        for descriptor in descriptors.all()[1:]:
            os.close(descriptor)

    def _do_without_keeper(self, wanted: Order, holder: int, error: OSError) -> None:
        """Refuse a start; should there be a keeper all the same, the sweep finds it, and what it has written."""
        kept = _Kept(order=wanted, lifeline=socket.socket(fileno=holder), end=EndReason.SPAWN_FAILED)
        _tell_refusal(kept.lifeline, f"no further process can be started: {error.strerror}")
        self._orphan(kept)

    def _kill_keeper(self, tree: str) -> None:
        """The gateway says that this one does not answer (it may have been stopped by its server)."""
        for pid, kept in self._keepers.items():
            if kept.order.tree == tree:
                os.kill(pid, signal.SIGKILL)  # our own child, which we have not reaped

    def _look_after_keepers(self) -> None:
        """One by one, never whichever child: two keepers that die together must both be seen.

        A keeper that was stopped, by its server or by a person, goes on at once: with nobody to end it, its tree would
        outlive the gateway.
        """
        for pid in list(self._keepers):
            reaped, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if reaped == 0:
                continue
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)  # our own child, which we have not reaped
                continue
            kept = self._keepers.pop(pid)
            if status == 0:
                kept.lifeline.close()
            else:
                self._take_over(kept)

    def _orphan(self, kept: _Kept) -> None:
        kept.stuck_at = time.monotonic() + kept.order.stop.stuck_after
        self._orphaned.append(kept)

    def _take_over(self, kept: _Kept) -> None:
        self._orphan(kept)
        lifeline.report(kept.lifeline, "ended", reason=EndReason.KEEPER_DIED, returncode=None, signal=None)

    def _sweep_whatever_is_left(self) -> None:
        """Also without a free descriptor: a warden that ends would take all trees with it."""
        try:
            self._sweep()
        except OSError as error:
            if not is_shortage(error):
                raise
            with self._reserve.spent():
                self._sweep_at_need()

    def _sweep_at_need(self) -> None:
        try:
            self._sweep()
        except OSError as error:
            if not is_shortage(error):
                raise
            self._sweep_in = _SWEEP_AT_LEAST_EVERY  # nothing is proven until we can look

    def _sweep(self) -> None:
        """Kill what no keeper keeps, until the kernel says that nothing of it is left."""
        if not self._orphaned and self._descent.is_empty():
            self._sweep_in = None
            return
        self._sweep_in = _SWEEP_EVERY if self._sweep_in is None else min(self._sweep_in * 1.5, _SWEEP_AT_LEAST_EVERY)
        for kept in self._orphaned:
            if kept.leaf is not None:
                kept.leaf.kill_all()
        self._descent.kill_all()
        if self._is_swept():
            self._settle()
        else:
            self._report_stuck()

    def _is_swept(self) -> bool:
        """Two looks: while children come and go, one may miss some."""
        leaves = (kept.leaf for kept in self._orphaned)
        return (
            self._descent.is_empty()
            and all(leaf is None or leaf.is_empty() for leaf in leaves)
            and self._descent.is_empty()
        )

    def _settle(self) -> None:
        unsettled = []
        for kept in self._orphaned:
            if kept.leaf is not None and not kept.leaf.remove():
                unsettled.append(kept)
                continue
            _close_record(kept.order)
            lifeline.report(kept.lifeline, "gone", reason=kept.end, returncode=None, signal=None)
            kept.lifeline.close()
        self._orphaned = unsettled

    def _report_stuck(self) -> None:
        now = time.monotonic()
        for kept in self._orphaned:
            if now >= kept.stuck_at and not kept.is_reported_stuck:
                kept.is_reported_stuck = True
                stuck = [{"pid": one.pid, "why": one.why} for one in self._descent.survivors()]
                lifeline.report_stuck(kept.lifeline, stuck)

    def _is_over(self) -> bool:
        return self._is_closing and not self._keepers and not self._orphaned and has_no_children()

    def _leave(self) -> None:
        for folder in (*self._groups, *map(ledger.cid_folder, self._folders), *self._folders):
            with suppress(OSError):  # trees of an earlier warden may still be in it
                os.rmdir(folder)


def main(*, control: int, gateway: int) -> NoReturn:
    """Run as the warden of the gateway that `gateway` is a pidfd of.  Never returns."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    prctl.become_subreaper()
    prctl.take_name("sexton-warden")
    warden = Warden(control=control, gateway=gateway)
    launch.changed_signals()  # known now, and so in every keeper
    gc.freeze()  # what is alive now stays shared with all keepers
    gc.disable()
    warden.run()
    sys.exit(0)


def _become_keeper(wanted: Order, descriptors: Descriptors, custody: Custody) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        prctl.become_subreaper()
        prctl.take_name("sexton-keeper")
        _close_all_but({*descriptors.all(), custody.warden_pidfd, custody.gateway_pidfd, custody.switch})
        Keeper(wanted, descriptors, custody).run()
        status = 0
    except BaseException:  # noqa: BLE001 -- the outermost edge: the warden sweeps what a dead keeper leaves
        sys.excepthook(*sys.exc_info())
    os._exit(status)


def _close_all_but(kept: set[int]) -> None:
    """Keep those and the standard three."""
    low = 3
    for descriptor in (*sorted(kept), max(int(name) for name in os.listdir("/proc/self/fd")) + 1):
        os.closerange(low, descriptor)
        low = descriptor + 1


def _who_am_i() -> ProcessIdentity:
    me = identity.identify(os.getpid())
    if me is None:
        raise RuntimeError("this process is not in its own /proc")
    return me


def _raise_open_files() -> tuple[int, int]:
    """Two descriptors per tree: take what we may.  Returns the limits that programs get."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    return limits


def _refuse(descriptor: int | None, why: str) -> None:
    if descriptor is None:
        return
    with socket.socket(fileno=descriptor) as holder:
        _tell_refusal(holder, why)
        lifeline.report(holder, "gone", reason=EndReason.SPAWN_FAILED, returncode=None, signal=None)


def _tell_refusal(holder: socket.socket, why: str) -> None:
    lifeline.report(holder, "spawn_failed", stage="keeper", errno=0, detail=why)


def _close_record(swept: Order) -> None:
    """What the dead keeper would have done with its record."""
    if not swept.externals:
        ledger.remove(swept.ledger_folder, swept.tree)
        return
    with suppress(OSError, LedgerError):
        record = ledger.read(ledger.record_path(swept.ledger_folder, swept.tree))
        ledger.write(swept.ledger_folder, replace(record, state=TreeState.EXTERNAL_PENDING, census=(), leaf=None))
