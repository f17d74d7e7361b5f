"""The server that writes down who asked it what, as the tests of jobs and chats use it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("witness_server.py")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A call that came, or the cancellation of one."""

    pid: int
    what: str
    tool: str
    key: str


@dataclass(frozen=True)
class Witness:
    """One such server of a gateway; all its processes, one after the other, write to one file."""

    name: str
    file: Path

    def settings(self, **more: Any) -> str:
        """Its part of the gateway's settings."""
        lines = {
            "command": sys.executable,
            "args": ["-I", "-S", str(PROGRAM), str(self.file)],
            "approvals": "never",
            **more,
        }
        return f"[servers.{self.name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())

    def entries(self, what: str) -> list[Entry]:
        """What it has seen until now."""
        written = self.file.read_text().rpartition("\n")[0] if self.file.exists() else ""
        entries = [Entry(**json.loads(line)) for line in written.splitlines()]
        return [entry for entry in entries if entry.what == what]

    def calls(self) -> Counter[str]:
        """How often each key came."""
        return Counter(entry.key for entry in self.entries("called"))
