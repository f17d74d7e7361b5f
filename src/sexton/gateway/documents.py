"""The JSON documents of the API: one type per kind of object; `--json` of the command line prints them as they are.

Times are ISO 8601 with an offset, durations and ages are seconds, sizes are bytes.  Keys are only ever added.  Standard
library only: the command line imports this on every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class DatabaseTroubleDocument(TypedDict):
    """Why the database does not do what is asked of it: `failure` is one word, `what` and `hint` are for people."""

    failure: str
    what: str
    hint: str | None


class DatabaseCopyDocument(TypedDict):
    """What `sexton database copy` took along, or would take: rows of each table."""

    source: str
    target: str
    dry_run: bool
    rows: Mapping[str, int]


class StatusDocument(TypedDict):
    """The gateway itself.  `database` is None while it works; the three counts are None while it cannot be read."""

    version: str
    url: str | None
    pid: int
    node: str
    started_at: str
    uptime: float
    boundary: str
    config: str | None
    data: str
    servers: Mapping[str, int]  # state -> how many
    jobs: int | None
    jobs_paused: int | None
    runs_active: int | None
    last_event: int
    database: DatabaseTroubleDocument | None


class NodeTreeDocument(TypedDict):
    """One process tree of a node, as of its last beat; `memory` in bytes."""

    name: str
    owner: str
    state: str
    processes: int
    memory: int | None


class NodeEndDocument(TypedDict):
    """How a gateway ended.  `how` is stopped or died; of one that died, the node `by` settled that many of its runs,
    and queued `rerun` of them again."""

    how: str
    at: str
    by: str | None
    settled: int
    rerun: int


class NodeDocument(TypedDict):
    """One node on this database.  `state` is up, silent (it has not said for a while that it lives), drained or absent
    (not running); `drained`: it gets no runs; `beat` is when it last said that it lives; `here` marks the one that
    answers; `ended` is how the last gateway of that name ended: for one that runs, its predecessor."""

    name: str
    id: str | None
    state: str
    drained: bool
    here: bool
    labels: Sequence[str]
    servers: Sequence[str]
    capacity: int | None
    running: int
    version: str | None
    started_at: str | None
    beat: str | None
    trees: Sequence[NodeTreeDocument]
    ended: NodeEndDocument | None


class ForgottenNodeDocument(TypedDict):
    """A node that was taken out of the list, and the jobs that only its config file named, which went with it."""

    name: str
    jobs_removed: Sequence[str]


class HealthDocument(TypedDict):
    alive: bool


class TroubleDocument(TypedDict):
    """A part that does not work; `what` is null for a caller without a token."""

    part: str
    what: str | None


class ReadinessDocument(TypedDict):
    ready: bool
    troubles: Sequence[TroubleDocument]


class LoginLinkDocument(TypedDict):
    """`path` (behind the gateway's address) logs one browser in, once, within `seconds`."""

    path: str
    seconds: float


class TokenDocument(TypedDict):
    """What is known of a token; `scopes` and what they contain, `profiles` are those of the MCP endpoint to which it is
    confined, null: not confined."""

    id: str
    name: str
    scopes: Sequence[str]
    profiles: Sequence[str] | None
    valid: bool
    created_at: str
    created_by: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class NewTokenDocument(TokenDocument):
    """`token` is told this once."""

    token: str


class ServerDocument(TypedDict):
    """`memory`, `pids` and `calls` are sums over its processes; `waiting` are holders that have none yet."""

    name: str
    state: str
    sharing: str
    transport: str
    holders: Sequence[str]
    waiting: Sequence[str]
    pids: Sequence[int]
    memory: int | None
    age: float | None
    calls: int
    tools: int | None
    breaker: str
    last_error: str | None
    warnings: Sequence[str]


class ToolDocument(TypedDict):
    name: str
    title: str | None
    description: str | None
    input_schema: Mapping[str, Any]


class CheckDocument(TypedDict):
    """What came of starting a server and asking for its tools."""

    server: str
    ok: bool
    seconds: float
    was_running: bool
    protocol_version: str | None
    server_info: str | None
    tools: int
    warnings: Sequence[str]
    error: str | None
    hint: str | None


class CallDocument(TypedDict):
    """What a tool answered; `is_error` is the tool's own verdict."""

    server: str
    tool: str
    is_error: bool
    text: str
    content: Sequence[Mapping[str, Any]]
    structured_content: Any
    seconds: float


class JobDocument(TypedDict):
    name: str
    schedule: Mapping[str, Any] | None  # {"every": seconds} | {"cron": expression} | {"at": time}
    timezone: str
    jitter: float
    action: Mapping[str, Any]
    overlap: str
    catch_up: str
    catch_up_window: float
    retries: int
    retry_backoff: float
    timeout: float | None
    idle_timeout: float | None
    priority: int
    concurrency: int
    resources: Sequence[str]
    on_interrupted: str
    paused: bool
    paused_since: str | None
    origin: str
    deliver: Sequence[str]
    deliver_on: str
    node: str | None
    labels: Sequence[str]
    next_run: str | None
    active_runs: Sequence[RunDocument]
    last_run: RunDocument | None


class NextDocument(TypedDict):
    """The coming start times, in UTC."""

    job: str
    timezone: str
    paused: bool
    times: Sequence[str]


class RunDocument(TypedDict):
    """`output` is the beginning; the whole of it is at `/runs/{id}/output`.  A row may cover `count` slots."""

    id: str
    job: str
    slot: str | None
    slot_end: str | None
    count: int
    attempt: int
    state: str
    reason: str | None
    trigger: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    seconds: float | None
    output: str | None
    error: str | None
    details: Mapping[str, Any]
    node: str | None


class DeliveryDocument(TypedDict):
    """One message on its way to a target; `text` is its beginning, the whole of it is at `/deliveries/{id}/text`."""

    id: int
    target: str
    key: str
    state: str
    job: str | None
    run: str | None
    title: str | None
    text: str
    characters: int
    attempts: int
    parts_sent: int
    created_at: str
    next_attempt: str | None
    ended_at: str | None
    error: str | None
    receipt: str | None


class RunCountDocument(TypedDict):
    """How many rows of a job are in a state, and how many slots these stand for."""

    job: str
    state: str
    runs: int
    slots: int


class TimesDocument(TypedDict):
    """What a schedule that nobody has yet would mean: its coming times, in UTC."""

    times: Sequence[str]


class ChannelDocument(TypedDict):
    """A chat platform; `waiting` are messages without an answer, `people` those who may talk to it.

    `node` keeps it, where several share the database; `state` is then "standby" until it has told more.
    """

    name: str
    type: str
    state: str
    account: str | None
    since: str
    error: str | None
    hint: str | None
    retry_at: str | None
    waiting: int
    people: int
    node: str | None


class PersonDocument(TypedDict):
    """Somebody who wrote to a channel; `code` is what they were told while they wait, `by` who decided."""

    channel: str
    id: str
    name: str
    standing: str
    code: str | None
    since: str
    by: str | None


class PairingDocument(TypedDict):
    """A code that lets in the first who sends it."""

    channel: str
    code: str
    expires_at: str


class LogLineDocument(TypedDict):
    at: str
    text: str


class ToolCallDocument(TypedDict):
    """One call of a run, once it has ended; `state`: ok, error (the tool says so), failed (no answer), denied,
    cancelled.  `text` is the beginning of the answer."""

    number: int
    server: str
    tool: str
    arguments: Mapping[str, Any]
    state: str
    text: str
    started_at: str
    seconds: float


class RunRecordDocument(TypedDict):
    """A run with everything that was kept of it; of its `calls` the first 100."""

    run: RunDocument
    output: str | None
    log: Sequence[LogLineDocument]
    calls: Sequence[ToolCallDocument]


class ConversationDocument(TypedDict):
    """`key` is how its way in knows it; `busy`: a turn waits or is under way."""

    id: str
    key: str
    way: str
    title: str
    created_at: str
    changed_at: str
    busy: bool


class MessageDocument(TypedDict):
    """`number` orders; `role` is user or assistant; `cut`: the model was stopped in the middle of it."""

    number: int
    turn: str
    role: str
    text: str
    author: str
    cut: bool
    at: str
    images: Sequence[Mapping[str, Any]]  # media_type, name, bytes; in an export: data, in base64
    calls: Sequence[Mapping[str, Any]]  # id, server, tool, arguments, state, result, seconds, images


class TurnDocument(TypedDict):
    """One message that was sent, and what became of it."""

    id: str
    state: str
    text: str
    error: str | None
    hint: str | None
    usage: Mapping[str, Any]  # steps, calls, input_tokens, output_tokens, cost, seconds, models


class ConversationRecordDocument(TypedDict):
    """`turns` are those that wait, run, failed or were stopped."""

    conversation: ConversationDocument
    messages: Sequence[MessageDocument]
    turns: Sequence[TurnDocument]


class FoundDocument(TypedDict):
    """A message that a search found; in `excerpt` the words stand between « and »."""

    conversation: str
    title: str
    number: int
    role: str
    excerpt: str
    at: str


class ApprovalDocument(TypedDict):
    """A question for a person.  `kind` is call, elicitation or sampling; `holder` is the run or chat that waits."""

    id: str
    kind: str
    holder: str
    turn: str
    server: str
    tool: str
    question: Mapping[str, Any]
    state: str
    asked_at: str
    expires_at: str
    answered_at: str | None
    answered_by: str | None


class TreeDocument(TypedDict):
    """One process tree; `holders` are those who use its server at this moment."""

    id: str
    name: str
    owner: str
    state: str
    boundary: str
    holders: Sequence[str]
    leader_pid: int | None
    keeper_pid: int | None
    pids: Sequence[int]
    memory: int | None
    age: float
    started_at: str
    reason: str | None
    stuck: Sequence[Mapping[str, Any]]  # pid, why
    external: Any


class ProcessesDocument(TypedDict):
    """`boundary` is the one in force; None where no gateway runs."""

    boundary: str | None
    trees: Sequence[TreeDocument]


class MemoryDocument(TypedDict):
    """How much memory a tree used lately, oldest first; `ended_at` None: it lives."""

    tree: str
    name: str
    owner: str
    leader_pid: int | None
    started_at: str
    ended_at: str | None
    samples: Sequence[tuple[str, int]]  # time, bytes


class ReapDocument(TypedDict):
    """What a sweep would end (dry run), or what it found without a keeper, ended, and could not end."""

    dry_run: bool
    would_end: Sequence[TreeDocument]
    recovered: Sequence[Mapping[str, Any]]  # tree, name, owner, state, killed, containers, escaped, stuck, pending
    ended: Sequence[str]  # ids of trees that were in use (include_active)
    stuck: Sequence[str]  # ids of trees that do not end; every sweep tries again
    unfollowed: Sequence[Mapping[str, Any]]  # path, why: records that nobody may act on


class EventDocument(TypedDict):
    id: int
    at: str
    kind: str
    subject: str
    data: Mapping[str, Any]


class NodeEventDocument(EventDocument):
    """`number` is its id in the journal of its node."""

    node: str
    number: int
