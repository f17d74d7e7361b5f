"""The custodian of one tree: forked by the warden, without executing anything.

It starts the tree's leader, is the subreaper of everything that comes of it, and ends it all when the holder lets go,
when the gateway or the warden dies, when the gateway is silent for too long, when the time is over or when the leader
exits.  It leaves only with the proof that nothing is left: no child, and an unpopulated cgroup leaf.  It waits for
nobody, so a frozen gateway or warden changes nothing.  Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from sexton.containment import identity, lifeline
from sexton.containment.cgroup_boundary import Leaf
from sexton.containment.identity import ProcessIdentity
from sexton.containment.launch import LaunchFailure, Stdio, launch
from sexton.containment.leader import ExitStatus, Leader
from sexton.containment.ledger import Stuck
from sexton.containment.order import Descriptors, Order
from sexton.containment.poller import Poller
from sexton.containment.record_book import RecordBook, first_record
from sexton.containment.reserve import is_shortage
from sexton.containment.stderr_drain import StderrDrain
from sexton.containment.stop_ladder import Event, Ladder, Step
from sexton.containment.subreaper_boundary import Descent, has_no_children
from sexton.containment.tree_state import EndReason, TreeState

_KILL_EVERY = 0.001
_KILL_AT_LEAST_EVERY = 0.05
"""A death of a member wakes us besides; what takes longer waits for the kernel, and looking harder does not help it."""
_LOOK_EVERY = 0.01
_RETRY_STUCK_EVERY = 0.25
_REMOVE_LEAF_WITHIN = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """What every keeper gets from its warden: whose deaths to watch, the limit of open files for programs, and a
    descriptor that can be read from when its tree has to end (see `dead_mans_switch`)."""

    warden: ProcessIdentity
    warden_pidfd: int
    gateway_pidfd: int
    switch: int
    open_files: tuple[int, int]


class Keeper:
    """One tree, from its order to the proof of its end."""

    def __init__(self, order: Order, descriptors: Descriptors, custody: Custody) -> None:
        self._order = order
        self._custody = custody
        self._lifeline = socket.socket(fileno=descriptors.lifeline)
        self._poller = Poller()
        self._drain = StderrDrain(tail=descriptors.tail, log=order.log)
        self._stdio = Stdio(
            stdin=descriptors.stdin,
            stdout=descriptors.stdout,
            stderr=self._drain.server_end if descriptors.stderr is None else descriptors.stderr,
        )
        self._leader: Leader | None = None
        self._exit: ExitStatus | None = None
        self._leaf: Leaf | None = None
        self._descent = Descent()
        self._book = RecordBook(order.ledger_folder, first_record(order, custody.warden), self._descent)
        self._ladder = Ladder(times=order.stop)
        self._kill_in = _KILL_EVERY
        self._expires = None if order.ttl is None else time.monotonic() + order.ttl

    def run(self) -> None:
        """Returns when the tree is proven empty and its holder has been told."""
        self._watch()
        self._start()
        while self._ladder.step is not Step.GONE:
            self._poller.wait(self._patience())
            self._advance_if_possible()
        self._leave()

    def _watch(self) -> None:
        self._poller.watch(self._lifeline.fileno(), self._hear_holder)
        self._poller.watch(self._custody.gateway_pidfd, self._mourn_gateway)
        self._poller.watch(self._custody.warden_pidfd, self._mourn_warden)
        self._poller.watch(self._custody.switch, self._give_up)
        self._poller.watch(self._drain.reader, self._drain_stderr)

    def _start(self) -> None:
        keeper = self._book.record.keeper
        self._tell("keeper", keeper=None if keeper is None else asdict(keeper))
        stage = "cgroup"
        try:
            self._make_leaf()
            self._book.enter()
            stage = "keeper"
            self._launch()
        except OSError as error:
            self._fail(LaunchFailure(stage=stage, errno=error.errno or 0, detail=str(error)))
        for descriptor in {self._stdio.stdin, self._stdio.stdout, self._stdio.stderr, self._drain.server_end}:
            os.close(descriptor)

    def _make_leaf(self) -> None:
        if self._order.leaf is None:
            return
        leaf = Leaf(self._order.leaf)
        self._book.record = replace(self._book.record, leaf=leaf.create())
        self._leaf = leaf
        leaf.limit(memory_bytes=self._order.memory_bytes, processes=self._order.processes, cpu=self._order.cpu)

    def _launch(self) -> None:
        launched = launch(self._order, self._stdio, open_files=self._custody.open_files)
        self._leader = Leader(launched)
        self._descent.pinned = launched.pid
        self._poller.watch(launched.status, self._read_report)

    # What can happen

    def _read_report(self) -> None:
        if self._leader is None or not self._poller.forget(self._leader.report):
            return
        failure = self._leader.read_report()
        if failure is not None:
            self._fail(failure)
            return
        if self._ladder.has_begun and self._leader.has_exited():
            return  # it was ended on its way, or so soon after that nobody can tell
        who = identity.identify(self._leader.pid)
        state = TreeState.DRAINING if self._ladder.has_begun else TreeState.RUNNING
        self._book.enter(state=state, leader=who, census=(who,) if who else ())
        self._tell("started", pid=self._leader.pid)

    def _fail(self, failure: LaunchFailure) -> None:
        self._tell("spawn_failed", **asdict(failure))
        self._end(EndReason.SPAWN_FAILED, Event.LEADER_EXIT)

    def _hear_holder(self) -> None:
        while (request := lifeline.receive(self._lifeline)) is not None:
            if request == lifeline.KILL:
                self._end(EndReason.KILLED, Event.KILL)
            elif request == lifeline.RELEASE:
                self._end(EndReason.RELEASED, Event.RELEASE)
            elif request.startswith(lifeline.RENEW):
                self._renew(float(request.removeprefix(lifeline.RENEW)))
            else:
                self._poller.forget(self._lifeline.fileno())
                self._end(EndReason.HOLDER_GONE, Event.RELEASE)
                return

    def _mourn_gateway(self) -> None:
        self._poller.forget(self._custody.gateway_pidfd)
        identity.send(self._custody.warden_pidfd, signal.SIGCONT)  # nobody else is left to wake a stopped warden
        self._ladder = self._ladder.hurry(now=time.monotonic())
        if self._book.record.reason is EndReason.HOLDER_GONE:  # its descriptors close before its pidfd tells
            self._book.enter(reason=EndReason.GATEWAY_DIED)
        self._end(EndReason.GATEWAY_DIED, Event.RELEASE)

    def _mourn_warden(self) -> None:
        self._poller.forget(self._custody.warden_pidfd)
        self._ladder = self._ladder.hurry(now=time.monotonic())
        self._end(EndReason.WARDEN_DIED, Event.TERMINATE)

    def _give_up(self) -> None:
        """The gateway has not said for too long that we may go on: it may be stopped, so nobody waits for it."""
        self._poller.forget(self._custody.switch)
        self._ladder = self._ladder.hurry(now=time.monotonic())
        self._end(EndReason.NOT_KEPT, Event.TERMINATE)

    def _drain_stderr(self) -> None:
        if not self._drain.drain():
            self._poller.forget(self._drain.reader)

    def _renew(self, ttl: float) -> None:
        self._expires = time.monotonic() + ttl
        self._book.enter(deadline=time.time() + ttl)

    # What follows from it

    def _advance_if_possible(self) -> None:
        try:
            self._advance()
        except OSError as error:
            if not is_shortage(error):
                raise
            time.sleep(_LOOK_EVERY)  # the whole system is out of descriptors, or of memory; nothing is proven meanwhile

    def _advance(self) -> None:
        now = time.monotonic()
        self._descent.reap()
        self._notice_leader_exit()
        if self._expires is not None and now >= self._expires:
            self._expires = None
            self._end(EndReason.TTL, Event.TERMINATE)
        if self._ladder.is_due(now):
            self._move(Event.TIMEOUT)
        if self._ladder.is_killing:
            self._kill()
        if self._is_proven_empty():
            self._move(Event.EMPTY)
        elif now >= self._book.census_due:
            self._book.take_census()

    def _notice_leader_exit(self) -> None:
        if self._leader is None or self._exit is not None:
            return
        self._exit = self._leader.exit_status()
        if self._exit is not None:
            self._read_report()
            self._hear_holder()  # what it said before closing stdin is the reason for an exit that followed at once
            self._end(EndReason.LEADER_EXIT, Event.LEADER_EXIT)
            self._drain.drain()  # its last words are in the pipe by now, and who hears of its end asks for them
            self._tell("ended", reason=self._book.record.reason, **asdict(self._exit))

    def _end(self, reason: EndReason, event: Event) -> None:
        """The first reason is the one that counts; a later event may still hasten the end."""
        if self._book.record.reason is None:
            self._book.enter(state=TreeState.DRAINING, reason=reason)
        self._move(event)

    def _move(self, event: Event) -> None:
        before = self._ladder.step
        self._ladder = self._ladder.on(event, now=time.monotonic())
        if self._ladder.step is before:
            return
        self._tell("draining", reason=self._book.record.reason, step=self._ladder.step)
        if self._ladder.step is Step.TERM_SENT and self._leader is not None:
            self._leader.terminate()
        if self._ladder.step is Step.STUCK:
            self._report_stuck()

    def _kill(self) -> None:
        if self._leaf is not None:
            self._leaf.kill_all()
        self._descent.kill_all()

    def _report_stuck(self) -> None:
        stuck = self._descent.survivors() or (Stuck(pid=0, why="its cgroup does not become empty"),)
        self._book.enter(state=TreeState.STUCK, stuck=stuck)
        lifeline.report_stuck(self._lifeline, [asdict(one) for one in stuck])

    def _is_proven_empty(self) -> bool:
        """No member but the leader's zombie, which is let go of only then; and after that, no child and no member."""
        if not self._ladder.has_begun or not self._descent.is_empty():
            return False
        self._notice_leader_exit()  # it may have exited since we last looked, and its status goes with the zombie
        if self._leader is not None:
            self._leader.reap()
            self._descent.pinned = None
        return has_no_children() and (self._leaf is None or self._leaf.is_empty())

    def _patience(self) -> float | None:
        step, now = self._ladder.step, time.monotonic()
        if step is Step.KILLING:
            self._kill_in = min(self._kill_in * 1.2, _KILL_AT_LEAST_EVERY)
            return self._kill_in
        if step is Step.STUCK:
            return _RETRY_STUCK_EVERY
        if step is Step.COURTESY:
            return _LOOK_EVERY  # a cgroup becomes empty without waking us
        due = (self._ladder.deadline, self._expires, self._book.census_due)
        return min(moment - now for moment in due if moment is not None)

    def _leave(self) -> None:
        self._drain.finish()
        self._remove_leaf()
        if self._book.record.leader is None:  # it never ran, so it asked for no container
            self._book.enter(externals=())
        self._book.close()
        status = self._exit or ExitStatus(returncode=None, signal=None)
        self._tell("gone", reason=self._book.record.reason, **asdict(status))
        if self._book.record.externals:
            self._remove_containers()

    def _remove_containers(self) -> None:
        """Done by the keeper, since the gateway may be dead.  What cannot be removed now stays in the ledger."""
        from sexton.containment import external  # noqa: PLC0415 -- it takes memory that only few keepers need

        removals = [external.remove(one) for one in self._book.record.externals]
        if all(removal.pending is None for removal in removals):
            self._book.forget()

    def _remove_leaf(self) -> None:
        """The kernel may hold an empty cgroup for a few milliseconds more."""
        give_up = time.monotonic() + _REMOVE_LEAF_WITHIN
        while self._leaf is not None and not self._leaf.remove() and time.monotonic() < give_up:
            self._poller.wait(_KILL_EVERY)

    def _tell(self, event: str, **details: Any) -> None:
        lifeline.report(self._lifeline, event, **details)
