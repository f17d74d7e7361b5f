"""The one way to start a process: `Containment.open(...)`, then `start(spec)`."""

from __future__ import annotations

import logging
import os
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, final

import anyio

from sexton.containment import cgroup_boundary, recovery, stderr_log
from sexton.containment.containment_errors import ContainmentError, TreeStuck
from sexton.containment.instance import Instance
from sexton.containment.order import Descriptors, Order
from sexton.containment.order_form import fill_in
from sexton.containment.pipes import Pipes
from sexton.containment.recovery import RecoveryReport
from sexton.containment.rescue import Rescue
from sexton.containment.spec import ProcessSpec
from sexton.containment.stop_ladder import StopTimes
from sexton.containment.sweep import SweepReport, sweep
from sexton.containment.tree import ProcessTree
from sexton.containment.tree_state import Boundary, EndReason, TreeState
from sexton.containment.tree_status import TreeStatus, examine, examine_unrecorded
from sexton.containment.warden import Warden

_log = logging.getLogger(__name__)

_PROBE_WITHIN = 20.0


@final
class Containment:
    """Holds process trees that cannot outlive their handles.  Open one per program, and start everything through it.

    It may be used from any event loop and thread of the process that opened it, not from a process forked from that.
    """

    boundary: Boundary

    def __init__(self, instance: Instance) -> None:
        self.state_dir = instance.state_dir
        self.boundary = Boundary.SUBREAPER
        self._instance = instance
        self._owner = os.getpid()
        self._warden = Warden(self.state_dir / "contain" / "warden.log")
        self._group: Path | None = None
        self._trees: weakref.WeakValueDictionary[str, ProcessTree] = weakref.WeakValueDictionary()
        self._rescue = Rescue(instance, self._warden)
        self._is_closed = False
        self.recovered = RecoveryReport()
        """What an earlier gateway had left behind when this was opened."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        state_dir: Path,
        *,
        boundary: Boundary | None = None,
        recover: bool = True,
    ) -> AsyncIterator[Self]:
        """Be ready to hold trees; leaving ends them all and proves it.

        `boundary` None takes the strongest that a probe shows to work here.  `recover` first finishes what an earlier
        gateway on this folder left behind.

        Raises:
            ContainmentError: this host cannot hold trees, or not by that boundary, or the folder cannot be written.
        """
        containment = cls(Instance.create(state_dir))
        try:
            if recover:
                containment.recovered = await recovery.recover(containment.state_dir, own_instance=containment.instance)
            await containment._choose_boundary(boundary)
            yield containment
        finally:
            with anyio.CancelScope(shield=True):
                await containment.aclose()

    @property
    def instance(self) -> str:
        """The id under which the ledger keeps the trees of this containment."""
        return self._instance.id

    @property
    def warden_pid(self) -> int | None:
        """The warden at work; None while there is none."""
        return self._warden.pid

    def start(self, spec: ProcessSpec) -> ProcessTree:
        """Ask for a tree; the handle that is returned is the claim on it.

        It does not wait for anything, but in a burst of hundreds for the warden to take the orders before, up to 1 s.
        Whether the program runs is told by `ProcessTree.wait_started`.

        Raises:
            ContainmentError: nothing was started: this containment is closed or was forked away from its process, the
                spec cannot be carried out, or there are no descriptors left.
        """
        return self._start(spec, self.boundary)

    def keep_until(self, moment: float | None) -> None:
        """Have the warden end every tree at that moment unless it is told a later one before; None: never.

        For an owner that may lose its right to them while it is stopped and cannot end them itself.  `moment` is in
        seconds of CLOCK_BOOTTIME (clock_gettime(2)).  They get SIGTERM, and half a second later SIGKILL; their reason
        is `NOT_KEPT`.  What is started after that moment ends at once, until another moment is told.
        """
        self._warden.keep_until(moment)

    def trees(self) -> tuple[TreeStatus, ...]:
        """The live trees of this containment, also those whose handle is gone but that are not yet proven empty."""
        records = {record.tree: record for record in self._instance.records()}
        recorded = [examine(record) for record in records.values()]
        asked_for = [
            examine_unrecorded(tree) for name, tree in self._trees.items() if name not in records and _is_new(tree)
        ]
        return tuple(sorted(recorded + asked_for, key=lambda status: status.started_at))

    async def sweep(self, *, include_active: bool = False) -> SweepReport:
        """End what nobody keeps any more, here and of earlier gateways; containers that are left over, too.

        A tree of ours that nobody holds any more is its keeper's to end; one that has not within all its graces gets
        another.  `include_active` ends every tree of this containment as well: only for when nobody uses any.
        """
        active = tuple(self._trees.values()) if include_active else ()
        replaced = await self._rescue.replace_overdue()
        report = await sweep(self.state_dir, own_instance=self.instance, active=active)
        return replace(report, replaced=replaced)

    def kill_all(self) -> None:
        """Send every tree of this containment straight to SIGKILL, for when there is no time for their stop ladders."""
        for tree in list(self._trees.values()):
            tree.kill()

    async def aclose(self) -> None:
        """End every tree, prove them empty, and let the warden go.  Idempotent.

        What is stuck stays with its keeper, and its warden with that; the next `open` on this folder finds it.
        """
        if self._is_closed or os.getpid() != self._owner:
            return
        self._is_closed = True
        trees = list(self._trees.values())
        for tree in trees:
            tree.release()
        async with anyio.create_task_group() as tasks:
            for tree in trees:
                tasks.start_soon(_wait_gone_or_stuck, tree)
        await self._rescue.wait_unheld_gone()
        await self._rescue.dismiss_warden()
        self._remove_folders()

    # Starting

    def _start(self, spec: ProcessSpec, boundary: Boundary, *, is_probe: bool = False) -> ProcessTree:
        if self._is_closed or os.getpid() != self._owner:
            raise ContainmentError(
                f"{spec.name!r} was not started: its containment is closed, or of the process we were forked from.",
                hint="open a Containment in this process",
            )
        order = fill_in(spec, instance=self._instance, boundary=boundary, group=self._group, is_probe=is_probe)
        try:
            with ExitStack() as undo:
                return self._send(spec, order, undo)
        except OSError as error:
            raise ContainmentError(
                f"{spec.name!r} was not started: {error.strerror or error}.",
                hint="raise the limit of open files (ulimit -n), or hold fewer processes at once",
            ) from error

    def _send(self, spec: ProcessSpec, order: Order, undo: ExitStack) -> ProcessTree:
        """Make the descriptors, give the warden its ends, and keep ours.  `undo` closes all of them on an error."""
        ours, theirs = (_owned(end, undo) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        stdin_reader, stdin_writer = _pipe(undo)
        stdout_reader, stdout_writer = _pipe(undo)
        tail = stderr_log.create_tail()
        undo.callback(os.close, tail)
        self._warden.ask(
            order,
            Descriptors(
                lifeline=theirs.fileno(),
                stdin=stdin_reader,
                stdout=stdout_writer,
                tail=tail,
                stderr=spec.stderr if isinstance(spec.stderr, int) else None,
            ),
        )
        undo.pop_all()
        theirs.close()
        os.close(stdin_reader)
        os.close(stdout_writer)
        tree = ProcessTree(
            spec,
            tree=order.tree,
            boundary=order.boundary,
            holder=ours,
            pipes=Pipes(stdin=stdin_writer, stdout=stdout_reader),
            tail=tail,
            rescue=self._rescue.replace_custodian,
            on_dropped=partial(self._rescue.note_dropped, order.tree, spec.stop),
        )
        self._trees[order.tree] = tree
        return tree

    # The boundary

    async def _choose_boundary(self, wanted: Boundary | None) -> None:
        """The strongest that works: shown by a tree that does everything but execute a program."""
        if wanted is Boundary.PROCESS_GROUP:
            raise ContainmentError(
                "The process group is no boundary on Linux: members leave it at will.",
                hint='leave the boundary unset, or take "cgroup" or "subreaper"',
            )
        refusals = []
        for boundary in (Boundary.CGROUP, Boundary.SUBREAPER) if wanted is None else (wanted,):
            refusal = await self._try(boundary)
            if refusal is None:
                self.boundary = boundary
                return
            refusals.append(f"{boundary}: {refusal}")
        raise ContainmentError(f"No process can be contained here ({'; '.join(refusals)}).", hint="run: sexton doctor")

    async def _try(self, boundary: Boundary) -> str | None:
        """None when that boundary works; else what stands against it."""
        if boundary is Boundary.CGROUP and (refusal := self._make_group()) is not None:
            return refusal
        spec = ProcessSpec(
            name="probe", owner="containment", argv=("probe",), stop=StopTimes(stuck_after=_PROBE_WITHIN)
        )
        async with self._start(spec, boundary, is_probe=True) as tree:
            tree.close_stdin()
            end = await tree.wait_gone()
        if end.reason is EndReason.LEADER_EXIT and end.returncode == 0:
            return None
        failure = tree.progress.failure
        return failure.detail if failure is not None else f"a trial ended with {end.reason}"

    def _make_group(self) -> str | None:
        folder = cgroup_boundary.delegated_folder()
        if folder is None:
            return "no cgroup v2 is mounted"
        group = Path(folder, cgroup_boundary.group_name(self._instance.id, self._instance.gateway))
        try:
            cgroup_boundary.remove_abandoned(folder)
            cgroup_boundary.create_group(str(group))
        except OSError as error:
            return f"no cgroup can be made in {folder}: {error.strerror}"
        self._group = group
        return None if (group / "cgroup.kill").exists() else "the kernel has no cgroup.kill"

    def _remove_folders(self) -> None:
        self._instance.remove_folders()
        if self._group is not None:
            with suppress(OSError):  # something in it is stuck
                self._group.rmdir()


def _owned(end: socket.socket, undo: ExitStack) -> socket.socket:
    undo.callback(end.close)
    return end


def _pipe(undo: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    return reader, writer


async def _wait_gone_or_stuck(tree: ProcessTree) -> None:
    try:
        await tree.wait_gone()
    except TreeStuck as stuck:
        _log.warning("%s", stuck)


def _is_new(tree: ProcessTree) -> bool:
    """Whether its keeper has not written it down yet."""
    return tree.state in {TreeState.RESERVED, TreeState.SPAWNING}
