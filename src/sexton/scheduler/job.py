"""What a job is, what a run is: frozen data.

A *job* says what to do and when.  A *slot* is one time that its schedule
names.  A *run* is the row that tells what became of a slot (or of a request to
run by hand): every slot ends as exactly one row, or as part of one row that
covers a stretch of slots (`Run.slot_end`, `Run.count`).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeAlias

from sexton.errors import SextonError, UsageError
from sexton.journal import JSON
from sexton.scheduler.run_states import RunState

NOTHING: Mapping[str, JSON] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A cron expression: five fields, six with seconds first, or @hourly, @daily, @weekly, @monthly, @yearly."""

    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Every so many seconds (1 or more), counted from `anchor`, so that slots never drift.

    Without an anchor the count starts at the Unix epoch: `Every(seconds=30)` is :00 and :30 of every minute.
    """

    seconds: float
    anchor: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Once, at that time (aware)."""

    time: datetime


Schedule: TypeAlias = Cron | Every | At


class Overlap(enum.StrEnum):
    """What becomes of a slot that comes while a run of the same job is waiting or running."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"
    PARALLEL = "parallel"


class CatchUp(enum.StrEnum):
    """Which slots run late, when nothing could run at their time (gateway down, machine asleep)."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"


class OnInterrupted(enum.StrEnum):
    """Whether a run that was cut off by a crash or a shutdown runs again."""

    RECORD = "record"
    RERUN = "rerun"


class DeliverOn(enum.StrEnum):
    """Which ends of a job's runs are told to its `deliver` targets; a run that is tried again is not at its end.

    `output`: what was said by a run that went well, if it said anything, and every failure.
    """

    ALWAYS = "always"
    OUTPUT = "output"
    SUCCESS = "success"
    FAILURE = "failure"


class Origin(enum.StrEnum):
    CONFIG = "config"
    RUNTIME = "runtime"


class Trigger(enum.StrEnum):
    SCHEDULE = "schedule"
    MANUAL = "manual"
    CATCH_UP = "catch_up"
    RETRY = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do and when.  Times are in seconds.

    `schedule` None: runs only by hand.  `action` is opaque here.  `timezone`
    is an IANA name.  `jitter` delays each slot's start by up to that much, the
    same for the same slot on every machine.  `timeout` bounds a run, whatever
    it does; `idle_timeout` bounds how long it may go without progress.
    `concurrency` is how many runs of it may be running when `overlap` is
    parallel; `resources` names what else it needs (see `Limits`).  `deliver` names
    who is told how its runs ended; those names are opaque here.  `node` and
    `labels` say where it may run: on the node of that name, on nodes that have
    all of those labels.
    """

    name: str
    schedule: Schedule | None = None
    timezone: str = "UTC"
    jitter: float = 0.0
    action: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: float = 86_400.0
    retries: int = 0
    retry_backoff: float = 1.0
    timeout: float | None = None
    idle_timeout: float | None = None
    priority: int = 0
    concurrency: int = 1
    resources: tuple[str, ...] = ()
    on_interrupted: OnInterrupted = OnInterrupted.RECORD
    paused: bool = False
    origin: Origin = Origin.CONFIG
    deliver: tuple[str, ...] = ()
    deliver_on: DeliverOn = DeliverOn.ALWAYS
    node: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def most_at_once(self) -> int:
        """How many runs of this job may be running at the same time."""
        return self.concurrency if self.overlap is Overlap.PARALLEL else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one slot, of a request to run by hand, or of a stretch of slots.

    `slot` is the time the schedule named; None for a run by hand.  A row of a
    stretch (skipped or missed) covers `count` slots from `slot` to `slot_end`.
    `output` is its beginning, up to `EXCERPT` characters; the whole of it is in
    `RunRecord`.  `reason` says why the run ended the way it did, in one word
    or one sentence; `error` is the text of what went wrong.
    """

    id: str
    job: str
    state: RunState
    trigger: Trigger
    slot: datetime | None = None
    slot_end: datetime | None = None
    count: int = 1
    attempt: int = 1
    reason: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    output: str | None = None
    error: str | None = None
    details: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)
    node: str | None = None


EXCERPT = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    at: datetime
    text: str


class CallState(enum.StrEnum):
    """How a tool call ended: `ok`; `error`: the tool says that it failed; `failed`: there was no answer; `denied`: it
    was not made, for it may not be; `cancelled`: its run was ended."""

    OK = "ok"
    ERROR = "error"
    FAILED = "failed"
    DENIED = "denied"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that a run made, the `number`th, from 1.

    `text` is the beginning of what the tool answered, or why there was no answer.  Arguments that are too large are
    `{"left_out": characters}`.
    """

    number: int
    server: str
    tool: str
    arguments: Mapping[str, JSON]
    state: CallState
    text: str
    started_at: datetime
    seconds: float


CALL_TEXT = 4_000
MOST_ARGUMENTS = 16_000
MOST_CALLS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run with everything that was kept of it; `calls` are its first ones, `CALLS_IN_RECORD` at most."""

    run: Run
    output: str | None
    log: tuple[LogLine, ...]
    calls: tuple[ToolCall, ...] = ()


CALLS_IN_RECORD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCount:
    """How many rows of one job are in one state; `slots` is how many slots those rows stand for."""

    job: str
    state: RunState
    runs: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it stands: when it starts next (jitter included) or since when it is paused, its waiting and running
    runs, its last ended run."""

    job: Job
    next_at: datetime | None
    paused_at: datetime | None
    active: tuple[Run, ...]
    last: Run | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an action made of its run."""

    output: str = ""
    details: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)


class RunFailed(SextonError):
    """Raised by an action: the run failed, in words a person can use.  `output` and `details` are kept with the run."""

    def __init__(
        self,
        what: str,
        *,
        hint: str | None = None,
        output: str | None = None,
        details: Mapping[str, JSON] = NOTHING,
    ) -> None:
        super().__init__(what, hint=hint)
        self.output = output
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many runs may be running at once on this gateway: in all, and per name in `Job.resources`.

    A resource without a limit here is not limited.  `history` is how many ended runs are kept per job,
    and how many rows of slots that did not run.
    """

    overall: int = 16
    per_resource: Mapping[str, int] = field(default_factory=dict)
    history: int = 1_000


RecordCall: TypeAlias = Callable[[str, str, Mapping[str, JSON], CallState, str, float], None]


def _record_nothing(*_: object) -> None:
    """For a context without a run that is kept."""


class RunContext:
    """An action's line back to the scheduler: its run, its job, progress and log lines."""

    def __init__(
        self,
        run: Run,
        job: Job,
        *,
        progress: Callable[[str | None], None],
        log: Callable[[str], None],
        record_call: RecordCall = _record_nothing,
    ) -> None:
        self.run = run
        self.job = job
        self.output_so_far: Callable[[], str] = str
        """What the action has to show if its run is cut short now; an action that collects output puts its own here."""
        self._progress = progress
        self._log = log
        self._record_call = record_call

    def progress(self, text: str | None = None) -> None:
        """Say that the work is getting on: the idle timeout starts anew.  `text` is shown to who watches."""
        self._progress(text)

    def log(self, line: str) -> None:
        """Keep a line with the run."""
        self._log(line)

    def record_call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, JSON],
        *,
        state: CallState,
        text: str,
        seconds: float,
    ) -> None:
        """Keep a tool call with the run, once it has ended, `seconds` after it began; also one that was cancelled.

        Secrets are left out, long texts are cut, and of a run's calls the first `MOST_CALLS` are kept.
        """
        self._record_call(server, tool, arguments, state, text, seconds)


Perform: TypeAlias = Callable[[RunContext], Awaitable[Outcome]]


class UnknownJob(UsageError):
    def __init__(self, name: str, *, known: tuple[str, ...] = ()) -> None:
        listing = f"The jobs are: {', '.join(known)}." if known else "There are no jobs."
        super().__init__(f"There is no job '{name}'. {listing}", hint="run: sexton jobs list")


class UnknownRun(UsageError):
    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run '{run_id}'.", hint="run: sexton runs list")


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
