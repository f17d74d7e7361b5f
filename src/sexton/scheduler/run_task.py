"""One run while it runs: its cancel scope, its time limits, its log."""

from __future__ import annotations

import json
import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import final

import anyio

from sexton.clock import Clock
from sexton.journal import JSON
from sexton.redaction import Redactor
from sexton.scheduler.claim import Claim
from sexton.scheduler.job import (
    CALL_TEXT,
    MOST_ARGUMENTS,
    MOST_CALLS,
    CallState,
    LogLine,
    Outcome,
    Perform,
    RunContext,
    RunFailed,
    ToolCall,
)
from sexton.scheduler.rows import Draft, RunEnd
from sexton.scheduler.run_states import RunState

LOG = logging.getLogger(__name__)
# A run that was told to end and has not after this many seconds is reported, and again after each further one.
ENDS_WITHIN = 30.0
# A limit that is noticed so many seconds after its time says more about us than about the run.
LATE = 1.0
LOG_LINES = 1_000
LOG_LINE_CHARACTERS = 4_000
MOST_OUTPUT = 1_048_576
# Of what a running run has said, as it is written while it goes on: the output and the log, in characters each.
MOST_IN_DRAFT = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a run is ended from outside, and what it is then recorded as."""

    state: RunState
    reason: str
    error: str | None = None


LOST = Ending(state=RunState.INTERRUPTED, reason="another gateway took it over")
CUT_OFF = Ending(state=RunState.INTERRUPTED, reason="its node could not reach the database for too long")
SHUTDOWN = Ending(state=RunState.INTERRUPTED, reason="the gateway was stopped")


def cancelled(reason: str) -> Ending:
    return Ending(state=RunState.CANCELLED, reason=reason)


@final
class RunTask:
    """Performs one claimed run.  However it ends, the work has ended when `perform` returns.

    `on_progress` gets each text that the action shows; `on_stuck` is told the seconds for which the work has gone on
    although it was told to end; `redactor` takes secrets out of what is kept.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        clock: Clock,
        on_progress: Callable[[str], None],
        on_stuck: Callable[[float], None],
        redactor: Redactor,
    ) -> None:
        self.claim = claim
        self.ending: Ending | None = None
        self._clock = clock
        self._on_progress = on_progress
        self._on_stuck = on_stuck
        self._redactor = redactor
        self._scope = anyio.CancelScope()
        self._told = anyio.Event()
        self._log: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._calls: list[ToolCall] = []
        self._context = RunContext(
            claim.run, claim.job, progress=self._progress, log=self._keep_line, record_call=self._keep_call
        )
        self._size = 0
        self._drafted = 0
        self._started = self._alive_at = clock.monotonic()

    def end(self, ending: Ending) -> None:
        """Cancel the work; the first reason stands."""
        if self.ending is None:
            self.ending = ending
            self._told.set()
            self._scope.cancel()

    async def perform(self, perform: Perform) -> RunEnd:
        """Do the work within its time limits, and say how it ended.  Raises only the cancellation of the caller."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                end = await self._work(perform)
            finally:
                tasks.cancel_scope.cancel()
        return end

    def interrupted(self) -> RunEnd:
        """The end of a run whose task was cancelled from above."""
        return self._ended_by(self.ending or SHUTDOWN)

    def draft(self) -> Draft | None:
        """What the run has said, if that is more than was last `drafted`."""
        if self._size == self._drafted:
            return None
        output = self._output_so_far(MOST_IN_DRAFT)
        log = tuple(newest(self._log, MOST_IN_DRAFT))
        calls = tuple(self._calls)
        return Draft(
            run=self.claim.run.id, fence=self.claim.fence, size=self._size, output=output, log=log, calls=calls
        )

    def drafted(self, draft: Draft) -> None:
        self._drafted = draft.size

    async def _work(self, perform: Perform) -> RunEnd:
        outcome: Outcome | None = None
        with self._scope:
            try:
                outcome = await perform(self._context)
            # The outermost edge of a run: whatever an action raises is its failure, kept with its traceback.
            except Exception as error:  # noqa: BLE001
                return self._failed(error)
        if self.ending is not None:
            return self._ended_by(self.ending)
        assert outcome is not None
        return RunEnd(
            state=RunState.RAN,
            at=self._clock.now(),
            output=self._kept_output(outcome.output),
            details=self._redactor.document(outcome.details),
            log=tuple(self._log),
            calls=tuple(self._calls),
        )

    def _failed(self, error: Exception) -> RunEnd:
        if self.ending is not None:
            return self._ended_by(self.ending)
        cause = leaf(error)
        output, details = self._output_so_far(), {}
        if isinstance(cause, RunFailed):
            output, details = output if cause.output is None else self._kept_output(cause.output), dict(cause.details)
        else:
            LOG.error("run %s of job '%s' raised", self.claim.run.id, self.claim.run.job, exc_info=error)
            self._keep_line("".join(traceback.format_exception(error)))
        return RunEnd(
            state=RunState.FAILED,
            at=self._clock.now(),
            reason="failed",
            output=output,
            error=bounded(self._redactor.text(str(cause) or type(cause).__name__)),
            details=self._redactor.document(details),
            log=tuple(self._log),
            calls=tuple(self._calls),
        )

    def _ended_by(self, ending: Ending) -> RunEnd:
        return RunEnd(
            state=ending.state,
            at=self._clock.now(),
            reason=ending.reason,
            output=self._output_so_far(),
            error=ending.error,
            log=tuple(self._log),
            calls=tuple(self._calls),
        )

    def _output_so_far(self, most: int = MOST_OUTPUT) -> str | None:
        return self._kept_output(self._context.output_so_far(), most) or None

    def _kept_output(self, text: str, most: int = MOST_OUTPUT) -> str:
        """Only the secrets that we know are taken out: what merely looks like one may be what the job is for."""
        return bounded(self._redactor.known(text), most)

    def _progress(self, text: str | None) -> None:
        self._size += 1
        self._alive_at = self._clock.monotonic()
        if text:
            self._keep_line(text)
            self._on_progress(text)

    def _keep_line(self, text: str) -> None:
        self._size += 1
        line = clean(self._redactor.text(text))[:LOG_LINE_CHARACTERS]
        self._log.append(LogLine(at=self._clock.now(), text=line))

    def _keep_call(
        self, server: str, tool: str, arguments: Mapping[str, JSON], state: CallState, text: str, seconds: float
    ) -> None:
        self._size += 1
        if len(self._calls) >= MOST_CALLS:
            return
        call = ToolCall(
            number=len(self._calls) + 1,
            server=server,
            tool=tool,
            arguments=bounded_arguments(self._redactor.document(arguments)),
            state=state,
            text=bounded(self._redactor.text(text), CALL_TEXT),
            started_at=self._clock.now() - timedelta(seconds=seconds),
            seconds=seconds,
        )
        self._calls.append(call)

    async def _watch(self) -> None:
        """End the work when a limit passes; then, or when it is ended otherwise, see that it does end."""
        async with anyio.create_task_group() as limits:
            limits.start_soon(self._wait_limit)
            await self._told.wait()
            limits.cancel_scope.cancel()
        waited = 0.0
        while True:
            await self._clock.sleep(ENDS_WITHIN)
            waited += ENDS_WITHIN
            self._on_stuck(waited)

    async def _wait_limit(self) -> None:
        """End the work when a limit has passed.

        A gateway that was itself stopped until long after it first takes what the work has said or done meanwhile.
        """
        has_caught_up = False
        while limits := sorted(self._limits(), key=lambda limit: limit[0]):
            at, ending = limits[0]
            left = at - self._clock.monotonic()
            if left <= 0 and (has_caught_up or left > -LATE):
                self.end(ending)
                return
            has_caught_up = left <= 0
            await self._clock.sleep(LATE if left <= 0 else left)

    def _limits(self) -> Iterator[tuple[float, Ending]]:
        job = self.claim.job
        if job.timeout is not None:
            told = f"The run was ended after its timeout of {job.timeout:g} s."
            yield self._started + job.timeout, Ending(state=RunState.FAILED, reason="timeout", error=told)
        if job.idle_timeout is not None:
            told = f"The run was ended after {job.idle_timeout:g} s without progress (idle_timeout)."
            yield self._alive_at + job.idle_timeout, Ending(state=RunState.FAILED, reason="idle_timeout", error=told)


def bounded_arguments(arguments: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """The arguments, as every database takes them, or how large they were."""
    written = json.dumps(arguments)  # escapes what `clean` would replace, but for NUL, which PostgreSQL refuses
    if len(written) > MOST_ARGUMENTS:
        return {"left_out": len(written)}
    kept: Mapping[str, JSON] = json.loads(written.replace("\\u0000", "\\ufffd"))
    return kept


def leaf(error: BaseException) -> BaseException:
    """The one error within a group of one (a task group wraps what its body raises); else the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def clean(text: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def newest(log: Sequence[LogLine], most: int) -> list[LogLine]:
    """The last lines of at most `most` characters together, in order."""
    kept: deque[LogLine] = deque()
    for line in reversed(log):
        most -= len(line.text)
        if most < 0:
            break
        kept.appendleft(line)
    return list(kept)


def bounded(text: str, most: int = MOST_OUTPUT) -> str:
    """At most `most` characters: the beginning and the end."""
    text = clean(text)
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
