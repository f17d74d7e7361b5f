"""A keeper's own record in the ledger, kept true while its tree lives.  Standard library only."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sexton.containment import identity, ledger
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import Record
from sexton.containment.order import Order
from sexton.containment.subreaper_boundary import Descent
from sexton.containment.tree_state import Boundary, TreeState

_CENSUS_FIRST = 0.1
_CENSUS_EVERY = {Boundary.CGROUP: 10.0, Boundary.SUBREAPER: 2.0}
"""Seconds.  Recovery ends a leaf whole, and needs the census only for who left it; else the census is all it has."""
_CENSUS_SHARE = 100
"""A census may take one part in this many of a keeper's time: a large tree is counted less often."""


class RecordBook:
    """The record of one tree.  A full disk costs the record, never the tree."""

    def __init__(self, folder: str, record: Record, descent: Descent) -> None:
        self.record = record
        self.census_due = time.monotonic() + _CENSUS_FIRST
        self._folder = folder
        self._descent = descent
        self._interval = _CENSUS_FIRST
        self._is_broken = False

    def enter(self, **changes: Any) -> None:
        """Change the record, here and on disk."""
        self.record = replace(self.record, **changes)
        try:
            ledger.write(self._folder, self.record)
        except OSError as error:
            self._complain(error)

    def take_census(self) -> None:
        """Count the members, and write them down if they have changed."""
        began = time.monotonic()
        census = self._descent.census()
        if census != self.record.census:
            self.enter(census=census)
        now = time.monotonic()
        self._interval = min(self._interval * 2, _CENSUS_EVERY[self.record.boundary])
        self.census_due = now + max(self._interval, (now - began) * _CENSUS_SHARE)

    def close(self) -> None:
        """The tree is proven empty: forget it, unless a container that it started has to be removed yet."""
        if self.record.externals:
            self.enter(state=TreeState.EXTERNAL_PENDING, census=(), leaf=None)
        else:
            self.forget()

    def forget(self) -> None:
        """Nothing is left of the tree anywhere."""
        ledger.remove(self._folder, self.record.tree)

    def _complain(self, error: OSError) -> None:
        if not self._is_broken:
            self._is_broken = True
            with suppress(OSError):  # our stderr is a file on the same disk
                sys.stderr.write(f"keeper of {self.record.tree}: the ledger cannot be written: {error}\n")


def first_record(order: Order, warden: ProcessIdentity) -> Record:
    """What is known of a tree before it has any process but its keeper."""
    return Record(
        tree=order.tree,
        instance=order.instance,
        boot_id=order.boot_id,
        pid_namespace=identity.pid_namespace(),
        cookie=order.cookie,
        name=order.name,
        owner=order.owner,
        uid=os.getuid(),
        argv=ledger.redact(order.argv),
        cwd=order.cwd,
        boundary=order.boundary,
        state=TreeState.SPAWNING,
        reason=None,
        started_at=order.started_at,
        deadline=None if order.ttl is None else time.time() + order.ttl,
        gateway=order.gateway,
        warden=warden,
        keeper=identity.identify(os.getpid()),
        leader=None,
        leaf=None,
        externals=order.externals,
        census=(),
        stuck=(),
        home=ledger.home_of(),
    )
