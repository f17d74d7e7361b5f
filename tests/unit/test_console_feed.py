"""Events to the console, which may not want them."""

from __future__ import annotations

import threading

import anyio
import pytest

from sexton.daemon.console_feed import ConsoleFeed
from sexton.journal import Event, Journal
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


async def test_every_event_is_shown_in_order_also_the_last() -> None:
    journal, shown = Journal.open(), list[str]()
    journal.append("before", subject="x")
    feed = ConsoleFeed(journal, lambda event: shown.append(event.kind))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.run)
        await anyio.wait_all_tasks_blocked()
        journal.append("first", subject="x")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    journal.append("last", subject="x")
    feed.close()
    assert shown == ["first", "last"]


async def test_a_console_that_blocks_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sexton.daemon.console_feed._CLOSE_SECONDS", 0.01)
    monkeypatch.setattr("sexton.daemon.console_feed._MOST_WAITING", 3)
    journal, scroll_on = Journal.open(), threading.Event()

    def show(_event: Event) -> None:
        scroll_on.wait(PATIENCE)

    feed = ConsoleFeed(journal, show)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.run)
            for _ in range(20):
                journal.append("event", subject="x")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        feed.close()
    scroll_on.set()
