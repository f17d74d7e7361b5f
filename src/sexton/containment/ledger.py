"""Live trees on disk, so that the next start can finish a cleanup that was cut off.

One file per tree: STATE/contain/BOOT_ID/INSTANCE/TREE.rec, JSON, mode 0600, replaced by rename.  No fsync: a record
has to survive our death, not the machine's, and one of another boot is worthless.  A tree's keeper writes it: before
its first process exists, at each change of state, and whenever the census of its members has changed.  When the tree
is proven empty the keeper removes it.  If the keeper dies, the warden does that in its place; if both die, recovery.

A record never authorises a signal to a bare pid (see `identity`).  Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from os import PathLike
from typing import Any

from sexton.containment.identity import ProcessIdentity, boot_id
from sexton.containment.tree_state import Boundary, EndReason, TreeState

SCHEMA = 1
_SUFFIX = ".rec"
_SECRET = re.compile(r"token|key|secret|passw|auth|credential|bearer", re.IGNORECASE)
_HIDDEN = "***"
_HANDLE = re.compile(r"\d+:(?:[0-9a-f]{2})+")


class LedgerError(ValueError):
    """A record cannot be read: cut off, of another schema, or not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLeaf:
    """A tree's own cgroup.  A path can be used again by another cgroup: the inode says which one was meant."""

    path: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """The containers that a tree starts through a daemon, found again by their label ("name=value").

    `engine` is the engine's program and its global options, such as ("/usr/bin/docker", "--context", "lab");
    `environment` is what of the tree's environment decides which daemon that asks; nothing secret is in it.
    `remove_volumes` says that the containers were to vanish with their anonymous volumes (`run --rm`).
    """

    engine: tuple[str, ...]
    label: str
    cidfile: str
    environment: tuple[tuple[str, str], ...] = ()
    remove_volumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A member that did not end although it was killed, and why, as far as the kernel tells."""

    pid: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What has to be known of one tree to finish it without anybody's help.

    `argv` has its secrets hidden.  `started_at` and `deadline` are seconds since 1970.  `keeper` is None in a record
    that was written before there was one, `leader` until the program runs.  `census` are the members last seen, the
    leader included.  `home` is where in the cgroup hierarchy the tree was started (see `home_of`).
    """

    tree: str
    instance: str
    boot_id: str
    pid_namespace: int
    cookie: str
    name: str
    owner: str
    uid: int
    argv: tuple[str, ...]
    cwd: str | None
    boundary: Boundary
    state: TreeState
    reason: EndReason | None
    started_at: float
    deadline: float | None
    gateway: ProcessIdentity
    warden: ProcessIdentity
    keeper: ProcessIdentity | None
    leader: ProcessIdentity | None
    leaf: CgroupLeaf | None
    externals: tuple[External, ...]
    census: tuple[ProcessIdentity, ...]
    stuck: tuple[Stuck, ...]
    home: str | None = None
    schema: int = SCHEMA


def boots_folder(state_dir: str | PathLike[str]) -> str:
    """The folder that holds one folder per boot."""
    return os.path.join(state_dir, "contain")


def instances_folder(state_dir: str | PathLike[str]) -> str:
    """The folder of this boot; it holds one folder per instance (one opened `Containment`)."""
    return os.path.join(boots_folder(state_dir), boot_id())


def instance_folder(state_dir: str | PathLike[str], instance: str) -> str:
    """The folder of one instance of this boot; it holds the records of its live trees."""
    return os.path.join(instances_folder(state_dir), instance)


def cid_folder(folder: str) -> str:
    """The folder, in that of an instance, for the ids of the containers that its trees start."""
    return os.path.join(folder, "containers")


def record_path(folder: str, tree: str) -> str:
    return os.path.join(folder, tree + _SUFFIX)


def home_of(pid: int | None = None) -> str | None:
    """The part of the cgroup hierarchy that a process (this one, if None) was put into; None when it has none.

    That is its path in cgroup v2, or in systemd's own hierarchy where there is no v2.  A service manager that delegates
    a subtree may put the process into `gateway` in there; then the subtree is meant.
    """
    with open(f"/proc/{pid or 'self'}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for hierarchy, controllers, path in sorted(lines):
        if hierarchy == "0" or controllers == "name=systemd":
            return path.removesuffix("/gateway") or "/"
    return None


def write(folder: str, record: Record) -> None:
    """Put the record in its place; a reader sees the old one or the new one, whole.

    Raises:
        OSError: the disk is full, read-only or gone.  The tree must be held all the same.
    """
    path = record_path(folder, record.tree)
    draft = path + ".new"
    fields_of = {name: getattr(record, name) for name in record.__slots__}
    content = json.dumps(fields_of, default=asdict).encode("ascii")  # asdict of the whole would copy all of it
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(descriptor, content)
    finally:
        os.close(descriptor)
    if written < len(content):  # the disk got full in the middle of it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
    os.rename(draft, path)


def remove(folder: str, tree: str) -> None:
    """Forget a tree that is proven empty."""
    with suppress(FileNotFoundError):
        os.unlink(record_path(folder, tree))


def read(path: str) -> Record:
    """One record.

    Raises:
        FileNotFoundError: it has been removed since it was listed: its tree is proven empty.
        LedgerError: it is not a record that we can read.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _decode(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is not a record of this version of sexton: {error}") from error


def records(folder: str) -> Iterator[Record]:
    """Every readable record of one instance; one that vanishes while we look is skipped.

    Raises:
        LedgerError: see `read`.
    """
    for path in record_paths(folder):
        with suppress(FileNotFoundError):
            yield read(path)


def record_paths(folder: str) -> tuple[str, ...]:
    """The paths of one instance's records, sorted; empty when there is no such instance."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(os.path.join(folder, name) for name in sorted(names) if name.endswith(_SUFFIX))


def redact(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command without what looks like a secret: `--api-key X`, `--token=X`, `NAME_SECRET=X`."""
    shown: list[str] = []
    for position, word in enumerate(argv):
        option, equals, _ = word.partition("=")
        if equals and _SECRET.search(option):
            shown.append(f"{option}={_HIDDEN}")
        elif position and _names_secret(argv[position - 1]) and not word.startswith("-"):
            shown.append(_HIDDEN)
        else:
            shown.append(word)
    return tuple(shown)


def _names_secret(word: str) -> bool:
    return word.startswith("-") and "=" not in word and _SECRET.search(word) is not None


def _decode(raw: dict[str, Any]) -> Record:
    if raw["schema"] != SCHEMA:
        raise LedgerError(f"its schema is {raw['schema']}, ours is {SCHEMA}")
    known = {field.name: raw[field.name] for field in fields(Record)}
    known |= {
        "argv": tuple(raw["argv"]),
        "boundary": Boundary(raw["boundary"]),
        "state": TreeState(raw["state"]),
        "reason": EndReason(raw["reason"]) if raw["reason"] else None,
        "gateway": _identity(raw["gateway"]),
        "warden": _identity(raw["warden"]),
        "keeper": _identity(raw["keeper"]) if raw["keeper"] else None,
        "leader": _identity(raw["leader"]) if raw["leader"] else None,
        "leaf": CgroupLeaf(**raw["leaf"]) if raw["leaf"] else None,
        "externals": tuple(decode_external(item) for item in raw["externals"]),
        "census": tuple(_identity(item) for item in raw["census"]),
        "stuck": tuple(Stuck(**item) for item in raw["stuck"]),
    }
    return Record(**known)


def _identity(raw: dict[str, Any]) -> ProcessIdentity:
    """Signals depend on it, so nothing in it is taken on trust."""
    one = ProcessIdentity(**raw)
    numbers = (one.pid, one.start_ticks, 0 if one.inode is None else one.inode)
    if not all(type(number) is int and number >= 0 for number in numbers) or one.pid == 0:
        raise LedgerError(f"{raw} is no process")
    if one.handle is not None and not _HANDLE.fullmatch(one.handle):
        raise LedgerError(f"{one.handle} is no handle of a process")
    return one


def decode_external(raw: dict[str, Any]) -> External:
    """An `External` that came as JSON."""
    environment = tuple((name, value) for name, value in raw["environment"])
    return External(**{**raw, "engine": tuple(raw["engine"]), "environment": environment})
