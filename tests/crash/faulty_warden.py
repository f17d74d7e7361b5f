"""A warden that is struck by a fault at one point: what runs in place of `warden_main.py` in the crash-point tests.

    python -I -S -E faulty_warden.py CONTAINMENT_FOLDER POINT ACTION CONTROL GATEWAY_PIDFD

The product has no hooks for faults: its functions are wrapped here, from outside.  The fault strikes once per process,
and only on behalf of the tree named "victim".
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any

VICTIM = "victim"
Condition = Callable[..., bool]


class Fault:
    """What goes wrong, who is there, and whether it has happened in this process."""

    def __init__(self, action: str) -> None:
        self._verb, _, self._what = action.partition(":")
        self._has_struck = False
        self.concerns_victim = False
        self.warden = os.getpid()
        self.gateway = 0
        self.keeper = 0

    def strike(self) -> None:
        if not self.concerns_victim or self._has_struck:
            return
        self._has_struck = True
        if self._verb == "kill":
            self._signal(signal.SIGKILL)
        elif self._verb == "stop":
            self._signal(signal.SIGSTOP)
        elif self._verb == "raise":
            code = getattr(errno, self._what)
            raise OSError(code, os.strerror(code))
        elif self._verb == "delay":
            time.sleep(float(self._what))
        else:
            raise ValueError(self._verb)

    def _signal(self, number: int) -> None:
        """All stand still first, so that none gets to do anything because another dies; ourselves last."""
        pids = [pid for name in self._what.split("+") if (pid := getattr(self, name))]
        others = [pid for pid in pids if pid != os.getpid()]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        for pid in others:
            os.kill(pid, number)
        if os.getpid() in pids:
            os.kill(os.getpid(), number)


def enter_bare_packages(containment: str) -> None:
    for name, folder in (("sexton", os.path.dirname(containment)), ("sexton.containment", containment)):  # noqa: PTH120
        package = types.ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package


def wrap(fault: Fault, owner: Any, name: str, *, before: bool = False, when: Condition | None = None) -> None:
    """Strike before or after each call of `owner.name` for which `when(result, *arguments)` holds."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before and (when is None or when(None, *args)):
            fault.strike()
        result = original(*args, **kwargs)
        if not before and (when is None or when(result, *args)):
            fault.strike()
        return result

    setattr(owner, name, wrapped)


def know_the_victim(fault: Fault, order: Any, warden_process: Any) -> None:
    """Note for whom an order is when it comes, and in the keeper who that is."""
    receive, become = order.receive, warden_process._become_keeper

    def receiving(control: Any) -> Any:
        request = receive(control)
        fault.concerns_victim = isinstance(request, tuple) and request[0].name == VICTIM
        if isinstance(request, tuple):
            fault.gateway = request[0].gateway.pid
        return request

    def becoming(wanted: Any, *rest: Any) -> None:
        fault.keeper = os.getpid()
        become(wanted, *rest)

    order.receive = receiving
    warden_process._become_keeper = becoming


def is_report(event: str) -> Condition:
    return lambda _result, _lifeline, told, **_details: bool(told == event)


def arm(fault: Fault, point: str) -> None:
    from sexton.containment import keeper, launch, lifeline, order, prctl, warden_process
    from sexton.containment.cgroup_boundary import Leaf
    from sexton.containment.leader import Leader
    from sexton.containment.subreaper_boundary import Descent

    know_the_victim(fault, order, warden_process)
    released: Condition = lambda request, _lifeline: bool(request == lifeline.RELEASE)  # noqa: E731
    in_warden: Condition = lambda *_: os.getpid() == fault.warden  # noqa: E731
    in_keeper: Condition = lambda *_: os.getpid() == fault.keeper  # noqa: E731
    strike = functools.partial(wrap, fault)
    {
        "warden_after_recv": lambda: strike(order, "receive"),
        "warden_after_fork": lambda: strike(os, "fork", when=in_warden),
        "keeper_before_subreaper": lambda: strike(prctl, "become_subreaper", before=True),
        "after_mkdir": lambda: strike(Leaf, "create"),
        "after_fork": lambda: strike(keeper, "launch"),
        "child_before_join": lambda: strike(launch, "_steps", before=True),
        "child_after_join": lambda: strike(launch, "_die_with", before=True),
        "before_exec": lambda: strike(launch, "_execute", before=True),
        "before_started": lambda: strike(lifeline, "report", before=True, when=is_report("started")),
        "after_started": lambda: strike(lifeline, "report", when=is_report("started")),
        "on_release": lambda: strike(lifeline, "receive", when=released),
        "in_term_wait": lambda: strike(Leader, "terminate"),
        "in_kill_pass": lambda: strike(Descent, "kill_all", before=True, when=in_keeper),
        "before_rmdir": lambda: strike(Leaf, "remove", before=True),
        "before_gone": lambda: strike(lifeline, "report", before=True, when=is_report("gone")),
    }[point]()


if __name__ == "__main__":
    folder, where, what = sys.argv[1:4]
    enter_bare_packages(folder)
    arm(Fault(what), where)
    from sexton.containment import warden_process as faulty

    faulty.main(control=int(sys.argv[4]), gateway=int(sys.argv[5]))
