"""Finishes, at the next start, the trees whose gateway died together with its helpers.

While a keeper or a warden lives it ends its trees by itself; recovery waits for that, and steps in when nobody is left.
It obeys the ledger only as far as the ledger is certain (see `identity` and `remains`): a leaf is killed if it is still
the cgroup that was recorded, a process if it is still the process that was recorded.  What cannot be certain is
reported.

Everything here works without a gateway, for `sexton ps` and `sexton reap`.  Two recoveries at once do no harm: each
step may find its work done already.  It reads much of /proc, so it runs in a worker thread.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sexton.containment import external, identity, ledger
from sexton.containment.cgroup_boundary import Leaf
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import CgroupLeaf, Record, Stuck
from sexton.containment.remains import Remains, Search
from sexton.containment.tree_state import TreeState
from sexton.threads import in_thread
from sexton.whole_file import replace_file

HELPERS_MAY_TAKE = 3.0
"""Seconds in which a keeper or warden whose gateway is dead has ended its trees: both graces, and the killing."""
PATIENCE = 10.0
"""Seconds until what does not die is called stuck."""
_LOOK_EVERY = 0.002
_LAST_RECOVERY = "last_recovery.json"
_ONE_AT_A_TIME = threading.Lock()
"""Several trees may lose their custodians together; each asks for a recovery, and the first does the work for all."""
_BOOT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRecovery:
    """What became of one tree.

    `state` is RECOVERED (empty, as far as the ledger and the kernel can tell), STUCK (`stuck` says who and why) or
    EXTERNAL_PENDING (`pending` says why a container may be left).  `killed` are the pids that got a SIGKILL by name,
    not those that ended with their cgroup.  `escaped` are processes with the tree's cookie outside the part of the
    cgroup hierarchy that it was started in: nobody signals them.
    """

    tree: str
    name: str
    owner: str
    state: TreeState
    leaf_killed: bool = False
    killed: tuple[int, ...] = ()
    containers: tuple[str, ...] = ()
    escaped: tuple[int, ...] = ()
    stuck: tuple[Stuck, ...] = ()
    pending: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfollowed:
    """A record that nobody may act on, and why: it is damaged, somebody else's, or of another PID namespace."""

    path: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What one recovery found and did.  `alive` are the other instances that were left alone."""

    trees: tuple[TreeRecovery, ...] = ()
    unfollowed: tuple[Unfollowed, ...] = ()
    alive: tuple[str, ...] = ()
    boots_deleted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left over, and nothing needs a person's attention."""
        return not self.unfollowed and all(
            tree.state is TreeState.RECOVERED and not tree.escaped for tree in self.trees
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A tree that nobody keeps any more, and where its record lies."""

    path: str
    record: Record


@dataclass(slots=True)
class _Survey:
    """The ledger, read once and sorted by what may be done."""

    orphans: list[Orphan] = field(default_factory=list)
    kept: list[Orphan] = field(default_factory=list)
    """Their gateway is dead, but a keeper or warden still ends them."""
    live: list[Record] = field(default_factory=list)
    unfollowed: list[Unfollowed] = field(default_factory=list)


async def recover(state_dir: str | os.PathLike[str], *, own_instance: str | None = None) -> RecoveryReport:
    """End every tree that nobody keeps any more, prove it as far as possible, and forget its record.

    `own_instance` is the caller's own; of it only trees are touched whose keeper and warden are both dead.  Instances
    whose gateway lives are left alone.  Records of another boot are deleted; all their processes are gone.

    Takes at most HELPERS_MAY_TAKE + PATIENCE seconds, and the time that container engines need to answer.

    Raises:
        OSError: the ledger's folder cannot be read.
    """
    return await in_thread(lambda: _recover(state_dir, own_instance))


def list_orphans(state_dir: str | os.PathLike[str], *, own_instance: str | None = None) -> tuple[Record, ...]:
    """The records of the trees that `recover` would end, without touching anything."""
    survey = _survey(state_dir, own_instance)
    return tuple(orphan.record for orphan in (*survey.orphans, *survey.kept))


def list_unfollowed(state_dir: str | os.PathLike[str]) -> tuple[Unfollowed, ...]:
    """The records that nobody may act on."""
    return tuple(_survey(state_dir, None).unfollowed)


def list_live(state_dir: str | os.PathLike[str]) -> tuple[Record, ...]:
    """The records of the trees whose gateway lives, whichever gateway that is."""
    return tuple(_survey(state_dir, None).live)


def last_recovery(state_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the last recovery that had something to do found, as JSON (`at`, and the fields of RecoveryReport)."""
    try:
        content = json.loads((Path(ledger.boots_folder(state_dir)) / _LAST_RECOVERY).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _recover(state_dir: str | os.PathLike[str], own_instance: str | None) -> RecoveryReport:
    with _ONE_AT_A_TIME:
        return _recover_alone(state_dir, own_instance)


def _recover_alone(state_dir: str | os.PathLike[str], own_instance: str | None) -> RecoveryReport:
    boots_deleted = _forget_other_boots(state_dir)
    _let_helpers_finish(_survey(state_dir, own_instance).kept)
    survey = _survey(state_dir, own_instance)
    done = _finish(survey.orphans)
    _remove_folders(survey, own_instance)
    report = RecoveryReport(
        trees=done,
        unfollowed=tuple(survey.unfollowed),
        alive=tuple(sorted({record.instance for record in survey.live} - {own_instance})),
        boots_deleted=boots_deleted,
    )
    _remember(state_dir, report)
    return report


# Reading.


def _survey(state_dir: str | os.PathLike[str], own_instance: str | None) -> _Survey:
    survey = _Survey()
    for path in _record_paths(state_dir):
        try:
            record = _read_own(path)
        except FileNotFoundError:
            continue  # its tree has been proven empty meanwhile
        except ledger.LedgerError as error:
            survey.unfollowed.append(Unfollowed(path=path, why=str(error)))
            continue
        _sort(survey, Orphan(path=path, record=record), own_instance)
    return survey


def _sort(survey: _Survey, one: Orphan, own_instance: str | None) -> None:
    record = one.record
    helped = any(identity.is_alive(helper) for helper in _helpers(record))
    if record.instance == own_instance or identity.is_alive(record.gateway):
        if helped or record.instance != own_instance:
            survey.live.append(record)
        else:
            survey.orphans.append(one)
    elif helped:
        survey.kept.append(one)
    else:
        survey.orphans.append(one)


def _helpers(record: Record) -> Iterator[ProcessIdentity]:
    """Those who still see to that tree, if they live.  A warden removes no containers."""
    if record.keeper is not None:
        yield record.keeper
    if record.state is not TreeState.EXTERNAL_PENDING:
        yield record.warden


def _record_paths(state_dir: str | os.PathLike[str]) -> Iterator[str]:
    folder = Path(ledger.instances_folder(state_dir))
    with suppress(FileNotFoundError, NotADirectoryError):
        for instance in sorted(folder.iterdir()):
            if not instance.is_symlink():
                yield from ledger.record_paths(str(instance))


def _read_own(path: str) -> Record:
    """A record that we wrote ourselves.

    Raises:
        FileNotFoundError: it is no more.
        LedgerError: it may not be followed; the text says why.
    """
    status = Path(path).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ledger.LedgerError(f"{path} is no ordinary file")
    if status.st_uid != os.geteuid():
        raise ledger.LedgerError(f"{path} belongs to user {status.st_uid}; we are user {os.geteuid()}")
    record = ledger.read(path)
    if record.uid != os.geteuid():
        raise ledger.LedgerError(f"{path} is of a tree of user {record.uid}; we are user {os.geteuid()}")
    if record.boot_id != identity.boot_id():
        raise ledger.LedgerError(f"{path} lies among the records of this boot and is of another")
    if record.pid_namespace != identity.pid_namespace():
        raise ledger.LedgerError(f"{path} is of another PID namespace, in which its numbers mean other processes")
    return record


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether that came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY)
    return True


# Waiting for those who are still at it.


_CUSTODY = frozenset({TreeState.STUCK, TreeState.EXTERNAL_PENDING})


def _let_helpers_finish(kept: Collection[Orphan]) -> None:
    """The helpers of a dead gateway end their trees by themselves; those that take too long are killed.

    Stuck trees are left with their keeper, who tries again four times a second and can do no less than we could.
    """
    waited_for = [orphan for orphan in kept if orphan.record.state not in _CUSTODY]
    _wait_until(lambda: not any(_is_unfinished(orphan) for orphan in waited_for), HELPERS_MAY_TAKE)
    for orphan in waited_for:
        if _is_unfinished(orphan):
            _end_helpers(orphan)


def _is_unfinished(orphan: Orphan) -> bool:
    return Path(orphan.path).exists() and any(identity.is_alive(helper) for helper in _helpers(orphan.record))


def _end_helpers(orphan: Orphan) -> None:
    """First the keeper, whose tree falls to the warden, which sweeps it; then the warden."""
    for helper in _helpers(orphan.record):
        identity.signal_verified(helper, signal.SIGKILL)
        _wait_until(lambda: not _is_unfinished(orphan), 1.0)


# Ending.


@dataclass(slots=True)
class _Ending:
    """What was done about one tree so far."""

    record: Record
    leaf_killed: bool = False
    killed: set[int] = field(default_factory=set)
    escaped: set[int] = field(default_factory=set)
    stuck: tuple[Stuck, ...] = ()


def _finish(orphans: Collection[Orphan]) -> tuple[TreeRecovery, ...]:
    """End those trees, all of them step by step: what forks on in one of them would only slow down the next steps."""
    endings = {orphan.path: _Ending(orphan.record) for orphan in orphans if Path(orphan.path).exists()}
    _end_leaves(endings.values())
    _end_remains(endings.values())
    return tuple(_conclude(orphan, endings[orphan.path]) for orphan in orphans if orphan.path in endings)


def _conclude(orphan: Orphan, ending: _Ending) -> TreeRecovery:
    record = ending.record
    stuck = ending.stuck or _populated(record)
    if record.leaf and not stuck:
        _remove_leaf(record.leaf)
    containers, pending = _end_containers(record)
    outcome = TreeRecovery(
        tree=record.tree,
        name=record.name,
        owner=record.owner,
        state=TreeState.STUCK if stuck else TreeState.EXTERNAL_PENDING if pending else TreeState.RECOVERED,
        leaf_killed=ending.leaf_killed,
        killed=tuple(sorted(ending.killed)),
        containers=containers,
        escaped=tuple(sorted(ending.escaped)),
        stuck=stuck,
        pending=pending,
    )
    _settle(orphan, outcome)
    return outcome


def _settle(orphan: Orphan, outcome: TreeRecovery) -> None:
    """Forget the record of what is done; keep that of what is not, so that the next sweep tries again."""
    folder, record = str(Path(orphan.path).parent), orphan.record
    if outcome.state is TreeState.RECOVERED:
        ledger.remove(folder, record.tree)
    elif Path(orphan.path).exists():
        ledger.write(folder, replace(record, state=outcome.state, stuck=outcome.stuck))


def _end_leaves(endings: Collection[_Ending]) -> None:
    """Kill every cgroup that is still there, is the recorded one, and has anybody in it."""
    leaves = []
    for ending in endings:
        recorded = ending.record.leaf
        if recorded is not None and Leaf(recorded.path).is_(recorded) and not Leaf(recorded.path).is_empty():
            leaves.append(Leaf(recorded.path))
            ending.leaf_killed = True

    def emptied() -> bool:
        for leaf in leaves:
            leaf.kill_all()
        return all(leaf.is_empty() for leaf in leaves)

    _wait_until(emptied, PATIENCE)


def _remove_leaf(recorded: CgroupLeaf) -> None:
    """The kernel may be busy with it for a moment."""
    leaf = Leaf(recorded.path)
    _wait_until(lambda: not leaf.is_(recorded) or leaf.remove(), 1.0)


def _end_remains(endings: Collection[_Ending]) -> None:
    """Kill what is left of them until two looks in a row find nobody, but for those who do not die."""
    clean_looks = 0
    deadline = time.monotonic() + PATIENCE
    while clean_looks < 2 and (open_ones := [ending for ending in endings if not ending.stuck]):
        with Search([ending.record for ending in open_ones]) as search:
            for ending, found in zip(open_ones, search.remains, strict=True):
                _end_found(ending, found, is_late=time.monotonic() > deadline)
            clean_looks = 0 if any(found.pidfds for found in search.remains) else clean_looks + 1
        time.sleep(_LOOK_EVERY)


def _end_found(ending: _Ending, found: Remains, *, is_late: bool) -> None:
    refused = found.kill()
    ending.escaped |= found.escaped
    ending.killed |= found.pidfds.keys() - refused.keys()
    if found.pidfds and (is_late or refused.keys() == found.pidfds.keys()):
        ending.stuck = tuple(
            Stuck(pid=pid, why=refused.get(pid, "it was killed and does not end")) for pid in sorted(found.pidfds)
        )


def _populated(record: Record) -> tuple[Stuck, ...]:
    """The members of the leaf, if the kernel still counts any."""
    if record.leaf is None:
        return ()
    leaf = Leaf(record.leaf.path)
    if not leaf.is_(record.leaf) or leaf.is_empty():
        return ()
    return tuple(Stuck(pid=pid, why="it was killed with its cgroup and does not end") for pid in leaf.members())


def _end_containers(record: Record) -> tuple[tuple[str, ...], str | None]:
    """Remove the tree's containers: the removed, and why some may be left."""
    removed: list[str] = []
    pending = None
    for one in record.externals:
        removal = external.remove(one)
        removed += removal.removed
        pending = pending or removal.pending
    return tuple(removed), pending


# Forgetting.


def _forget_other_boots(state_dir: str | os.PathLike[str]) -> int:
    """Delete the records of other boots, once their containers, which can outlive a boot, are removed."""
    folder, deleted = Path(ledger.boots_folder(state_dir)), 0
    if not folder.is_dir():
        return 0
    for boot in sorted(folder.iterdir()):
        if _is_another_boot(boot) and _end_containers_of_boot(boot):
            shutil.rmtree(boot)
            deleted += 1
    return deleted


def _is_another_boot(folder: Path) -> bool:
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_ours and _BOOT_ID.fullmatch(folder.name) is not None and folder.name != identity.boot_id()


def _end_containers_of_boot(boot: Path) -> bool:
    """Whether nothing of that boot is pending any more."""
    for path in (path for instance in boot.iterdir() for path in ledger.record_paths(str(instance))):
        try:
            record = ledger.read(path)
        except (ledger.LedgerError, FileNotFoundError):
            continue
        if (_end_containers(record))[1] is not None:
            return False
    return True


def _remove_folders(survey: _Survey, own_instance: str | None) -> None:
    """Remove what the instances had that are dead and done: the folder of their records, and that of their leaves."""
    for orphan in survey.orphans:
        folder, leaf = Path(orphan.path).parent, orphan.record.leaf
        if orphan.record.instance == own_instance or ledger.record_paths(str(folder)):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        if leaf is not None:
            with suppress(OSError):  # another leaf is in it, or somebody else has removed it
                Path(leaf.path).parent.rmdir()


def _remember(state_dir: str | os.PathLike[str], report: RecoveryReport) -> None:
    """Keep the report for `doctor`, when there was anything to report."""
    if not report.trees and not report.unfollowed:
        return
    document = {"at": datetime.now(UTC).isoformat(), **asdict(report)}
    replace_file(Path(ledger.boots_folder(state_dir)) / _LAST_RECOVERY, json.dumps(document))
