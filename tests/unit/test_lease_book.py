"""The lease book: its invariants under any order of events, and each rule by example."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from properties import scaled
from sexton.mcp_servers.lease_book import (
    Hold,
    LeaseBook,
    NotHeld,
    ProcessId,
    ProcessState,
    ServerIsHeld,
    Steps,
    Terms,
    Ticket,
)

SHARED = Terms()
SERVERS = st.sampled_from(["one", "many"])
POOL_OF_2 = Terms(exclusive=True, max_processes=2, may_start=100)


def start_for(book: LeaseBook, server: str, holder: str, terms: Terms) -> Hold:
    """Have `holder` ask for a server, let it start, and return the lease."""
    ticket = book.ask(server, holder=holder, now=0.0)
    steps = book.settle(server, terms)
    for process in steps.starts:
        book.started(process, now=0.0)
    later = book.settle(server, terms)
    [lease] = [grant.hold for grant in (*steps.grants, *later.grants) if grant.ticket is ticket]
    return lease


def test_two_first_callers_start_one_process() -> None:
    book = LeaseBook()
    book.ask("files", holder="run-1", now=0.0)
    first = book.settle("files", SHARED)
    book.ask("files", holder="run-2", now=0.0)
    second = book.settle("files", SHARED)
    assert (first.starts, second) == ((ProcessId("files", 1),), Steps())

    book.started(ProcessId("files", 1), now=1.0)
    grants = book.settle("files", SHARED).grants
    assert [(grant.hold.holder, str(grant.hold.process)) for grant in grants] == [
        ("run-1", "files#1"),
        ("run-2", "files#1"),
    ]


def test_a_held_process_cannot_be_retired() -> None:
    book = LeaseBook()
    lease = start_for(book, "files", "run-1", SHARED)
    with pytest.raises(ServerIsHeld):
        book.retire(lease.process)
    book.give_back(lease, now=5.0)
    book.retire(lease.process)
    assert book.state(lease.process) is ProcessState.ENDING


def test_a_lease_is_given_back_once_even_when_its_process_was_lost() -> None:
    book = LeaseBook()
    lease = start_for(book, "files", "run-1", SHARED)
    assert book.lost(lease.process) == (lease,)
    book.give_back(lease, now=1.0)
    with pytest.raises(NotHeld):
        book.give_back(lease, now=1.0)


def test_a_lease_of_a_lost_process_does_not_make_its_successor_idle() -> None:
    book = LeaseBook()
    old = start_for(book, "files", "run-1", SHARED)
    book.lost(old.process)
    book.gone(old.process)
    new = start_for(book, "files", "run-2", SHARED)
    book.give_back(old, now=2.0)
    assert book.processes("files")[0].holders == ("run-2",)
    assert new.process == ProcessId("files", 2)


def test_a_new_holder_waits_until_the_end_of_the_old_process_is_proven() -> None:
    book = LeaseBook()
    lease = start_for(book, "files", "run-1", SHARED)
    book.give_back(lease, now=1.0)
    book.retire(lease.process)
    book.ask("files", holder="turn-2", now=2.0)
    assert book.settle("files", SHARED) == Steps()
    book.gone(lease.process)
    assert book.settle("files", SHARED).starts == (ProcessId("files", 2),)


def test_a_draining_process_takes_no_new_holder_and_stops_when_the_last_one_leaves() -> None:
    book = LeaseBook()
    lease = start_for(book, "files", "run-1", SHARED)
    book.drain(lease.process)
    book.ask("files", holder="run-2", now=2.0)
    assert book.settle("files", SHARED) == Steps()
    book.give_back(lease, now=3.0)
    assert book.settle("files", SHARED).stops == (lease.process,)


def test_a_start_goes_on_while_anybody_waits_for_it_and_is_given_up_when_nobody_does() -> None:
    book = LeaseBook()
    first, second = (book.ask("files", holder=holder, now=0.0) for holder in ("run-1", "run-2"))
    [process] = book.settle("files", SHARED).starts
    book.withdraw(first)
    assert book.settle("files", SHARED) == Steps()
    book.withdraw(second)
    assert book.settle("files", SHARED).stops == (process,)


def test_a_server_kept_warm_starts_without_a_holder_and_its_start_is_never_given_up() -> None:
    warm = replace(SHARED, keep_warm=True)
    book = LeaseBook()
    [process] = book.settle("files", warm).starts
    book.withdraw(book.ask("files", holder="run-1", now=0.0))
    assert book.settle("files", warm) == Steps()
    book.started(process, now=1.0)
    assert book.settle("files", warm) == Steps()


def test_who_waits_is_refused_when_nothing_starts_and_nothing_may() -> None:
    book = LeaseBook()
    ticket = book.ask("files", holder="run-1", now=0.0)
    assert book.settle("files", replace(SHARED, may_start=0)).refused == (ticket,)
    assert book.waiting("files") == ()


def test_an_exclusive_server_has_a_process_per_holder_and_no_more_than_its_bound() -> None:
    book = LeaseBook()
    first = start_for(book, "browser", "chat-1", POOL_OF_2)
    second = start_for(book, "browser", "chat-2", POOL_OF_2)
    waits = book.ask("browser", holder="chat-3", now=0.0)
    assert first.process != second.process
    assert book.settle("browser", POOL_OF_2) == Steps()
    assert book.waiting("browser") == (waits,)


def test_an_exclusive_process_is_for_its_first_holder_only() -> None:
    book = LeaseBook()
    lease = start_for(book, "browser", "chat-1", POOL_OF_2)
    book.give_back(lease, now=1.0)
    other = start_for(book, "browser", "chat-2", POOL_OF_2)
    again = start_for(book, "browser", "chat-1", POOL_OF_2)
    assert other.process != lease.process
    assert again.process == lease.process


def test_an_idle_exclusive_process_makes_room_for_another_holder_longest_idle_first() -> None:
    book = LeaseBook()
    leases = [start_for(book, "browser", holder, POOL_OF_2) for holder in ("chat-1", "chat-2")]
    book.give_back(leases[1], now=1.0)
    book.give_back(leases[0], now=2.0)
    book.ask("browser", holder="chat-3", now=3.0)
    assert book.settle("browser", POOL_OF_2).stops == (leases[1].process,)
    assert book.settle("browser", POOL_OF_2) == Steps()


def test_an_exclusive_process_of_a_holder_that_will_not_return_ends_with_its_lease() -> None:
    book = LeaseBook()
    ticket = book.ask("browser", holder="run:1", now=0.0, returns=False)
    [process] = book.settle("browser", POOL_OF_2).starts
    book.started(process, now=0.0)
    [grant] = book.settle("browser", POOL_OF_2).grants
    assert grant.ticket is ticket
    book.give_back(grant.hold, now=1.0)
    assert book.settle("browser", POOL_OF_2).stops == (process,)


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Drives one shared and one exclusive server through events in any order and checks what must always hold."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.now = 0.0
        self.open: dict[Ticket, Hold | None] = {}
        self.owners: dict[ProcessId, set[str]] = {}
        self.asked: dict[str, list[Ticket]] = {"one": [], "many": []}
        self.may_start = {"one": 100, "many": 100}

    @initialize(places=st.integers(1, 3), warm=st.booleans())
    def make_terms(self, places: int, warm: bool) -> None:
        self.terms = {
            "one": Terms(keep_warm=warm, may_start=100),
            "many": Terms(exclusive=True, max_processes=places, keep_warm=warm, may_start=100),
        }

    def settle(self, server: str) -> None:
        terms = replace(self.terms[server], may_start=self.may_start[server])
        queue_before = self.book.waiting(server)
        steps = self.book.settle(server, terms)
        for grant in steps.grants:
            assert self.open[grant.ticket] is None
            self.open[grant.ticket] = grant.hold
        self.check_fairness(queue_before, steps)
        for grant in steps.grants:
            self.owners.setdefault(grant.hold.process, set()).add(grant.ticket.holder)
        for ticket in steps.refused:
            assert self.may_start[server] == 0
            del self.open[ticket]
        begun = replace(terms, may_start=terms.may_start - len(steps.starts))  # the breaker counts them
        again = self.book.settle(server, begun)
        assert again == Steps(), "settling twice does nothing new"
        self.check_progress(server, terms)

    def check_fairness(self, queue_before: tuple[Ticket, ...], steps: Steps) -> None:
        """Nobody overtakes, but into a process that is theirs already."""
        granted = {grant.ticket: grant.hold.process for grant in steps.grants}
        theirs = {(process, holder) for process, holders in self.owners.items() for holder in holders}
        passed_over = False
        for ticket in queue_before:
            if (process := granted.get(ticket)) is None:
                passed_over = True
            elif passed_over:
                assert (process, ticket.holder) in theirs
            else:
                theirs.add((process, ticket.holder))

    def check_progress(self, server: str, terms: Terms) -> None:
        """Nobody waits for ever: a process is coming or going, or all places are held."""
        if self.book.waiting(server):
            states = [process.state for process in self.book.processes(server)]
            moving = {ProcessState.STARTING, ProcessState.ENDING, ProcessState.DRAINING} & set(states)
            held = [process for process in self.book.processes(server) if process.holders]
            assert moving or len(held) == terms.places

    @rule(target=tickets, server=SERVERS, holder=st.sampled_from("abcd"), returns=st.booleans())
    def ask(self, server: str, holder: str, returns: bool) -> Ticket:
        ticket = self.book.ask(server, holder=holder, now=self.now, returns=returns)
        self.open[ticket] = None
        self.settle(server)
        return ticket

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        """The holder goes: withdraws while it waits, gives back once it was granted, nothing when refused."""
        if ticket not in self.open:
            with pytest.raises(NotHeld):
                self.book.withdraw(ticket)
            return
        lease = self.open.pop(ticket)
        if lease is None:
            self.book.withdraw(ticket)
        else:
            self.book.give_back(lease, now=self.now)
            with pytest.raises(NotHeld):
                self.book.give_back(lease, now=self.now)
        self.settle(ticket.server)

    def any_in(self, *states: ProcessState) -> list[ProcessId]:
        return [process.id for process in self.book.processes() if process.state in states]

    @precondition(lambda self: self.any_in(ProcessState.STARTING))
    @rule(data=st.data(), works=st.booleans())
    def finish_a_start(self, data: st.DataObject, works: bool) -> None:
        process = data.draw(st.sampled_from(self.any_in(ProcessState.STARTING)))
        if works:
            self.book.started(process, now=self.now)
        else:
            self.book.lost(process)
        self.settle(process.server)

    @precondition(lambda self: self.any_in(ProcessState.READY, ProcessState.DRAINING))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.any_in(ProcessState.READY, ProcessState.DRAINING)))
        self.book.lost(process)
        self.settle(process.server)

    @precondition(lambda self: self.any_in(ProcessState.ENDING))
    @rule(data=st.data())
    def prove_gone(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.any_in(ProcessState.ENDING)))
        self.book.gone(process)
        self.settle(process.server)

    @precondition(lambda self: self.any_in(ProcessState.READY))
    @rule(data=st.data(), drain=st.booleans())
    def retire_or_drain(self, data: st.DataObject, drain: bool) -> None:
        process = data.draw(st.sampled_from(self.any_in(ProcessState.READY)))
        [use] = [use for use in self.book.processes() if use.id == process]
        if drain:
            self.book.drain(process)
        elif use.holders:
            with pytest.raises(ServerIsHeld):
                self.book.retire(process)
        else:
            self.book.retire(process)
        self.settle(process.server)

    @rule(server=SERVERS, allowed=st.sampled_from([0, 1, 100]))
    def breaker_changes(self, server: str, allowed: int) -> None:
        self.may_start[server] = allowed
        self.settle(server)

    @rule(seconds=st.floats(0.0, 10.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def held_or_idle_never_both(self) -> None:
        for process in self.book.processes():
            assert (process.idle_since is None) == bool(process.holders) or process.state is not ProcessState.READY
            assert not process.holders or process.state in {ProcessState.READY, ProcessState.DRAINING}

    @invariant()
    def the_book_agrees_with_its_leases(self) -> None:
        held = [lease for lease in self.open.values() if lease is not None and self.book.is_held(lease)]
        by_process = sorted((str(lease.process), lease.holder) for lease in held)
        assert by_process == sorted((str(p.id), holder) for p in self.book.processes() for holder in p.holders)

    @invariant()
    def never_more_processes_than_places(self) -> None:
        assert len(self.book.processes("one")) <= 1
        if hasattr(self, "terms"):
            assert len(self.book.processes("many")) <= self.terms["many"].places

    @invariant()
    def an_exclusive_process_serves_one_holder_in_its_life(self) -> None:
        assert all(len(holders) == 1 for process, holders in self.owners.items() if process.server == "many")


AnyOrderOfEvents.TestCase.settings = settings(max_examples=scaled(120), stateful_step_count=40)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
