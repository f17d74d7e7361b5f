"""What brings waiting runs to the nodes that work them.

Slots, rows and limits are the planner's (see `tick`).  An engine only
distributes: which gateway has a run, since when, and under which fence stands
in the run's row and nowhere else, so that an engine which offers a run twice,
late or to the dead does no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import anyio
import anyio.abc
from sqlalchemy import Connection

from sexton.scheduler.claim import Claim, Claimer
from sexton.scheduler.job import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """What became of waiting runs: claimed here at once, or ended because they waited for too long."""

    claims: tuple[Claim, ...] = ()
    late: tuple[Run, ...] = ()


Take: TypeAlias = Callable[[str], Awaitable[bool]]
"""Told the id of a run that is offered to this node.  True: it is over, or not ours; False: offer it again, later."""


class Engine(Protocol):
    """Distributes the waiting runs of one database.  `distribute`, `abort` and `mend` act within the transaction that
    they are given."""

    def distribute(self, connection: Connection, claimer: Claimer) -> Distributed:
        """See to the runs that may start now: part of the transaction that recorded their slots."""
        ...

    def abort(self, connection: Connection, run_ids: Sequence[str]) -> None:
        """Let the nodes that work these runs know soon that they are to end; the wish itself stands in their rows."""
        ...

    def mend(self, connection: Connection, claimer: Claimer) -> Distributed:
        """Offer again what was offered to a node that is gone, and end what waited for too long."""
        ...

    async def work(
        self,
        take: Take,
        *,
        wake: Callable[[], None],
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Offer runs to `take` until cancelled; `wake` is called when one of them is to be aborted."""
        ...

    def pause(self) -> None:
        """Offer nothing more here, until `resume`."""
        ...

    def resume(self) -> None: ...
