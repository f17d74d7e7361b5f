"""What runs when: jobs, their slots, their runs.

Owns the schedules, the table of jobs and runs, the claims and the limits.
Promises that every slot ends as a row, that no slot runs twice (also with
several gateways on one database), that nothing starts before its time, and
that a run that was ended (timeout, cancel, shutdown) has ended.  What a run
does is the business of the callable that it is given.
"""

from sexton.scheduler.dispatcher import Drained, Scheduler
from sexton.scheduler.embedded_engine import EmbeddedEngine
from sexton.scheduler.engine import Engine
from sexton.scheduler.gateways import new_node_id
from sexton.scheduler.job import (
    At,
    CallState,
    CatchUp,
    Cron,
    DeliverOn,
    Every,
    Job,
    JobStatus,
    Limits,
    LogLine,
    OnInterrupted,
    Origin,
    Outcome,
    Overlap,
    Perform,
    Run,
    RunContext,
    RunCount,
    RunFailed,
    RunRecord,
    Schedule,
    ToolCall,
    Trigger,
    UnknownJob,
    UnknownRun,
)
from sexton.scheduler.job_document import check_job, from_document, to_document
from sexton.scheduler.job_rows import JobChanges
from sexton.scheduler.lease import GIVE_UP_AFTER, ONE_MACHINE, SEVERAL_MACHINES, Hold, LeaseTimes
from sexton.scheduler.needs import Need, Offer
from sexton.scheduler.node_rows import NodeEnd, NodeNotGone, NodeStatus, UnknownNode
from sexton.scheduler.rows import AtEnd
from sexton.scheduler.run_states import RunState
from sexton.scheduler.run_store import RunStore
from sexton.scheduler.timetable import next_starts

__all__ = [
    "GIVE_UP_AFTER",
    "ONE_MACHINE",
    "SEVERAL_MACHINES",
    "At",
    "AtEnd",
    "CallState",
    "CatchUp",
    "Cron",
    "DeliverOn",
    "Drained",
    "EmbeddedEngine",
    "Engine",
    "Every",
    "Hold",
    "Job",
    "JobChanges",
    "JobStatus",
    "LeaseTimes",
    "Limits",
    "LogLine",
    "Need",
    "NodeEnd",
    "NodeNotGone",
    "NodeStatus",
    "Offer",
    "OnInterrupted",
    "Origin",
    "Outcome",
    "Overlap",
    "Perform",
    "Run",
    "RunContext",
    "RunCount",
    "RunFailed",
    "RunRecord",
    "RunState",
    "RunStore",
    "Schedule",
    "Scheduler",
    "ToolCall",
    "Trigger",
    "UnknownJob",
    "UnknownNode",
    "UnknownRun",
    "check_job",
    "from_document",
    "new_node_id",
    "next_starts",
    "to_document",
]
