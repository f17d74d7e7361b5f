"""How far a tree has come, as its custodians report it to the holder (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sexton.containment.identity import ProcessIdentity
from sexton.containment.launch import LaunchFailure
from sexton.containment.ledger import Stuck
from sexton.containment.stop_ladder import Step, StopTimes
from sexton.containment.tree_state import EndReason, TreeState

_ANSWER_WITHIN = 5.0
_FIRST_ANSWER_WITHIN = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEnd:
    """Why a tree ended, and how its leader exited: by `returncode`, by `signal`, or (both None) unknown to us.

    Unknown: it was never started, or its keeper died before it could tell.
    """

    reason: EndReason
    returncode: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeProgress:
    """`ended` is set when the leader has exited, `gone` when the tree is proven empty.

    `is_unattended` says that no custodian is left to report anything: what is left is told by the ledger.
    """

    keeper: ProcessIdentity | None = None
    leader_pid: int | None = None
    reason: EndReason | None = None
    failure: LaunchFailure | None = None
    ended: TreeEnd | None = None
    gone: TreeEnd | None = None
    step: Step = Step.RUNNING
    stuck: tuple[Stuck, ...] = ()
    is_unattended: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether it is known to run, or to have failed."""
        return self.leader_pid is not None or self.has_ended

    @property
    def has_ended(self) -> bool:
        return self.ended is not None or self.gone is not None or self.is_unattended

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected of its custodians."""
        return self.gone is not None or self.is_unattended

    @property
    def state(self) -> TreeState:
        if self.gone is not None:
            return TreeState.GONE if self.failure is None else TreeState.SPAWN_FAILED
        if self.is_unattended:
            return TreeState.ORPHANED
        if self.stuck:
            return TreeState.STUCK
        if self.reason is not None:
            return TreeState.DRAINING
        if self.leader_pid is not None:
            return TreeState.RUNNING
        return TreeState.RESERVED if self.keeper is None else TreeState.SPAWNING

    def owed_within(self, times: StopTimes, *, is_asked: bool) -> float | None:
        """Seconds, from the last report on, in which a living keeper has the next one to give; None: nothing is owed.

        `is_asked` says that the holder has asked for the end.
        """
        if self.gone is not None:
            return None
        if self.is_unattended:
            return 0.0
        if self.keeper is None:
            return _FIRST_ANSWER_WITHIN
        if self.step is Step.RUNNING:
            return _ANSWER_WITHIN if is_asked else None
        if self.step is Step.STUCK:
            return None
        return (times.grace(self.step) or 0.0) + _ANSWER_WITHIN

    def after(self, report: Mapping[str, Any]) -> TreeProgress:
        """What is known after that report; one of an unknown kind changes nothing."""
        match report["event"]:
            case "keeper":
                return replace(self, keeper=_identity(report["keeper"]))
            case "started":
                return replace(self, leader_pid=report["pid"])
            case "spawn_failed":
                failure = LaunchFailure(stage=report["stage"], errno=report["errno"], detail=report["detail"])
                return replace(self, failure=failure)
            case "draining":
                return replace(self, reason=EndReason(report["reason"]), step=Step(report["step"]))
            case "ended":
                end = _end(report)
                return replace(self, reason=self.reason or end.reason, ended=self.ended or end)
            case "stuck":
                return replace(self, stuck=tuple(Stuck(**one) for one in report["stuck"]))
            case "gone":
                end = _end(report)
                return replace(self, reason=end.reason, ended=self.ended or end, gone=end, stuck=())
            case _:
                return self

    def unattended(self) -> TreeProgress:
        return self if self.gone is not None else replace(self, is_unattended=True)

    def finished(self, reason: EndReason, *, stuck: tuple[Stuck, ...] = ()) -> TreeProgress:
        """Somebody else has ended it: proven empty, but for what is `stuck`."""
        end = self.ended or TreeEnd(reason=reason)
        gone = None if stuck else end
        return replace(self, reason=end.reason, ended=end, gone=gone, is_unattended=bool(stuck), stuck=stuck)


def _end(report: Mapping[str, Any]) -> TreeEnd:
    return TreeEnd(reason=EndReason(report["reason"]), returncode=report["returncode"], signal=report["signal"])


def _identity(raw: Mapping[str, Any] | None) -> ProcessIdentity | None:
    return None if raw is None else ProcessIdentity(**raw)
