"""The scheduler on a fake clock: when runs start, what becomes of each slot, and that what is ended has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduling import every, running

pytestmark = pytest.mark.anyio


async def test_each_slot_runs_once_at_its_time(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(10),)) as bench:
        await bench.clock.advance(9.99)
        assert bench.work.slots == []
        await bench.clock.advance(0.01)
        assert bench.work.slots == ["12:00:10"]
        await bench.clock.advance(20)
        assert bench.work.slots == ["12:00:10", "12:00:20", "12:00:30"]
        assert await bench.states() == ["ran"] * 3
        assert all(run.started_at == run.slot for run in await bench.rows())
