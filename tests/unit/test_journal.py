"""The journal: ids that only grow, readers that lose nothing silently, a disk that may fail."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_clock import FakeClock, settle
from properties import scaled
from sexton.journal import Event, EventFile, Journal
from small_disk import fill, small_disk

pytestmark = pytest.mark.anyio


def ids(events: list[Event] | tuple[Event, ...]) -> list[int]:
    return [event.id for event in events]


def test_ids_grow_and_events_come_back_in_order() -> None:
    journal = Journal.open(clock=FakeClock())
    for number in range(3):
        journal.append("run.ended", subject="clock", number=number)
    assert ids(journal.since(0)) == [1, 2, 3]
    assert [event.data["number"] for event in journal.since(1)] == [1, 2]
    assert journal.since(3) == ()
    assert journal.last_id == 3


def test_a_restart_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path, clock=FakeClock())
    first = journal.append("server.started", subject="time", pid=12)
    journal.close()
    journal = Journal.open(path, clock=FakeClock())
    assert journal.since(0) == (first,)
    assert journal.append("server.retired", subject="time").id == 2
    journal.close()
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["server.started", "server.retired"]


def test_a_line_cut_short_by_a_crash_is_left_out_and_the_next_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path, clock=FakeClock())
    journal.append("a", subject="x")
    journal.append("b", subject="x")
    journal.close()
    path.write_bytes(path.read_bytes()[:-20])
    journal = Journal.open(path, clock=FakeClock())
    journal.append("c", subject="x")
    journal.close()
    assert [event.kind for event in Journal.open(path, clock=FakeClock()).since(0)] == ["a", "c"]


def test_a_file_of_nonsense_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        b"\xff\xfe\n{}\n[1]\nnull\n\n" + b'{"id":7,"at":"2026-01-01T00:00:00+00:00","kind":"k","subject":"s","data":{}}'
    )
    journal = Journal.open(path, clock=FakeClock())
    assert journal.append("next", subject="s").id == 8
    journal.close()


def test_files_rotate_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    file = EventFile(path, max_bytes=1_000, older=2)
    clock = FakeClock()
    for number in range(1, 101):
        file.write(Event(id=number, at=clock.now(), kind="k", subject="s", data={}))
    file.close()
    kept = sorted(entry.name for entry in tmp_path.iterdir())
    assert kept == ["journal.jsonl", "journal.jsonl.1", "journal.jsonl.2"]
    assert all(entry.stat().st_size <= 1_000 for entry in tmp_path.iterdir())
    events = EventFile(path).read_last(1_000)
    assert events[-1].id == 100
    assert ids(events) == list(range(events[0].id, 101))


async def test_a_reader_gets_what_was_and_what_comes() -> None:
    journal = Journal.open(clock=FakeClock())
    journal.append("before", subject="x")
    got: list[str] = []

    async def read(after: int | None) -> None:
        async for event in journal.subscribe(after):
            got.append(event.kind)  # noqa: PERF401 - it never ends

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, 0)
        tasks.start_soon(read, None)
        await settle()
        assert got == ["before"]
        journal.append("after", subject="x")
        await settle()
        assert got == ["before", "after", "after"]
        tasks.cancel_scope.cancel()


async def test_a_slow_reader_is_told_what_it_lost() -> None:
    journal = Journal.open(clock=FakeClock(), keep=10)
    journal.append("e", subject="x")
    stream = journal.subscribe(0)
    assert (await anext(stream)).id == 1
    for _ in range(25):
        journal.append("e", subject="x")
    gap = await anext(stream)
    assert (gap.kind, gap.data) == ("journal.gap", {"first": 2, "last": 16, "lost": 15})
    assert [(await anext(stream)).id for _ in range(10)] == list(range(17, 27))


async def test_a_reader_that_stops_within_a_burst_loses_nothing() -> None:
    """The gap is judged anew at each event, not once per burst."""
    journal = Journal.open(clock=FakeClock(), keep=10)
    for _ in range(5):
        journal.append("e", subject="x")
    stream = journal.subscribe(0)
    seen = [(await anext(stream)).id for _ in range(2)]
    for _ in range(3):
        journal.append("e", subject="x")
    seen += [(await anext(stream)).id for _ in range(6)]
    assert seen == list(range(1, 9))


@settings(max_examples=scaled(50))
@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 30))
def test_since_accounts_for_every_event(keep: int, appended: int, after: int) -> None:
    journal = Journal.open(clock=FakeClock(), keep=keep)
    for _ in range(appended):
        journal.append("e", subject="x")
    events = journal.since(after)
    lost = sum(int(str(event.data["lost"])) for event in events if event.kind == "journal.gap")
    seen = [event for event in events if event.kind == "e"]
    assert lost + len(seen) == max(0, appended - after)


def test_a_full_disk_costs_no_event_and_no_caller(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        journal = Journal.open(disk / "journal.jsonl", clock=FakeClock())
        journal.append("before", subject="x")
        ballast = fill(disk)
        for number in range(200):
            journal.append("while full", subject="x", number=number, padding="x" * 100)
        assert len(journal.since(0)) == 201
        ballast.unlink()
        journal.append("after", subject="x")
        journal.close()
        written = [json.loads(line) for line in (disk / "journal.jsonl").read_text().splitlines()]
        assert [event["id"] for event in written] == list(range(1, 203))


def test_data_that_is_no_json_is_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path, clock=FakeClock())
    journal.append("k", subject="s", path=Path("/x"))  # type: ignore[arg-type]
    journal.close()
    assert json.loads(path.read_text())["data"] == {"path": "/x"}
