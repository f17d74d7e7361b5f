"""Where a running gateway is: `gateway.json` in the data folder.

The file is a hint, never a lock: after a crash it stays behind, and a reader
must find out whether what it names still lives and answers.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sexton.errors import SextonError
from sexton.whole_file import replace_file

ADDRESS_FILE = "gateway.json"
TOKEN_FILE = "token"  # noqa: S105 a name, not a secret
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One running gateway: `url` without a trailing slash, when it began to serve (aware), and which process it is.

    pid, `start_ticks` (proc_pid_stat(5), field 22) and boot together name a process for good, so that the token is
    never sent to a stranger who was given the pid or the port of a gateway that crashed.  `certificate` is the PEM file
    by which an https URL is known.
    """

    url: str
    pid: int
    start_ticks: int
    boot_id: str
    started_at: datetime
    certificate: str | None = None

    @classmethod
    def of_this_process(cls, url: str, *, started_at: datetime, certificate: str | None = None) -> Address:
        pid = os.getpid()
        return cls(
            url=url,
            pid=pid,
            start_ticks=start_ticks(pid) or 0,
            boot_id=current_boot_id(),
            started_at=started_at,
            certificate=certificate,
        )

    def is_alive(self) -> bool:
        """Whether that very process still exists.  It may be on its way out, or frozen, all the same."""
        return self.boot_id == current_boot_id() and self.start_ticks == (start_ticks(self.pid) or 0)


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is no such process, or no proc(5) to ask."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold blanks and brackets
    return None if fields[0] == b"Z" else int(fields[19])


def current_boot_id() -> str:
    """The kernel's identifier of this boot (proc(5)); empty where the system has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def write_address(data_dir: Path, address: Address) -> None:
    """Publish where the gateway serves, readable by its user only."""
    document = asdict(address) | {"started_at": address.started_at.isoformat()}
    write_private(data_dir / ADDRESS_FILE, json.dumps(document, indent=2) + "\n")


def read_address(data_dir: Path) -> Address | None:
    """What the file says, or None if there is no file or it is not one that we wrote."""
    try:
        document = json.loads((data_dir / ADDRESS_FILE).read_bytes())
        return Address(
            url=str(document["url"]),
            pid=int(document["pid"]),
            start_ticks=int(document["start_ticks"]),
            started_at=datetime.fromisoformat(document["started_at"]),
            boot_id=str(document["boot_id"]),
            certificate=document.get("certificate"),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_address(data_dir: Path, *, pid: int) -> None:
    """Remove the file, unless another gateway has written its own by now."""
    address = read_address(data_dir)
    if address is not None and address.pid == pid and address.is_alive():
        with suppress(OSError):  # a disk that became read-only; a stale file is no obstacle to anybody
            (data_dir / ADDRESS_FILE).unlink()


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; at no moment can another user read it.  Raises `SextonError`."""
    try:
        replace_file(path, text)
    except OSError as error:
        raise SextonError(
            f"{path} cannot be written: {error.strerror or error}.", hint=f"look at the disk: df -h {path.parent}"
        ) from error
