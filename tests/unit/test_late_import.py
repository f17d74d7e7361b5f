"""A module that is loaded late: nobody who stops waits for it, and who waits with others gets the same one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sexton.agent.late_import import LateImport
from sexton.errors import SextonError
from waiting import wait_until

FIRST = """
import slow_library_gate as gate
gate.entered.set()
assert gate.go_on.wait(60)
import slow_library_second
"""


@dataclass
class Gate:
    """What the slow module waits for in the middle of its import."""

    entered: threading.Event
    go_on: threading.Event


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(threading.Event(), threading.Event())
    (tmp_path / "slow_library.py").write_text(FIRST)
    (tmp_path / "slow_library_second.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "slow_library_gate", made)
    yield made
    for name in ("slow_library", "slow_library_second"):
        sys.modules.pop(name, None)


@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_leaves_the_import_to_go_on(gate: Gate) -> None:
    late = LateImport("slow_library")
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(late.get)
                await wait_until(gate.entered.is_set, seconds=30)
                scope.cancel()  # left while the import still stands at the gate
        assert "slow_library_second" not in sys.modules
        gate.go_on.set()
        assert (await late.get()).__name__ == "slow_library"
        assert await late.get() is sys.modules["slow_library"]
    assert late not in sys.meta_path


@pytest.mark.anyio
async def test_an_import_that_is_given_up_ends_before_its_next_module(gate: Gate) -> None:
    late = LateImport("slow_library")
    told: list[str] = []

    async def ask() -> None:
        with pytest.raises(SextonError) as refused:
            await late.get()
        told.append(refused.value.what)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)  # the second waits for the first
            await wait_until(gate.entered.is_set, seconds=30)
            tasks.start_soon(late.give_up)
            await wait_until(lambda: late.is_given_up, seconds=30)
            gate.go_on.set()
    assert told == ["The gateway is stopping; no model was asked."] * 2
    assert "slow_library" not in sys.modules
    assert "slow_library_second" not in sys.modules
    assert late not in sys.meta_path


@pytest.mark.anyio
async def test_nothing_is_loaded_after_it_was_given_up(gate: Gate) -> None:
    late = LateImport("slow_library")
    await late.give_up()
    with pytest.raises(SextonError, match="stopping"):
        await late.get()
    assert not gate.entered.is_set()
