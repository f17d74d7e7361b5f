"""`[node]`: this machine among others on the same database."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from sexton.daemon.settings_file import Count, StrictTable, Text, read_table
from sexton.daemon.settings_findings import Findings


class NodeTable(StrictTable):
    """`[node]`"""

    name: Text | None = None
    labels: list[Text] = Field(default_factory=list)
    capacity: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """`name` is the host's unless the file says another; `capacity` is how many runs it works at a
    time; None: `concurrency`."""

    name: str
    labels: frozenset[str]
    capacity: int | None


def read_node(findings: Findings, raw: Any) -> NodeSettings:
    """What the file says; everything that is wrong goes to `findings`."""
    table, wrong = read_table(NodeTable, raw if isinstance(raw, dict) else {})
    findings.note(("node",), wrong)
    name = table.name or socket.gethostname()
    if table.name is not None and (len(name) > 255 or not name.isprintable()):
        findings.problem(("node", "name"), "must be 1 to 255 printable characters")
    return NodeSettings(name=name, labels=frozenset(table.labels), capacity=table.capacity)
