"""Where a run may work, and what a node offers (pure)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sexton.scheduler.job import Job

SERVER = "server:"
ANYWHERE = "anywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a run asks of the node that works it: a name, labels, MCP servers.  Nothing: any node will do."""

    node: str | None = None
    labels: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """The same for equal needs, and for a person: `node=a labels=browser,gpu servers=notes`."""
        parts = [f"node={self.node}"] if self.node else []
        parts += [
            f"{name}={','.join(sorted(names))}"
            for name, names in (("labels", self.labels), ("servers", self.servers))
            if names
        ]
        return " ".join(parts) or ANYWHERE

    @property
    def queue(self) -> str:
        """A name for what waits with this need, short enough for a channel of PostgreSQL (63 bytes, with a prefix)."""
        if self == Need():
            return ANYWHERE
        return f"need-{hashlib.sha256(self.document.encode()).hexdigest()[:16]}"

    @property
    def document(self) -> str:
        """As it is kept in the database."""
        return json.dumps({"node": self.node, "labels": sorted(self.labels), "servers": sorted(self.servers)})

    @classmethod
    def of_document(cls, written: str) -> Need:
        read = json.loads(written)
        return cls(node=read["node"], labels=frozenset(read["labels"]), servers=frozenset(read["servers"]))


def need_of(job: Job) -> Need:
    servers = (name.removeprefix(SERVER) for name in job.resources if name.startswith(SERVER))
    return Need(node=job.node, labels=frozenset(job.labels), servers=frozenset(servers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one node has to give.  `servers` is asked each time: a reload changes them."""

    name: str
    labels: frozenset[str] = frozenset()
    servers: Callable[[], Iterable[str]] | None = None
    """None: whatever a job names is tried here."""

    def covers(self, need: Need) -> bool:
        if need.node not in {None, self.name} or not need.labels <= self.labels:
            return False
        return self.servers is None or need.servers <= frozenset(self.servers())
