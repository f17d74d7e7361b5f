"""Blocking work is done, thread or no thread."""

from __future__ import annotations

import threading

import pytest

from sexton.threads import in_thread

pytestmark = pytest.mark.anyio


def where() -> int:
    return threading.get_ident()


async def test_it_is_done_in_a_thread() -> None:
    assert await in_thread(where) != where()


async def test_it_is_done_here_when_the_system_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as CPython says when pthread_create(3) fails

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await in_thread(where) == where()


async def test_an_error_of_the_work_is_its_own_and_it_is_not_done_twice() -> None:
    done: list[int] = []

    def fail() -> None:
        done.append(1)
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        await in_thread(fail)
    assert done == [1]
