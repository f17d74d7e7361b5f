"""What is kept of a long result, read on from another node."""

from __future__ import annotations

from pathlib import Path

import pytest

from databases import database_at
from fake_clock import FakeClock
from sexton.agent.result_files import KEPT, MOST_READ, PART, NoSuchFile, ResultFiles
from sexton.database import Database

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]


async def test_another_gateway_reads_on_until_it_is_forgotten(tmp_path: Path) -> None:
    place, clock = database_at(tmp_path / "db"), FakeClock()
    text = "".join(chr(0x100 + number % 1000) for number in range(2 * PART + 10))
    async with Database.open(place) as one, Database.open(place) as other:
        here, there = ResultFiles(one, clock=clock), ResultFiles(other, clock=clock)
        name = await here.keep("chat:1", text + "\ud800")
        for offset in (0, 5, PART - 3, PART, 2 * PART - MOST_READ, 2 * PART + 8, 3 * PART, -1):
            start = max(0, offset)
            expected = (text + "?")[start : start + MOST_READ]
            assert await there.read("chat:1", name, offset=offset, length=MOST_READ) == (expected, len(text) + 1)
        assert (await there.read("chat:1", name, offset=PART - 1, length=2))[0] == text[PART - 1 : PART + 1]
        with pytest.raises(NoSuchFile):
            await there.read("chat:2", name, offset=0, length=1)
        same = await here.keep("chat:1", "first", key="file")
        assert await there.keep("chat:1", "again", key="file") == same
        assert await here.read("chat:1", same, offset=0, length=9) == ("again", 5)

        kept = await here.keep("chat:2", "")
        await there.forget("chat:1")
        with pytest.raises(NoSuchFile):
            await here.read("chat:1", name, offset=0, length=1)
        assert await here.read("chat:2", kept, offset=0, length=1) == ("", 0)
        await clock.advance(KEPT.total_seconds() + 1)
        await there.forget_old()
        with pytest.raises(NoSuchFile):
            await here.read("chat:2", kept, offset=0, length=1)
