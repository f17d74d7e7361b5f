"""One opened containment, as the records of its trees know it."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sexton.containment import identity, ledger
from sexton.containment.containment_errors import ContainmentError
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import LedgerError, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """`ledger_folder` holds the records of its live trees, `cid_folder` the ids of the containers that they start."""

    id: str
    state_dir: Path
    boot_id: str
    gateway: ProcessIdentity
    ledger_folder: Path
    cid_folder: Path

    @classmethod
    def create(cls, state_dir: Path) -> Self:
        """Make a folder of its own in the ledger.

        Raises:
            ContainmentError: not on this system, or not in that folder.
        """
        if sys.platform != "linux":
            raise ContainmentError(
                f"Processes cannot be contained on {sys.platform}: that takes the Linux kernel.",
                hint="on Windows run sexton in WSL2, elsewhere in a Linux virtual machine or container",
            )
        gateway = _who_am_i()
        name = secrets.token_hex(6)
        state_dir = state_dir.absolute()
        folder = Path(ledger.instance_folder(state_dir, name))
        cids = Path(ledger.cid_folder(str(folder)))
        try:
            cids.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ContainmentError(
                f"The folder for the records of running processes cannot be made: {error}.",
                hint=f"make {state_dir} writable, or choose another folder with --data",
            ) from error
        return cls(
            id=name,
            state_dir=state_dir,
            boot_id=identity.boot_id(),
            gateway=gateway,
            ledger_folder=folder,
            cid_folder=cids,
        )

    def records(self) -> list[Record]:
        """The records of its live trees; one that cannot be read is left to recovery."""
        found = []
        for path in ledger.record_paths(str(self.ledger_folder)):
            with suppress(FileNotFoundError, LedgerError):
                found.append(ledger.read(path))
        return found

    def remove_folders(self) -> None:
        """Only what is empty: a tree that is stuck, or a container that is left, keeps its record."""
        for folder in (self.cid_folder, self.ledger_folder):
            with suppress(OSError):
                folder.rmdir()


def _who_am_i() -> ProcessIdentity:
    """Raises ContainmentError where a process cannot be told from a later one with its pid."""
    try:
        gateway = identity.identify(os.getpid())
    except OSError as error:
        raise ContainmentError(
            f"Processes cannot be contained here: the kernel refuses pidfd_open(2) ({error.strerror}).",
            hint="use Linux 5.3 or newer, and allow that call where a container's seccomp profile forbids it",
        ) from error
    if gateway is None:
        raise ContainmentError("This process is not in its own /proc.", hint="mount /proc for this PID namespace")
    return gateway
