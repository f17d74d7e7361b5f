"""Every way down the ladder ends, and only a proof leads to its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.containment.stop_ladder import Event, Ladder, Step, StopTimes

TIMES = StopTimes(
    stdin_grace=2, term_grace=3, leader_exit_grace=0.2, orphaned_stdin_grace=0.5, orphaned_term_grace=0.4, stuck_after=9
)


def after(*events: Event, now: float = 100.0) -> Ladder:
    ladder = Ladder(times=TIMES)
    for event in events:
        ladder = ladder.on(event, now=now)
    return ladder


@pytest.mark.parametrize(
    ("events", "step", "grace"),
    [
        ((), Step.RUNNING, None),
        ((Event.RELEASE,), Step.STDIN_CLOSED, 2),
        ((Event.RELEASE, Event.RELEASE), Step.STDIN_CLOSED, 2),
        ((Event.RELEASE, Event.TIMEOUT), Step.TERM_SENT, 3),
        ((Event.RELEASE, Event.TIMEOUT, Event.TIMEOUT), Step.KILLING, 9),
        ((Event.RELEASE, Event.TIMEOUT, Event.TIMEOUT, Event.TIMEOUT), Step.STUCK, None),
        ((Event.RELEASE, Event.TIMEOUT, Event.TIMEOUT, Event.TIMEOUT, Event.EMPTY), Step.GONE, None),
        ((Event.TERMINATE,), Step.TERM_SENT, 3),
        ((Event.KILL,), Step.KILLING, 9),
        ((Event.RELEASE, Event.KILL), Step.KILLING, 9),
        ((Event.LEADER_EXIT,), Step.COURTESY, 0.2),
        ((Event.RELEASE, Event.LEADER_EXIT), Step.COURTESY, 0.2),
        ((Event.LEADER_EXIT, Event.TIMEOUT), Step.KILLING, 9),
        ((Event.LEADER_EXIT, Event.RELEASE), Step.COURTESY, 0.2),
        ((Event.LEADER_EXIT, Event.EMPTY), Step.GONE, None),
    ],
)
def test_each_event_leads_to_the_step_that_it_should(
    events: tuple[Event, ...], step: Step, grace: float | None
) -> None:
    ladder = after(*events)
    assert ladder.step is step
    assert ladder.deadline == (None if grace is None else 100 + grace)


def test_a_second_release_does_not_lengthen_the_first() -> None:
    first = Ladder(times=TIMES).on(Event.RELEASE, now=10)
    assert first.on(Event.RELEASE, now=11) == first


def test_when_the_gateway_dies_the_step_under_way_is_shortened() -> None:
    ladder = Ladder(times=TIMES).on(Event.RELEASE, now=10).hurry(now=10.1)
    assert ladder.deadline == pytest.approx(10.6)
    assert ladder.on(Event.TIMEOUT, now=10.6).deadline == pytest.approx(11)


def test_hurrying_never_lengthens_a_step() -> None:
    nearly_over = Ladder(times=TIMES).on(Event.RELEASE, now=10)
    assert nearly_over.hurry(now=11.9).deadline == 12


def test_a_grace_of_zero_is_over_at_once() -> None:
    assert Ladder(times=StopTimes(stdin_grace=0)).on(Event.RELEASE, now=5).is_due(5)


@given(st.lists(st.sampled_from(sorted(Event))))
def test_nothing_but_the_proof_ends_it_and_time_alone_leads_to_the_killing(events: list[Event]) -> None:
    ladder = after(*events)
    if ladder.step is Step.GONE:
        assert Event.EMPTY in events
    elif ladder.has_begun:
        for _ in range(3):
            ladder = ladder.on(Event.TIMEOUT, now=100)
        assert ladder.is_killing
        assert ladder.on(Event.EMPTY, now=100).step is Step.GONE
