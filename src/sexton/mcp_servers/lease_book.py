"""Who holds which process of which server, who waits, and what has to happen next (pure).

The book is told what happened (`ask`, `give_back`, `started`, `lost`, …) and
`settle` answers with what to do about it.  It starts and stops nothing itself:
that is the pool's part.  All times are readings of one monotonic clock, in
seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import final


class ProcessState(StrEnum):
    """What a process of a server is doing, as far as its use is concerned."""

    STARTING = "starting"
    """Not ready yet, so held by nobody."""
    READY = "ready"
    """Held, or idle."""
    DRAINING = "draining"
    """Still held, but takes no new holders and ends when the last one has given it back."""
    ENDING = "ending"
    """Held by nobody; its end is not proven yet, so it still takes up its place."""


@dataclass(frozen=True, slots=True, order=True)
class ProcessId:
    """One process of one server; serials are never used twice."""

    server: str
    serial: int

    def __str__(self) -> str:
        return f"{self.server}#{self.serial}"


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place in the queue for one server.  Two tickets are never equal.

    `returns` says whether this holder may come back later: an exclusive
    process waits for such a holder and ends at once after any other.
    """

    server: str
    holder: str
    asked_at: float
    returns: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """One lease on one process, from when it is granted until it is given back.  Two holds are never equal."""

    process: ProcessId
    ticket: Ticket

    @property
    def holder(self) -> str:
        return self.ticket.holder


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket's wait is over."""

    ticket: Ticket
    hold: Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What `settle` has to keep to for one server.

    A shared server has one process at a time, never two: its successor may
    need the port or the database lock that it still holds.  `may_start` is how
    many starts its breaker allows now.
    """

    exclusive: bool = False
    max_processes: int = 1
    keep_warm: bool = False
    may_start: int = 1

    @property
    def places(self) -> int:
        return self.max_processes if self.exclusive else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What has to happen now; the book has already recorded it."""

    grants: tuple[Grant, ...] = ()
    starts: tuple[ProcessId, ...] = ()
    stops: tuple[ProcessId, ...] = ()
    refused: tuple[Ticket, ...] = ()
    """Tickets taken out of the queue, because no process is coming and none may be started."""


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process as the book sees it."""

    id: ProcessId
    state: ProcessState
    holders: tuple[str, ...]
    owner: str | None
    idle_since: float | None


class ServerIsHeld(Exception):
    """Only an idle process can be retired."""


class NotHeld(Exception):
    """The hold was given back before, or the ticket is not in the queue."""


@dataclass(slots=True, eq=False)
class _Process:
    id: ProcessId
    state: ProcessState = ProcessState.STARTING
    holds: dict[Hold, None] = field(default_factory=dict)  # in the order in which they were granted
    owner: str | None = None  # of an exclusive process: the one holder it serves in its life
    owner_returns: bool = False
    idle_since: float | None = None

    @property
    def idle(self) -> bool:
        return self.state is ProcessState.READY and not self.holds

    def use(self) -> ProcessUse:
        return ProcessUse(self.id, self.state, tuple(hold.holder for hold in self.holds), self.owner, self.idle_since)

    def is_open_to(self, holder: str, terms: Terms) -> bool:
        return self.state is ProcessState.READY and (not terms.exclusive or self.owner in {None, holder})


@final
class LeaseBook:
    """Who holds which process.  Pure, so nothing can happen between asking and acting.

    Always true:
        1. A process that is ready is held or idle, never both (idle: no holders).
        2. Only an idle process can be retired; after that nothing can hold it.
           (`lost` is for one that ends whatever its holders want: it makes their holds void.)
        3. A hold is given back exactly once, and a ticket ends exactly once: granted, refused or withdrawn.
        4. A shared server has at most one process, counting those that are starting or ending.
        5. An exclusive process serves one holder in its life, and there are at most `max_processes`.
        6. Who asked first is served first, except that nobody waits for a process that is theirs already.
    """

    def __init__(self) -> None:
        self._processes: dict[ProcessId, _Process] = {}
        self._queues: dict[str, list[Ticket]] = {}
        self._out: set[Hold] = set()
        self._last_serial: dict[str, int] = {}

    # What happened

    def ask(self, server: str, *, holder: str, now: float, returns: bool = True) -> Ticket:
        """Put `holder` into the queue for `server`."""
        ticket = Ticket(server, holder, now, returns)
        self._queues.setdefault(server, []).append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Take a waiting ticket out of the queue.  Raises NotHeld when its wait is over already."""
        queue = self._queues.get(ticket.server, [])
        if ticket not in queue:
            raise NotHeld(ticket)
        queue.remove(ticket)

    def give_back(self, hold: Hold, *, now: float) -> bool:
        """End the hold; also right when its process was lost meanwhile.  Raises NotHeld the second time.

        Return whether its process is idle now.
        """
        if hold not in self._out:
            raise NotHeld(hold)
        self._out.remove(hold)
        process = self._processes.get(hold.process)
        if process is None or hold not in process.holds:
            return False
        del process.holds[hold]
        process.owner_returns = process.owner_returns or hold.ticket.returns
        process.idle_since = None if process.holds else now
        return process.idle

    def farewell(self, server: str, holder: str) -> None:
        """`holder` will not come back: an exclusive process that waits for it need not."""
        for entry in self._of(server):
            if entry.owner == holder:
                entry.owner_returns = False

    def started(self, process: ProcessId, *, now: float) -> None:
        """A process that `settle` asked for is ready for holders."""
        entry = self._processes[process]
        _expect(entry, ProcessState.STARTING)
        entry.state = ProcessState.READY
        entry.idle_since = now

    def retire(self, process: ProcessId) -> None:
        """Take an idle process out of use, so that it can be stopped.  Raises ServerIsHeld."""
        entry = self._processes[process]
        if entry.holds:
            raise ServerIsHeld(process, [hold.holder for hold in entry.holds])
        entry.state = ProcessState.ENDING
        entry.idle_since = None

    def drain(self, process: ProcessId) -> None:
        """Let no new holder on; `settle` stops it as soon as nobody holds it."""
        entry = self._processes[process]
        if entry.state is ProcessState.READY:
            entry.state = ProcessState.DRAINING

    def lost(self, process: ProcessId) -> tuple[Hold, ...]:
        """The process ends whoever holds it: it died, or its holders had their time.  Returns the void holds."""
        entry = self._processes[process]
        void = tuple(entry.holds)
        entry.holds.clear()
        entry.state = ProcessState.ENDING
        entry.idle_since = None
        return void

    def gone(self, process: ProcessId) -> None:
        """The end of a process is proven; its place is free."""
        _expect(self._processes[process], ProcessState.ENDING)
        del self._processes[process]

    # What to do about it

    def settle(self, server: str, terms: Terms) -> Steps:
        """Serve who can be served, and say what to start and to stop for the others."""
        stops = self._stop_unwanted(server, terms)
        grants = self._grant(server, terms)
        wanted = len(self._waiting_holders(server)) + self._missing_warm(server, terms)
        starts = self._start(server, terms, wanted)
        stops += self._stop_surplus_starts(server, wanted)
        stops += self._make_room(server, terms)
        refused = self._refuse(server, terms)
        return Steps(grants=grants, starts=starts, stops=stops, refused=refused)

    # What is the case

    def processes(self, server: str | None = None) -> tuple[ProcessUse, ...]:
        """Every process that takes up a place, of one server or of all, oldest first."""
        return tuple(entry.use() for entry in self._processes.values() if server is None or entry.id.server == server)

    def use(self, process: ProcessId) -> ProcessUse | None:
        """Return one process, or None when it is gone."""
        entry = self._processes.get(process)
        return None if entry is None else entry.use()

    def state(self, process: ProcessId) -> ProcessState | None:
        """Return the state of a process, or None when it is gone."""
        entry = self._processes.get(process)
        return None if entry is None else entry.state

    def waiting(self, server: str) -> tuple[Ticket, ...]:
        """Who waits for `server`, first come first."""
        return tuple(self._queues.get(server, ()))

    def is_held(self, hold: Hold) -> bool:
        """Say whether the hold was not given back yet and its process still serves it."""
        entry = self._processes.get(hold.process)
        return entry is not None and hold in entry.holds

    def without_prospect(self, server: str, terms: Terms) -> tuple[Ticket, ...]:
        """Who waits for a place or for a stop: no process that is starting now will be theirs."""
        starting = len(self._in_state(server, ProcessState.STARTING))
        if starting and not terms.exclusive:
            return ()
        served_soon = set(list(self._waiting_holders(server))[:starting])
        return tuple(ticket for ticket in self.waiting(server) if ticket.holder not in served_soon)

    # The parts of settle

    def _stop_unwanted(self, server: str, terms: Terms) -> tuple[ProcessId, ...]:
        """Stop what drains and is held no more, and exclusive processes whose one holder will not come back."""
        return self._stop(
            entry
            for entry in self._of(server)
            if not entry.holds
            and (
                entry.state is ProcessState.DRAINING
                or (terms.exclusive and entry.idle and entry.owner is not None and not entry.owner_returns)
            )
        )

    def _grant(self, server: str, terms: Terms) -> tuple[Grant, ...]:
        queue = self._queues.get(server, [])
        grants = []
        for ticket in tuple(queue):
            if (process := self._process_for(ticket, terms)) is not None:
                queue.remove(ticket)
                grants.append(Grant(ticket, self._hand_out(process, ticket, terms)))
        return tuple(grants)

    def _process_for(self, ticket: Ticket, terms: Terms) -> _Process | None:
        usable = [entry for entry in self._of(ticket.server) if entry.is_open_to(ticket.holder, terms)]
        own = [entry for entry in usable if entry.owner == ticket.holder]
        return next(iter(own or usable), None)

    def _hand_out(self, process: _Process, ticket: Ticket, terms: Terms) -> Hold:
        hold = Hold(process.id, ticket)
        process.holds[hold] = None
        process.idle_since = None
        process.owner_returns = False
        if terms.exclusive:
            process.owner = ticket.holder
        self._out.add(hold)
        return hold

    def _start(self, server: str, terms: Terms, wanted: int) -> tuple[ProcessId, ...]:
        missing = wanted - len(self._in_state(server, ProcessState.STARTING))
        free = terms.places - len(list(self._of(server)))
        return tuple(self._new_process(server) for _ in range(min(missing, free, terms.may_start)))

    def _new_process(self, server: str) -> ProcessId:
        serial = self._last_serial[server] = self._last_serial.get(server, 0) + 1
        process = ProcessId(server, serial)
        self._processes[process] = _Process(process)
        return process

    def _stop_surplus_starts(self, server: str, wanted: int) -> tuple[ProcessId, ...]:
        """Nobody waits for these starts any more: the newest ones are given up."""
        return self._stop(self._in_state(server, ProcessState.STARTING)[wanted:])

    def _make_room(self, server: str, terms: Terms) -> tuple[ProcessId, ...]:
        """End idle processes that wait for their holder's return, longest idle first, for those who wait for one."""
        if terms.may_start <= 0:
            return ()
        coming = len(self._in_state(server, ProcessState.STARTING)) + len(self._in_state(server, ProcessState.ENDING))
        free = max(0, terms.places - len(list(self._of(server))))
        lacking = max(0, len(self._waiting_holders(server)) - coming - free)
        idle = sorted((entry for entry in self._of(server) if entry.idle), key=lambda entry: entry.idle_since or 0.0)
        return self._stop(idle[:lacking])

    def _refuse(self, server: str, terms: Terms) -> tuple[Ticket, ...]:
        if terms.may_start > 0 or self._in_state(server, ProcessState.STARTING):
            return ()
        refused = self.waiting(server)
        self._queues.pop(server, None)
        return refused

    def _missing_warm(self, server: str, terms: Terms) -> int:
        ready = self._in_state(server, ProcessState.READY)
        warm = any(not terms.exclusive or entry.owner is None for entry in ready)
        return int(terms.keep_warm and not warm)

    def _stop(self, entries: Iterable[_Process]) -> tuple[ProcessId, ...]:
        stopped = tuple(entry.id for entry in entries)
        for process in stopped:
            self.retire(process)
        return stopped

    def _waiting_holders(self, server: str) -> dict[str, None]:
        """Each holder that waits, once, in the order of their first ticket."""
        return dict.fromkeys(ticket.holder for ticket in self._queues.get(server, ()))

    def _in_state(self, server: str, state: ProcessState) -> list[_Process]:
        return [entry for entry in self._of(server) if entry.state is state]

    def _of(self, server: str) -> Iterator[_Process]:
        return (entry for entry in tuple(self._processes.values()) if entry.id.server == server)


def _expect(entry: _Process, state: ProcessState) -> None:
    if entry.state is not state:
        raise ValueError(f"{entry.id} is {entry.state}, not {state}")
