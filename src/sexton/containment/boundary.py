"""What holds the members of a tree, whatever they do.

A tree is empty when each boundary that holds it says so.  Standard library only.
"""

from __future__ import annotations

from typing import Protocol

from sexton.containment.ledger import Stuck


class Holding(Protocol):
    """One boundary around one tree, seen from the process that keeps it."""

    def kill_all(self) -> tuple[Stuck, ...]:
        """One pass of SIGKILL over all present members; returns those that cannot be signalled, and why.

        Members may fork while it runs: the caller repeats it until `is_empty`.
        """
        ...

    def is_empty(self) -> bool:
        """Whether it is proven that no member is left."""
        ...
