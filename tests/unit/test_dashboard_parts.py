"""What the pages are drawn from: times, curves, forms, concerns."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as some

from fake_clock import FakeClock
from gateway_bench import FakeTree
from sexton.gateway.dashboard.attention import concerns_of
from sexton.gateway.dashboard.plot import plot, spark
from sexton.gateway.dashboard.timeline import MOST_ROWS, Window, draw
from sexton.gateway.dashboard.tool_form import Field, fields_of
from sexton.gateway.dashboard.viewer import brief
from sexton.gateway.documents import RunDocument
from sexton.gateway.memory_samples import MemorySamples, keep_sampling
from sexton.journal import Journal
from waiting import PATIENCE

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = Window(now=NOW, past=timedelta(hours=1))


def run(job: str = "clock", *, began: float | None, ended: float | None = None, **more: Any) -> RunDocument:
    """A run that began and ended so many minutes before `NOW`."""

    def at(minutes: float | None) -> str | None:
        return None if minutes is None else (NOW - timedelta(minutes=minutes)).isoformat()

    slot = more.pop("slot", began)
    state = more.pop("state", "ran" if ended is not None else "running")
    base: dict[str, Any] = {
        "id": f"{job}-{began}-{ended}-{slot}",
        "job": job,
        "slot": at(slot),
        "slot_end": at(more.pop("slot_end", None)),
        "count": 1,
        "attempt": 1,
        "state": state,
        "reason": None,
        "trigger": "schedule",
        "created_at": at(slot) or NOW.isoformat(),
        "started_at": at(began),
        "ended_at": at(ended),
        "seconds": None,
        "output": None,
        "error": None,
        "details": {},
        "node": None,
    }
    return RunDocument(**{**base, **more})  # type: ignore[typeddict-item]


# The timeline


def test_a_run_stands_where_its_times_are_and_now_is_near_the_right_end() -> None:
    line = draw([run(began=30, ended=15)], {}, HOUR, zone=UTC)
    (bar,) = line.lanes[0].bars
    assert line.now_x == pytest.approx(86, abs=0.01)
    assert [bar.x, bar.width] == pytest.approx([43, 21.5], abs=0.01)


def test_what_ran_at_the_same_time_lies_beside_each_other() -> None:
    runs = [run(began=50, ended=20), run(began=40, ended=30), run(began=15, ended=10)]
    (lane,) = draw(runs, {}, HOUR, zone=UTC).lanes
    assert [bar.row for bar in sorted(lane.bars, key=lambda bar: bar.x)] == [0, 1, 0]
    assert lane.rows == 2


def test_a_run_that_waited_shows_for_how_long() -> None:
    (lane,) = draw([run(began=20, ended=10, slot=30)], {}, HOUR, zone=UTC).lanes
    assert lane.bars[0].waited == pytest.approx(86 / 6, abs=0.01)


def test_slots_that_did_not_run_are_marks_with_their_length() -> None:
    missed = run(began=None, ended=5, slot=50, slot_end=20, state="missed", count=7)
    (lane,) = draw([missed], {}, HOUR, zone=UTC).lanes
    assert (list(lane.bars), lane.gaps[0].count) == ([], 7)
    assert lane.gaps[0].width == pytest.approx(43, abs=0.01)


def test_a_week_of_short_runs_is_drawn_as_few_bars_that_count_them() -> None:
    week = Window(now=NOW, past=timedelta(days=7))
    runs = [run(began=minutes + 0.01, ended=minutes) for minutes in range(1, 5000)]
    (lane,) = draw(runs, {}, week, zone=UTC).lanes
    assert len(lane.bars) < 50
    assert sum(bar.count for bar in lane.bars) == 4999


def test_failures_do_not_drown_in_the_runs_beside_them() -> None:
    week = Window(now=NOW, past=timedelta(days=7))
    states = ["ran", "failed", "ran"]
    runs = [run(began=100 - n, ended=99.9 - n, state=state) for n, state in enumerate(states)]
    (lane,) = draw(runs, {}, week, zone=UTC).lanes
    assert [bar.state for bar in lane.bars].count("failed") == 1


def test_a_job_that_comes_soon_has_a_lane_although_it_never_ran() -> None:
    line = draw([], {"soon": [NOW + timedelta(minutes=5)], "later": [NOW + timedelta(days=1)]}, HOUR, zone=UTC)
    assert [lane.job for lane in line.lanes] == ["soon"]
    assert line.now_x < line.lanes[0].coming[0] < 100


def test_ticks_are_at_round_times_of_the_readers_own_clock() -> None:
    india = draw([], {}, HOUR, zone=ZoneInfo("Asia/Kolkata")).ticks
    assert [tick.label for tick in india][:2] == ["16:40", "16:50"]


@given(some.lists(some.tuples(some.floats(-200, 200), some.floats(0, 100), some.sampled_from(["ran", "failed"]))))
def test_everything_that_is_drawn_lies_within_the_picture(made: list[tuple[float, float, str]]) -> None:
    runs = [run(began=began, ended=began - lasted, state=state) for began, lasted, state in made]
    for lane in draw(runs, {}, HOUR, zone=UTC).lanes:
        for bar in lane.bars:
            assert 0 <= bar.x <= 100
            assert bar.x + bar.width <= 101
            assert 0 <= bar.row < MOST_ROWS


# Memory


def test_samples_stay_for_a_while_after_their_tree_has_ended() -> None:
    samples = MemorySamples(keep=3, keep_ended=1)
    first, second = FakeTree(id="a", started_at=NOW), FakeTree(id="b", started_at=NOW)
    for second_of in range(5):
        samples.record([first, second], now=NOW + timedelta(seconds=second_of))
    samples.record([second], now=NOW + timedelta(seconds=9))
    assert [(one.tree, len(one.samples), one.ended_at is None) for one in samples.all()] == [
        ("a", 3, False),
        ("b", 3, True),
    ]
    samples.record([], now=NOW + timedelta(seconds=10))
    assert [one.tree for one in samples.all()] == ["b"], "only so many ended ones are kept, the latest"


@pytest.mark.anyio
async def test_nobody_is_asked_for_samples_while_there_are_no_trees() -> None:
    clock, journal, asked = FakeClock(), Journal.open(), 0
    trees: list[FakeTree] = []

    def ask() -> list[FakeTree]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError(errno.EMFILE, "no descriptor is left")
        return trees

    samples = MemorySamples()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(_sample(samples, ask, journal, clock))
            await _until(lambda: asked == 1)
            await clock.advance(60)
            assert asked == 1
            trees.append(FakeTree(started_at=clock.now()))
            journal.append("server.starting", subject="time")
            await _advance_until(clock, lambda: asked >= 3)
            await _until(lambda: bool(samples.all()))
            tasks.cancel_scope.cancel()


def _sample(samples: MemorySamples, ask: Any, journal: Journal, clock: FakeClock) -> Any:
    async def start(*, task_status: Any) -> None:
        await keep_sampling(samples, ask, journal=journal, clock=clock, task_status=task_status)

    return start


async def _advance_until(clock: FakeClock, condition: Any) -> None:
    while not condition():
        await clock.advance(5)
        await anyio.sleep(0.005)  # a thread is asked


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - a thread sets no event of ours; the whole is bounded
        await anyio.sleep(0.005)


def series(*sizes: int, pid: int = 41) -> Any:
    samples = MemorySamples()
    for number, size in enumerate(sizes):
        tree = FakeTree(id=f"t{pid}", leader_pid=pid, memory_bytes=size, started_at=NOW)
        samples.record([tree], now=NOW + timedelta(seconds=5 * number))
    return samples.all()[0]


def test_a_curve_starts_at_the_left_and_never_leaves_its_box() -> None:
    points = [tuple(map(float, point.split(","))) for point in spark(series(1, 5, 3).samples, now=NOW).split()]
    assert [x for x, _ in points] == [0, 48, 96]
    assert all(0 <= y <= 22 for _, y in points)
    assert spark(series(7).samples, now=NOW) == "", "one point is no curve"


def test_a_plot_has_a_round_top_and_a_line_for_each_process() -> None:
    later = NOW + timedelta(seconds=30)
    both = [series(70_000_000, 90_000_000), series(1_000_000, 2_000_000, pid=42)]
    drawn = plot(both, now=later, past=timedelta(hours=1), zone=UTC)
    assert drawn is not None
    assert (drawn.top, [level.label for level in drawn.levels][-1]) == (100_000_000, "100 MB")
    assert [(line.label, line.last, line.most) for line in drawn.lines] == [
        ("pid 41", 90_000_000, 90_000_000),
        ("pid 42", 2_000_000, 2_000_000),
    ]
    assert plot([], now=later, past=timedelta(hours=1), zone=UTC) is None


# Forms


def kinds(schema: Mapping[str, Any]) -> dict[str, str]:
    return {field.name: field.kind for field in fields_of({"type": "object", "properties": schema})}


def test_each_kind_of_argument_gets_the_field_that_fits_it() -> None:
    assert kinds(
        {
            "path": {"type": "string"},
            "content": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "deep": {"type": "boolean"},
            "order": {"enum": ["up", "down"]},
            "names": {"type": "array", "items": {"type": "string"}},
            "pairs": {"type": "array", "items": {"type": "object"}},
            "where": {"type": "object", "properties": {"city": {"type": "string"}}},
            "free": {},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "nullable": {"type": ["integer", "null"]},
        }
    ) == {
        "path": "text",
        "content": "long",
        "count": "integer",
        "share": "number",
        "deep": "boolean",
        "order": "choice",
        "names": "lines",
        "pairs": "json",
        "where": "group",
        "free": "json",
        "maybe": "text",
        "either": "json",
        "nullable": "integer",
    }


def test_a_reference_is_followed_and_one_that_leads_in_a_circle_ends() -> None:
    schema = {
        "properties": {"unit": {"$ref": "#/$defs/Unit"}, "loop": {"$ref": "#/$defs/Loop"}},
        "required": ["loop"],
        "$defs": {"Unit": {"enum": ["m", "km"]}, "Loop": {"$ref": "#/$defs/Loop"}},
    }
    loop, unit = fields_of(schema)
    assert (unit.kind, unit.options) == ("choice", (('"m"', "m"), ('"km"', "km")))
    assert (loop.name, loop.kind, loop.is_required) == ("loop", "json", True)


def test_defaults_and_bounds_come_along() -> None:
    (field,) = fields_of({"properties": {"n": {"type": "integer", "default": 3, "minimum": 1, "maximum": 10}}})
    assert (field.value, field.minimum, field.maximum) == ("3", "1", "10")


_KEYS = some.sampled_from(["properties", "type", "enum", "items", "anyOf", "required", "default", "$ref", "title"])
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_KEYS | some.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(some.dictionaries(_KEYS, JSON, max_size=6))
def test_whatever_a_server_says_its_schema_is_there_is_a_form(schema: dict[str, Any]) -> None:
    def check(field: Field) -> None:
        assert isinstance(json.loads(field.path), list)
        for child in field.children:
            check(child)

    for field in fields_of(schema):
        check(field)


# What needs a person


def test_the_worst_comes_first_and_names_what_to_look_at() -> None:
    broken: Any = {
        "name": "notes",
        "state": "broken",
        "last_error": "it ended.\n  no such folder\nNext: look",
        "warnings": [],
    }
    failed: Any = {"name": "a/b", "last_run": run("a/b", began=2, ended=1, state="interrupted", reason="cut off")}
    fine: Any = {"name": "fine", "last_run": run("fine", began=2, ended=1)}
    found = concerns_of([broken], [failed, fine], [])
    assert [(one.tone, one.subject, one.text, list(one.details)) for one in found] == [
        ("bad", "notes", "is broken: it ended.", ["no such folder"]),
        ("warn", "a/b", "interrupted the last time: cut off", []),
    ]
    assert found[0].target == "/servers/notes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m 20s"),
        (2525, "42m"),
        (3600, "1h"),
        (18720, "5h 12m"),
        (266400, "3d 2h"),
    ],
)
def test_a_time_is_told_as_exactly_as_one_looks_at_it(seconds: float, text: str) -> None:
    assert brief(seconds) == text


def test_a_job_that_comes_too_often_to_be_counted_goes_on_to_the_end() -> None:
    day = Window(now=NOW, past=timedelta(days=1))
    often = [NOW + timedelta(minutes=n) for n in range(1, 41)]
    lanes = draw([], {"often": often, "once": often[:1]}, day, zone=UTC).lanes
    assert [(lane.job, lane.goes_on is not None) for lane in lanes] == [("often", True), ("once", False)]


def test_a_failure_is_drawn_over_what_lies_beside_it() -> None:
    runs = [run(began=10, ended=9.9), run(began=9.95, ended=9.9, state="failed"), run(began=9.9, ended=9.8)]
    (lane,) = draw(runs, {}, HOUR, zone=UTC).lanes
    assert lane.bars[-1].state == "failed"
