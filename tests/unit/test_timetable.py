"""From a schedule to its slots: cron across changes of the clocks, intervals that do not drift, jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import debian_cron
from properties import scaled
from sexton.errors import UsageError
from sexton.scheduler import timetable
from sexton.scheduler.job import At, Cron, Every, Job, Schedule

AMSTERDAM = "Europe/Amsterdam"  # gap 2026-03-29 02:00 to 03:00, fold 2026-10-25 03:00 to 02:00
LORD_HOWE = "Australia/Lord_Howe"  # gap 2026-10-04 02:00 to 02:30, fold 2026-04-05 02:00 to 01:30
SANTIAGO = "America/Santiago"  # gap 2026-09-06 00:00 to 01:00, fold 2026-04-05 00:00 to 23:00 of the day before
HAVANA = "America/Havana"  # gap 2026-03-08 00:00 to 01:00, fold 2026-11-01 01:00 to 00:00
TROLL = "Antarctica/Troll"  # gap 2026-03-29 01:00 to 03:00, fold 2026-10-25 03:00 to 01:00
ZONES = (AMSTERDAM, LORD_HOWE, SANTIAGO, HAVANA, TROLL, "America/New_York", "Africa/Casablanca", "Asia/Beirut", "UTC")

EVEN_HALVES_IN_A_GAP = " ".join([f"{hour:02}:30+0{1 + (hour > 2)}00" for hour in range(0, 24, 2) if hour != 2])
HOURS_IN_A_GAP = " ".join([f"{hour:02}:00+0{1 + (hour > 2)}00" for hour in range(24) if hour != 2])
QUARTERS_IN_A_FOLD = " ".join(
    [f"{hour:02}:15+0200" for hour in (0, 1, 2)] + [f"{hour:02}:15+0100" for hour in range(2, 24)]
)


def starts(expression: str, timezone: str, day: str, *, days: int = 1) -> list[str]:
    """Local times, with offset, of the slots of `days` local days."""
    zone = ZoneInfo(timezone)
    first = datetime.fromisoformat(day).replace(tzinfo=zone)
    last = (datetime.fromisoformat(day) + timedelta(days=days)).replace(tzinfo=zone)
    coming = timetable.slots(Cron(expression=expression), timezone, after=first - timedelta(microseconds=1))
    return [slot.astimezone(zone).strftime("%H:%M%z") for slot in takewhile(lambda slot: slot < last, coming)]


@pytest.mark.parametrize(
    ("timezone", "day", "expression", "expected"),
    [
        # In a gap, a job with a fixed time runs at the gap's end.
        (AMSTERDAM, "2026-03-29", "30 2 * * *", "03:00+0200"),
        (AMSTERDAM, "2026-03-29", "0 2 * * *", "03:00+0200"),
        (AMSTERDAM, "2026-03-29", "0,30 2 * * *", "03:00+0200"),
        (AMSTERDAM, "2026-03-29", "30 1-3 * * *", "01:30+0100 03:00+0200 03:30+0200"),
        (AMSTERDAM, "2026-03-29", "15 2,3 * * sun", "03:00+0200 03:15+0200"),
        (AMSTERDAM, "2026-03-29", "0 30 2 * * *", "03:00+0200"),
        (AMSTERDAM, "2026-03-29", "0 3 * * *", "03:00+0200"),
        # A wildcard runs when the clock on the wall matches, and 02:xx never shows on it.
        (AMSTERDAM, "2026-03-29", "*/30 2 * * *", ""),
        (AMSTERDAM, "2026-03-29", "30 */2 29 3 *", EVEN_HALVES_IN_A_GAP),
        (AMSTERDAM, "2026-03-29", "@hourly", HOURS_IN_A_GAP),
        # In a fold, a job with a fixed time runs in the first pass only, a wildcard in both.
        (AMSTERDAM, "2026-10-25", "30 2 * * *", "02:30+0200"),
        (AMSTERDAM, "2026-10-25", "0 3 * * *", "03:00+0100"),
        (AMSTERDAM, "2026-10-25", "0,59 2-3 * * *", "02:00+0200 02:59+0200 03:00+0100 03:59+0100"),
        (AMSTERDAM, "2026-10-25", "*/30 2 * * *", "02:00+0200 02:30+0200 02:00+0100 02:30+0100"),
        (AMSTERDAM, "2026-10-25", "15 * 25 10 *", QUARTERS_IN_A_FOLD),
        (AMSTERDAM, "2026-10-25", "@daily", "00:00+0200"),
        # Half an hour.
        (LORD_HOWE, "2026-10-04", "10 2 * * *", "02:30+1100"),
        (LORD_HOWE, "2026-10-04", "*/20 2-3 * * *", "02:40+1100 03:00+1100 03:20+1100 03:40+1100"),
        (LORD_HOWE, "2026-04-05", "45 1 * * *", "01:45+1100"),
        (LORD_HOWE, "2026-04-05", "*/20 1 * * *", "01:00+1100 01:20+1100 01:40+1100 01:40+1030"),
        # At midnight.
        (SANTIAGO, "2026-09-06", "@daily", "01:00-0300"),
        (SANTIAGO, "2026-09-06", "*/30 0 * * *", ""),
        (SANTIAGO, "2026-09-06", "*/30 0 6 9 *", ""),
        (SANTIAGO, "2026-04-04", "30 23 * * *", "23:30-0300"),
        (SANTIAGO, "2026-04-04", "*/30 23 * * *", "23:00-0300 23:30-0300 23:00-0400 23:30-0400"),
        (HAVANA, "2026-03-08", "30 0 * * *", "01:00-0400"),
        (HAVANA, "2026-11-01", "@midnight", "00:00-0400"),
        (HAVANA, "2026-11-01", "*/30 0 * * *", "00:00-0400 00:30-0400 00:00-0500 00:30-0500"),
        # Two hours.
        (TROLL, "2026-03-29", "30 1,2 * * *", "03:00+0200"),
        (TROLL, "2026-10-25", "30 1-3 * * *", "01:30+0200 02:30+0200 03:30+0000"),
    ],
)  # fmt: skip
def test_cron_across_a_change_of_the_clocks(timezone: str, day: str, expression: str, expected: str) -> None:
    assert starts(expression, timezone, day) == expected.split()


@st.composite
def numbers(draw: st.DrawFn, low: int, high: int) -> str:
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, max(1, high // 3)))
    return draw(
        st.sampled_from(["*", f"*/{step}", f"{first}", f"{first},{last}", f"{first}-{last}", f"{first}-{last}/{step}"])
    )


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Mostly in the hours in which clocks change."""
    minute = draw(numbers(0, 59))
    hour = draw(st.one_of(numbers(0, 4), numbers(0, 23), numbers(21, 23)))
    day = draw(st.sampled_from(["*", "*", "*", "1-31", "*/2", "25-31", "4,5,25,29"]))
    weekday = draw(st.sampled_from(["*", "*", "0", "7", "1-5", "*/2"]))
    return f"{minute} {hour} {day} * {weekday}"


CHANGES = {zone: debian_cron.changes_of(ZoneInfo(zone), 2026) or [datetime(2026, 3, 1, tzinfo=UTC)] for zone in ZONES}


@given(data=st.data(), expression=expressions(), timezone=st.sampled_from(ZONES))
def test_cron_does_what_debian_does(data: st.DataObject, expression: str, timezone: str) -> None:
    """From any minute around a change of the clocks; cron has been running since before it."""
    change = data.draw(st.sampled_from(CHANGES[timezone]))
    after = change - timedelta(minutes=data.draw(st.integers(0, 1500)))
    until = change + timedelta(hours=30)
    zone = ZoneInfo(timezone)
    found = list(
        takewhile(lambda slot: slot <= until, timetable.slots(Cron(expression=expression), timezone, after=after))
    )
    reference = debian_cron.runs(expression, zone, after=change - timedelta(minutes=1500), until=until)
    assert found == [slot for slot in reference if slot > after]


@settings(max_examples=scaled(60))
@given(data=st.data(), expression=expressions(), timezone=st.sampled_from(ZONES))
def test_the_next_slot_does_not_depend_on_where_one_asks(data: st.DataObject, expression: str, timezone: str) -> None:
    """Asked from any second, also within a gap's end or a fold, the answer is the first slot of the list after it."""
    change = data.draw(st.sampled_from(CHANGES[timezone]))
    schedule = Cron(expression=expression)
    start = change - timedelta(hours=4)
    known = list(
        takewhile(lambda slot: slot < change + timedelta(hours=12), timetable.slots(schedule, timezone, after=start))
    )
    asked = start + timedelta(
        seconds=data.draw(st.integers(0, 8 * 3600)), microseconds=data.draw(st.sampled_from([0, 1]))
    )
    answer = timetable.next_slot(schedule, timezone, after=asked)
    assert answer is not None
    assert answer > asked
    assert answer == next((slot for slot in known if slot > asked), answer)


@settings(max_examples=scaled(25))
@given(second=numbers(0, 59), minute=numbers(0, 59), start=st.integers(0, 7200))
def test_a_sixth_field_in_front_names_seconds(second: str, minute: str, start: int) -> None:
    after = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=start)
    seconds, minutes = (debian_cron._field(field, 0, 59) for field in (second, minute))
    brute = [
        time
        for time in (after + timedelta(seconds=number) for number in range(1, 3601))
        if time.second in seconds and time.minute in minutes
    ]
    schedule = Cron(expression=f"{second} {minute} * * * *")
    until = after + timedelta(hours=1)
    assert list(takewhile(lambda slot: slot <= until, timetable.slots(schedule, "UTC", after=after))) == brute


def test_a_range_of_one_with_a_step_is_that_one() -> None:
    assert timetable.expand("5-5/2 1,3-3/4 JAN-jan/2 1-15/5 *") == "5 1,3 JAN 1-15/5 *"


def test_names_and_nicknames() -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday
    weekdays = list(islice(timetable.slots(Cron(expression="30 7 * JAN mon-fri"), "UTC", after=after), 3))
    assert [slot.day for slot in weekdays] == [1, 2, 5]
    for nickname, month, day, hour in [
        ("@yearly", 1, 1, 0), ("@annually", 1, 1, 0), ("@monthly", 2, 1, 0), ("@weekly", 1, 4, 0), ("@daily", 1, 2, 0),
        ("@Midnight", 1, 2, 0), ("@hourly", 1, 1, 1),
    ]:  # fmt: skip
        slot = timetable.next_slot(Cron(expression=nickname), "UTC", after=after)
        assert slot is not None
        assert (slot.month, slot.day, slot.hour) == (month, day, hour)


@pytest.mark.parametrize(
    ("schedule", "timezone", "says"),
    [
        (Cron(expression="61 * * * *"), "UTC", "Bad minute"),
        (Cron(expression="* * *"), "UTC", "Wrong number of fields"),
        (Cron(expression=""), "UTC", "Wrong number of fields"),
        (Cron(expression="0 0 31 2 *"), "UTC", "Bad day-of-month"),
        (Cron(expression="@reboot"), "UTC", "no schedule '@reboot'"),
        (Cron(expression="@daily"), "Europe/Amsterdm", "no time zone 'Europe/Amsterdm'"),
        (Cron(expression="@daily"), "../etc/passwd", "no time zone"),
        (Cron(expression="@daily"), "", "no time zone"),
        (Every(seconds=0.5), "UTC", "too short"),
        (Every(seconds=float("nan")), "UTC", "too short"),
        (Every(seconds=1e15), "UTC", "too long"),
        (At(time=datetime(2026, 1, 1)), "UTC", "has no time zone"),  # noqa: DTZ001
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(schedule: Schedule, timezone: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        timetable.check(schedule, timezone)


instants = st.integers(0, 20 * 365 * 86_400_000).map(
    lambda ms: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)


@given(seconds=st.floats(1, 1e6), after=instants)
def test_an_interval_keeps_to_its_grid(seconds: float, after: datetime) -> None:
    """However late the question: no drift."""
    schedule = Every(seconds=seconds)
    step = timedelta(seconds=seconds)
    slot = timetable.next_slot(schedule, "UTC", after=after)
    assert slot is not None
    assert after < slot <= after + step
    assert (slot - datetime(1970, 1, 1, tzinfo=UTC)) % step == timedelta()
    assert timetable.next_slot(schedule, "UTC", after=slot) == slot + step


def test_an_interval_counts_from_its_anchor() -> None:
    schedule = Every(seconds=3600, anchor=datetime(2026, 5, 1, 12, 34, 56, tzinfo=ZoneInfo(AMSTERDAM)))
    slot = timetable.next_slot(schedule, "UTC", after=datetime(2026, 5, 2, tzinfo=UTC))
    assert slot == datetime(2026, 5, 2, 0, 34, 56, tzinfo=UTC)


def test_a_one_shot_comes_once() -> None:
    time = datetime(2026, 5, 1, 12, tzinfo=ZoneInfo(AMSTERDAM))
    assert timetable.next_slot(At(time=time), "UTC", after=time - timedelta(seconds=1)) == time
    assert timetable.next_slot(At(time=time), "UTC", after=time) is None


@settings(max_examples=scaled(60))
@given(
    schedule=st.one_of(
        st.floats(30, 4000).map(lambda seconds: Every(seconds=seconds)),
        expressions().map(lambda text: Cron(expression=text)),
    ),
    after=instants,
    hours=st.integers(0, 12),
    most=st.integers(1, 5),
)
def test_stretches_and_last_slots_equal_the_list(schedule: Schedule, after: datetime, hours: int, most: int) -> None:
    first = timetable.next_slot(schedule, AMSTERDAM, after=after)
    assert first is not None
    until = first + timedelta(hours=hours)
    every = [first, *takewhile(lambda slot: slot <= until, timetable.slots(schedule, AMSTERDAM, after=first))]
    assert timetable.last_slots(schedule, AMSTERDAM, first=first, until=until, most=most) == every[-most:]
    stretch = timetable.stretch(schedule, AMSTERDAM, first=first, until=until)
    assert stretch == timetable.Stretch(first=first, last=every[-1], count=len(every))
    assert timetable.stretch(schedule, AMSTERDAM, first=first, until=first - timedelta(seconds=1)) is None


def test_a_year_of_seconds_is_told_apart_without_counting_it_one_by_one() -> None:
    first = datetime(2025, 1, 1, tzinfo=UTC)
    until = datetime(2026, 1, 1, tzinfo=UTC)
    seconds = 365 * 86_400 + 1
    assert timetable.stretch(Every(seconds=1), "UTC", first=first, until=until) == timetable.Stretch(
        first=first, last=until, count=seconds
    )
    stretch = timetable.stretch(Cron(expression="* * * * * *"), "UTC", first=first, until=until)
    assert stretch == timetable.Stretch(first=first, last=until, count=timetable.COUNT_UP_TO + 1, exact=False)


def test_jitter_is_the_same_for_the_same_slot_and_within_its_bound() -> None:
    job = Job(name="tick", schedule=Every(seconds=60), jitter=30)
    slots = list(islice(timetable.slots(Every(seconds=60), "UTC", after=datetime(2026, 1, 1, tzinfo=UTC)), 200))
    delays = [timetable.delay(job, slot).total_seconds() for slot in slots]
    assert delays == [timetable.delay(job, slot.astimezone(ZoneInfo(AMSTERDAM))).total_seconds() for slot in slots]
    assert all(0 <= delay < 30 for delay in delays)
    assert 12 < sum(delays) / len(delays) < 18
    assert timetable.delay(Job(name="other", schedule=Every(seconds=60), jitter=30), slots[0]) != delays[0]
    assert timetable.next_starts(job, after=datetime(2026, 1, 1, tzinfo=UTC), count=2) == tuple(
        slot + timetable.delay(job, slot) for slot in slots[:2]
    )
