"""The holder knows of a tree what its custodians reported, and when they owe a report."""

from __future__ import annotations

from typing import Any

import pytest

from sexton.containment.progress import TreeEnd, TreeProgress
from sexton.containment.stop_ladder import Step, StopTimes
from sexton.containment.tree_state import EndReason, TreeState

KEEPER = {"event": "keeper", "keeper": {"pid": 7, "start_ticks": 1, "inode": None, "handle": None}}
STARTED = {"event": "started", "pid": 8}
DRAINING = {"event": "draining", "reason": "released", "step": "stdin_closed"}
ENDED = {"event": "ended", "reason": "released", "returncode": 3, "signal": None}
GONE = {"event": "gone", "reason": "released", "returncode": 3, "signal": None}
STUCK = {"event": "stuck", "stuck": [{"pid": 9, "why": "D"}]}
FAILED = {"event": "spawn_failed", "stage": "exec", "errno": 2, "detail": ""}


def after(*reports: dict[str, Any]) -> TreeProgress:
    progress = TreeProgress()
    for report in reports:
        progress = progress.after(report)
    return progress


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        ((), TreeState.RESERVED),
        ((KEEPER,), TreeState.SPAWNING),
        ((KEEPER, STARTED), TreeState.RUNNING),
        ((KEEPER, STARTED, DRAINING), TreeState.DRAINING),
        ((KEEPER, STARTED, ENDED), TreeState.DRAINING),
        ((KEEPER, STARTED, DRAINING, STUCK), TreeState.STUCK),
        ((KEEPER, STARTED, DRAINING, STUCK, GONE), TreeState.GONE),
        ((KEEPER, FAILED, GONE), TreeState.SPAWN_FAILED),
        (({"event": "of a later version"},), TreeState.RESERVED),
    ],
)
def test_the_state_follows_the_reports(reports: tuple[dict[str, Any], ...], state: TreeState) -> None:
    assert after(*reports).state is state


def test_the_first_end_counts() -> None:
    swept = {"event": "gone", "reason": "keeper_died", "returncode": None, "signal": None}
    progress = after(KEEPER, STARTED, ENDED, swept)
    assert progress.ended == TreeEnd(reason=EndReason.RELEASED, returncode=3)
    assert progress.gone == TreeEnd(reason=EndReason.KEEPER_DIED)


def test_custodians_that_leave_without_a_proof_leave_an_orphan() -> None:
    assert after(KEEPER, STARTED).unattended().state is TreeState.ORPHANED
    assert after(KEEPER, STARTED, GONE).unattended().state is TreeState.GONE
    assert after(KEEPER).unattended().finished(EndReason.WARDEN_DIED).gone == TreeEnd(reason=EndReason.WARDEN_DIED)


@pytest.mark.parametrize(
    ("reports", "is_asked", "owed"),
    [
        ((), False, 10),
        ((KEEPER,), False, None),
        ((KEEPER, STARTED), False, None),
        ((KEEPER, STARTED), True, 5),
        ((KEEPER, STARTED, DRAINING), True, 5 + 2),
        ((KEEPER, STARTED, DRAINING | {"step": Step.KILLING}), True, 5 + 10),
        ((KEEPER, STARTED, DRAINING | {"step": Step.STUCK}, STUCK), True, None),
        ((KEEPER, STARTED, DRAINING, GONE), True, None),
    ],
)
def test_a_keeper_owes_a_report_once_it_is_asked_and_until_it_is_done(
    reports: tuple[dict[str, Any], ...], *, is_asked: bool, owed: float | None
) -> None:
    assert after(*reports).owed_within(StopTimes(), is_asked=is_asked) == owed
