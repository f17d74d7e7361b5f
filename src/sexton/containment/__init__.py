"""Processes that cannot outlive their owner.

`Containment.start` is the only way to start a process.  It returns a `ProcessTree`; leaving that, by return, error or
cancellation, stops every member of the tree and does not end before the tree is proven empty.  Losing it, or losing
this whole process, stops them too.  What the processes are for is the business of the layers above.
"""

from __future__ import annotations

from sexton.containment.containment import Containment
from sexton.containment.containment_errors import ContainmentError, SpawnFailed, TreeStuck
from sexton.containment.doctor import DoctorReport, Guarantee, Level, examine
from sexton.containment.ledger import External, Record, Stuck
from sexton.containment.progress import TreeEnd
from sexton.containment.recovery import (
    RecoveryReport,
    TreeRecovery,
    Unfollowed,
    last_recovery,
    list_live,
    list_orphans,
    list_unfollowed,
    recover,
)
from sexton.containment.spec import DEFAULT_INHERITED_ENV, Limits, ProcessSpec, StopTimes
from sexton.containment.sweep import SweepReport
from sexton.containment.tree import ProcessTree
from sexton.containment.tree_state import Boundary, EndReason, TreeState
from sexton.containment.tree_status import TreeStatus

__all__ = [
    "DEFAULT_INHERITED_ENV",
    "Boundary",
    "Containment",
    "ContainmentError",
    "DoctorReport",
    "EndReason",
    "External",
    "Guarantee",
    "Level",
    "Limits",
    "ProcessSpec",
    "ProcessTree",
    "Record",
    "RecoveryReport",
    "SpawnFailed",
    "StopTimes",
    "Stuck",
    "SweepReport",
    "TreeEnd",
    "TreeRecovery",
    "TreeState",
    "TreeStatus",
    "TreeStuck",
    "Unfollowed",
    "examine",
    "last_recovery",
    "list_live",
    "list_orphans",
    "list_unfollowed",
    "recover",
]
