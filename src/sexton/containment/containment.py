"""The one way to start a process: `Containment.open(...)`, then `start(spec)`."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import anyio

from sexton.containment import cgroup_boundary, external, identity, ledger, recovery, stderr_log
from sexton.containment.containment_errors import ContainmentError, TreeStuck
from sexton.containment.environment import environment_of
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import External, LedgerError, Record
from sexton.containment.order import Descriptors, Order, encode_text
from sexton.containment.pipes import Pipes
from sexton.containment.recovery import RecoveryReport
from sexton.containment.spec import ProcessSpec
from sexton.containment.stop_ladder import StopTimes
from sexton.containment.sweep import SweepReport, sweep
from sexton.containment.tree import ProcessTree
from sexton.containment.tree_state import Boundary, EndReason, TreeState
from sexton.containment.tree_status import TreeStatus, examine
from sexton.containment.warden import Warden

_log = logging.getLogger(__name__)

_PROBE_WITHIN = 20.0
_WARDEN_LEAVES_WITHIN = 5.0
_ENDING_TAKES = 20.0
"""Longer than any keeper needs that has nobody to wait for: all its graces, and until it reports what is stuck."""
_LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """One opened Containment, as its trees' records know it."""

    id: str
    state_dir: Path
    boot_id: str
    gateway: ProcessIdentity
    ledger_folder: Path
    cid_folder: Path


@final
class Containment:
    """Holds process trees that cannot outlive their handles.  Open one per program, and start everything through it.

    It may be used from any event loop and thread of the process that opened it, not from a process forked from that.
    """

    boundary: Boundary

    def __init__(self, instance: _Instance) -> None:
        self.state_dir = instance.state_dir
        self.boundary = Boundary.SUBREAPER
        self._instance = instance
        self._owner = os.getpid()
        self._warden = Warden(self.state_dir / "contain" / "warden.log")
        self._group: Path | None = None
        self._trees: weakref.WeakValueDictionary[str, ProcessTree] = weakref.WeakValueDictionary()
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
        containment = cls(_create_instance(state_dir))
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
        """Ask for a tree; the handle that is returned is the claim on it.  Never waits.

        Whether the program runs is told by `ProcessTree.wait_started`.

        Raises:
            ContainmentError: nothing was started: this containment is closed or was forked away from its process, the
                spec cannot be carried out, or there are no descriptors left.
        """
        _check(spec)
        return self._start(spec, self.boundary)

    def trees(self) -> tuple[TreeStatus, ...]:
        """The live trees of this containment, also those whose handle is gone but that are not yet proven empty."""
        records = {record.tree: record for record in self._records()}
        recorded = [examine(record) for record in records.values()]
        asked_for = [_reserved(tree) for name, tree in self._trees.items() if name not in records and _is_new(tree)]
        return tuple(sorted(recorded + asked_for, key=lambda status: status.started_at))

    async def sweep(self, *, include_active: bool = False) -> SweepReport:
        """End what nobody keeps any more, here and of earlier gateways; containers that are left over, too.

        `include_active` ends every tree of this containment as well: only for when nobody uses any.
        """
        active = tuple(self._trees.values()) if include_active else ()
        return await sweep(self.state_dir, own_instance=self.instance, active=active)

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
        await self._wait_unheld_gone()
        await self._dismiss_warden()
        self._remove_folders()

    # Starting

    def _start(self, spec: ProcessSpec, boundary: Boundary, *, is_probe: bool = False) -> ProcessTree:
        if self._is_closed or os.getpid() != self._owner:
            raise ContainmentError(
                f"{spec.name!r} was not started: its containment is closed, or of the process we were forked from.",
                hint="open a Containment in this process",
            )
        tree = f"t{secrets.token_hex(6)}"
        try:
            with ExitStack() as undo:
                return self._send(spec, self._order(spec, tree, boundary, is_probe=is_probe), undo)
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
            rescue=self._rescue,
        )
        self._trees[order.tree] = tree
        return tree

    def _order(self, spec: ProcessSpec, tree: str, boundary: Boundary, *, is_probe: bool) -> Order:
        cookie = secrets.token_hex(16)
        env = environment_of(spec, cookie=cookie, ours=os.environ)
        argv, externals = self._label_containers(tree, spec.argv, env)
        limits = spec.limits
        leaf = self._group / tree if boundary is Boundary.CGROUP and self._group is not None else None
        return Order(
            tree=tree,
            instance=self._instance.id,
            boot_id=self._instance.boot_id,
            cookie=cookie,
            name=spec.name,
            owner=spec.owner,
            argv=tuple(encode_text(word) for word in argv),
            env={encode_text(name): encode_text(value) for name, value in env.items()},
            cwd=None if spec.cwd is None else encode_text(str(spec.cwd)),
            stop=spec.stop,
            ttl=spec.ttl,
            started_at=time.time(),
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            cpu=limits.cpu,
            open_files=limits.open_files,
            no_new_privs=spec.no_new_privs,
            boundary=boundary,
            leaf=None if leaf is None else str(leaf),
            ledger_folder=str(self._instance.ledger_folder),
            log=str(spec.stderr.absolute()) if isinstance(spec.stderr, Path) else None,
            gateway=self._instance.gateway,
            externals=externals,
            is_probe=is_probe,
        )

    def _label_containers(
        self, tree: str, argv: tuple[str, ...], env: dict[str, str]
    ) -> tuple[tuple[str, ...], tuple[External, ...]]:
        argv, found = external.labelled(argv, env, tree=tree, folder=str(self._instance.cid_folder))
        return argv, () if found is None else (found,)

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
        group = Path(folder, f"sexton-{self._instance.id}")
        try:
            cgroup_boundary.create_group(str(group))
        except OSError as error:
            return f"no cgroup can be made in {folder}: {error.strerror}"
        self._group = group
        return None if (group / "cgroup.kill").exists() else "the kernel has no cgroup.kill"

    # Ending

    async def _rescue(self, tree: ProcessTree, attempt: int) -> None:
        """Replace the custodian of a tree that does not report, step by step harder."""
        keeper = tree.progress.keeper
        if tree.progress.is_unattended:
            await self._finish(tree)
        elif attempt == 0 and keeper is not None:
            self._warden.kill_keeper(tree.id)
        elif attempt <= 1:
            self._warden.wake()
        elif attempt == 2:
            self._warden.kill()
        elif keeper is not None:
            with suppress(PermissionError):
                identity.signal_verified(keeper, 9)

    async def _finish(self, tree: ProcessTree) -> None:
        """Both custodians are dead: do what the ledger says.  No record means that it was proven empty before."""
        reason = EndReason.KEEPER_DIED if self.warden_pid is not None else EndReason.WARDEN_DIED
        report = await recovery.recover(self.state_dir, own_instance=self._instance.id)
        left = [one.stuck for one in report.trees if one.tree == tree.id and one.state is TreeState.STUCK]
        tree.settle(reason, stuck=left[0] if left else ())

    async def _wait_unheld_gone(self) -> None:
        """Trees whose handles are gone end by themselves; a keeper that does not get on is replaced."""
        give_up = time.monotonic() + _ENDING_TAKES
        records = self._unsettled()
        while any(map(_has_custodian, records)) and time.monotonic() < give_up:
            await anyio.sleep(_LOOK_EVERY)
            records = self._unsettled()
        for record in filter(_has_custodian, records):
            _log.warning("the processes of %r do not end in time; replacing their keeper", record.name)
            self._warden.wake()
            self._warden.kill_keeper(record.tree)
        if records:
            await recovery.recover(self.state_dir, own_instance=self._instance.id)

    def _unsettled(self) -> list[Record]:
        settled = {TreeState.STUCK, TreeState.EXTERNAL_PENDING}
        return [record for record in self._records() if record.state not in settled]

    async def _dismiss_warden(self) -> None:
        """It leaves when the last of its trees is gone."""
        left = self._warden.dismiss()
        if left is not None:
            with anyio.move_on_after(_WARDEN_LEAVES_WITHIN):
                await anyio.wait_readable(left)
        self._warden.bury()

    def _remove_folders(self) -> None:
        """Only what is empty: a tree that is stuck, or a container that is left, keeps its record."""
        for folder in (self._group, self._instance.cid_folder, self._instance.ledger_folder):
            if folder is not None:
                with suppress(OSError):
                    folder.rmdir()

    def _records(self) -> list[Record]:
        found = []
        for path in ledger.record_paths(str(self._instance.ledger_folder)):
            with suppress(FileNotFoundError, LedgerError):
                found.append(ledger.read(path))
        return found


def _create_instance(state_dir: Path) -> _Instance:
    """A folder of its own in the ledger.

    Raises:
        ContainmentError: not on this system, or not in that folder.
    """
    state_dir = state_dir.absolute()
    if sys.platform != "linux":
        raise ContainmentError(
            f"Processes cannot be contained on {sys.platform}: that takes the Linux kernel.",
            hint="on Windows run sexton in WSL2, elsewhere in a Linux virtual machine or container",
        )
    gateway = identity.identify(os.getpid())
    if gateway is None:
        raise ContainmentError("This process is not in its own /proc.", hint="mount /proc for this PID namespace")
    name = secrets.token_hex(6)
    folder = Path(ledger.instance_folder(state_dir, name))
    try:
        folder.mkdir(mode=0o700, parents=True)
        cids = folder / "containers"
        cids.mkdir(mode=0o700)
    except OSError as error:
        raise ContainmentError(
            f"The folder for the records of running processes cannot be made: {error}.",
            hint=f"make {state_dir} writable, or choose another folder with --data",
        ) from error
    return _Instance(
        id=name,
        state_dir=state_dir,
        boot_id=identity.boot_id(),
        gateway=gateway,
        ledger_folder=folder,
        cid_folder=cids,
    )


def _check(spec: ProcessSpec) -> None:
    """Refuse what no kernel can execute, while the caller can still be told.

    Raises:
        ContainmentError: there is no program, or a NUL or an = where there can be none.
    """
    if not spec.argv or not spec.argv[0]:
        raise ContainmentError(f"{spec.name!r} has no command.", hint="give the program and its arguments")
    texts = (*spec.argv, *spec.env, *spec.env.values(), str(spec.cwd or ""))
    if any("\0" in text for text in texts) or any(not name or "=" in name for name in spec.env):
        raise ContainmentError(
            f"{spec.name!r} has a NUL character in its command, or a bad name in its environment.",
            hint="correct its command, env and cwd",
        )


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


def _has_custodian(record: Record) -> bool:
    return any(one is not None and identity.is_alive(one) for one in (record.keeper, record.warden))


def _is_new(tree: ProcessTree) -> bool:
    """Whether its keeper has not written it down yet."""
    return tree.state in {TreeState.RESERVED, TreeState.SPAWNING}


def _reserved(tree: ProcessTree) -> TreeStatus:
    return TreeStatus(
        id=tree.id,
        name=tree.spec.name,
        owner=tree.spec.owner,
        state=tree.state,
        boundary=tree.boundary,
        leader_pid=None,
        keeper_pid=None,
        pids=(),
        memory_bytes=None,
        started_at=tree.started_at,
        reason=None,
        stuck=(),
        external=(),
    )
