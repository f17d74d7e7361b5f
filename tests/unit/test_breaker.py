"""The breaker: what counts, how long it waits, and that one probe at a time tells whether a server works again."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from properties import scaled
from sexton.mcp_servers.breaker import UNLIMITED, Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(attempts=3, first_wait=1.0, longest_wait=8.0, open_wait=100.0, jitter=0.5)


def breaker() -> Breaker:
    return Breaker(POLICY, chance=lambda: 0.0)


def test_a_failed_start_waits_longer_each_time_and_then_opens() -> None:
    b, now, seen = breaker(), 0.0, []
    for _ in range(4):
        b.starting()
        b.start_failed("no", now)
        seen.append((b.status(now).state, b.status(now).retry_in))
        now += b.status(now).retry_in
    assert seen == [
        (BreakerState.BACKING_OFF, 1.0),
        (BreakerState.BACKING_OFF, 2.0),
        (BreakerState.OPEN, 100.0),
        (BreakerState.OPEN, 100.0),
    ]


def test_the_first_lost_connection_may_be_made_again_at_once_the_second_may_not() -> None:
    b = breaker()
    b.connection_lost("died", 10.0)
    assert b.starts_allowed(10.0) == 1
    b.starting()
    b.started()
    b.connection_lost("died", 11.0)
    assert (b.starts_allowed(11.0), b.status(11.0).retry_in) == (0, 2.0)


def test_a_start_that_works_does_not_forgive_but_an_answered_call_does() -> None:
    b = breaker()
    b.start_failed("no", 0.0)
    b.starting()
    b.started()
    assert b.failures == 1
    b.proved_good()
    assert (b.failures, b.starts_allowed(0.0)) == (0, UNLIMITED)


def test_half_open_lets_one_probe_through_at_a_time() -> None:
    b = breaker()
    b.start_failed("no", 0.0)
    assert b.starts_allowed(1.0) == 1
    b.starting()
    assert (b.starts_allowed(1.0), b.status(1.0).state) == (0, BreakerState.HALF_OPEN)
    b.start_given_up()
    assert b.starts_allowed(1.0) == 1


def test_a_person_may_try_again_at_once() -> None:
    b = breaker()
    for _ in range(3):
        b.start_failed("no", 0.0)
    b.reset()
    assert (b.starts_allowed(0.0), b.status(0.0).state, b.status(0.0).last_error) == (
        UNLIMITED,
        BreakerState.CLOSED,
        None,
    )


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 4.0), (0.5, 3.0), (1.0, 2.0)])
def test_jitter_only_shortens_a_wait(chance: float, wait: float) -> None:
    assert POLICY.wait_after(2, chance=chance) * 2 == wait


class AnyHistory(RuleBasedStateMachine):
    """Starts that work and fail in any order: the breaker never blocks for ever, nor lets a storm through."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = breaker()
        self.under_way = 0

    @rule(seconds=st.floats(0.0, 60.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.starts_allowed(self.now) > 0 and self.under_way < 3)
    @rule()
    def start(self) -> None:
        self.breaker.starting()
        self.under_way += 1

    @precondition(lambda self: self.under_way > 0)
    @rule(end=st.sampled_from(["works", "fails", "given up"]))
    def settle_a_start(self, end: str) -> None:
        self.under_way -= 1
        if end == "works":
            self.breaker.started()
        elif end == "fails":
            self.breaker.start_failed("no", self.now)
            assert self.breaker.starts_allowed(self.now) == 0
        else:
            self.breaker.start_given_up()

    @rule()
    def lose_the_connection(self) -> None:
        self.breaker.connection_lost("died", self.now)

    @rule()
    def answer_a_call(self) -> None:
        self.breaker.proved_good()
        assert self.breaker.starts_allowed(self.now) == UNLIMITED

    @invariant()
    def a_wait_always_ends(self) -> None:
        status = self.breaker.status(self.now)
        assert 0.0 <= status.retry_in <= POLICY.open_wait + 1e-6
        if self.under_way == 0:
            assert self.breaker.starts_allowed(self.now + status.retry_in + 1e-6) >= 1

    @invariant()
    def refusing_shows_in_the_state(self) -> None:
        closed = self.breaker.status(self.now).state is BreakerState.CLOSED
        assert closed == (self.breaker.starts_allowed(self.now) == UNLIMITED)


AnyHistory.TestCase.settings = settings(max_examples=scaled(100), stateful_step_count=40)
TestAnyHistory = AnyHistory.TestCase
