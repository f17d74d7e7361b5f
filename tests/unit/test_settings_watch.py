"""Noticing that the settings file was changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from sexton.clock import SystemClock
from sexton.daemon import settings_watch
from sexton.daemon.settings_watch import SettingsWatch
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(settings_watch, "SETTLE_SECONDS", 0.01)
    path = tmp_path / "sexton.toml"
    path.write_text("a = 1\n")
    return path


def write(path: Path) -> None:
    path.write_text("a = 22\n")


def replace_with_the_same_time_and_size(path: Path) -> None:
    before, draft = path.stat(), path.with_name("draft")
    draft.write_text("a = 2\n")
    os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))
    draft.replace(path)


@pytest.mark.parametrize("change", [write, replace_with_the_same_time_and_size, Path.unlink])
async def test_a_change_is_noticed_once(file: Path, change: Callable[[Path], object]) -> None:
    watch = SettingsWatch(file, clock=SystemClock())
    change(file)
    with anyio.fail_after(PATIENCE):
        assert await watch.wait_change() is False
    with anyio.move_on_after(0.1) as scope:
        await watch.wait_change()
    assert scope.cancelled_caught


async def test_who_asks_is_answered_although_nothing_changed(file: Path) -> None:
    watch = SettingsWatch(file, clock=SystemClock())
    watch.ask()
    with anyio.fail_after(PATIENCE):
        assert await watch.wait_change() is True
