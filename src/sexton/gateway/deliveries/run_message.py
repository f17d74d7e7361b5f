"""What is told about the end of a run (pure)."""

from __future__ import annotations

from sexton.gateway.deliveries.delivery import Message
from sexton.scheduler import DeliverOn, Job, Run, RunState

_FAILURES = (RunState.FAILED, RunState.INTERRUPTED)


def run_message(job: Job, run: Run, output: str | None) -> Message | None:
    """The message for the job's targets; None if nobody wants to know of this end.

    Nothing is told of a run that was cancelled: whoever did that knows.
    """
    said = (output or "").strip("\n")
    if not _is_wanted(job.deliver_on, run.state, said):
        return None
    took = f" after {_seconds(run):.1f} s" if run.started_at else ""
    failed = run.state in _FAILURES
    title = f"{run.job} {'failed' if run.state is RunState.FAILED else run.state}{took}" if failed else f"{run.job} ran"
    text = _failure_text(run, said) if failed else said or "(It said nothing.)"
    return Message(title=title, text=text, facts=_facts(run))


def _is_wanted(wish: DeliverOn, state: RunState, said: str) -> bool:
    if state is RunState.RAN:
        return wish in {DeliverOn.ALWAYS, DeliverOn.SUCCESS} or (wish is DeliverOn.OUTPUT and said != "")
    return state in _FAILURES and wish is not DeliverOn.SUCCESS


def _failure_text(run: Run, said: str) -> str:
    why = run.error or run.reason or "No reason was given."
    return f"{why}\n\nIt had said:\n{said}" if said and said not in why else why


def _seconds(run: Run) -> float:
    if run.started_at is None or run.ended_at is None:
        return 0.0
    return (run.ended_at - run.started_at).total_seconds()


def _facts(run: Run) -> dict[str, str | int | float | None]:
    return {
        "state": str(run.state),
        "reason": run.reason,
        "error": run.error,
        "trigger": str(run.trigger),
        "attempt": run.attempt,
        "slot": run.slot.isoformat() if run.slot else None,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "seconds": round(_seconds(run), 3),
    }
