"""The shape of `sexton.toml`: which keys there are and which values each takes.

What one table alone can tell is decided here; what needs a second table, the
machine or the clock is decided in `settings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from sexton.daemon.quantities import DURATION_EXAMPLES, SIZE_EXAMPLES, parse_duration, parse_size
from sexton.daemon.settings_problems import listed, nearest
from sexton.daemon.toml_lines import KeyPath

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_PATTERN_HELP = "a letter or digit, then letters, digits, '-' and '_'"
_Table = TypeVar("_Table", bound=BaseModel)


def _duration(value: object) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'is the number {value}; name the unit: "{value}s" or "{value}m"')  # noqa: TRY004
    raise ValueError(f"is {_kind(value)}; a duration is text such as {DURATION_EXAMPLES}")


def _positive_duration(value: object) -> float:
    seconds = _duration(value)
    if seconds <= 0:
        raise ValueError("is 0; it must be longer")
    return seconds


def _duration_or_never(value: object) -> float | None:
    return None if value == "never" else _positive_duration(value)


def _size(value: object) -> int:
    if not isinstance(value, str):
        # pydantic takes ValueError for an answer, TypeError for a defect.
        raise ValueError(f"is {_kind(value)}; a size is text such as {SIZE_EXAMPLES}")  # noqa: TRY004
    if (size := parse_size(value)) <= 0:
        raise ValueError("is 0; it must be larger")
    return size


Duration = Annotated[float, BeforeValidator(_duration)]
PositiveDuration = Annotated[float, BeforeValidator(_positive_duration)]
DurationOrNever = Annotated[float | None, BeforeValidator(_duration_or_never)]
"""None is "never"."""
Size = Annotated[int, BeforeValidator(_size)]
Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1)]
ApprovalLevel = Literal["never", "destructive", "always"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[Text], BeforeValidator(_as_list)]
"""A list of names, or one name alone."""


class StrictTable(BaseModel):
    """Any table: no unknown keys, no conversions."""

    # Strict: TOML has its own types, and `retries = "3"` is a slip that a conversion would hide.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class ToolsTable(StrictTable):
    """`tools = { allow = […], deny = […] }`"""

    allow: list[Text] | None = None
    deny: list[Text] = []


class StopTable(StrictTable):
    """`stop = { stdin_grace = "2s", … }`: how long each rung of the stop ladder may take."""

    stdin_grace: Duration = 2.0
    term_grace: Duration = 2.0
    leader_exit_grace: Duration = 0.2
    orphaned_stdin_grace: Duration = 0.5
    orphaned_term_grace: Duration = 0.5
    stuck_after: PositiveDuration = 10.0


class LimitsTable(StrictTable):
    """`limits = { memory = "512MiB", … }`"""

    memory: Size | None = None
    processes: Count | None = None
    cpu: Annotated[float, Field(gt=0)] | None = None
    open_files: Count | None = None


class ServerTable(StrictTable):
    """`[servers.NAME]`"""

    enabled: bool = True
    command: Text | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: Text | None = None
    url: Text | None = None
    headers: dict[str, str] = {}
    type: Literal["stdio", "streamable-http", "sse"] | None = None
    sharing: Literal["shared", "exclusive"] = "shared"
    idle_timeout: PositiveDuration = 600.0
    max_age: PositiveDuration | None = None
    max_calls: Count | None = None
    keep_warm: bool = False
    max_processes: Count = 4
    concurrency: Count | None = None
    connect_timeout: PositiveDuration = 120.0
    call_timeout: PositiveDuration = 300.0
    write_timeout: PositiveDuration = 30.0
    max_line: Size = 64 << 20
    tools: ToolsTable = ToolsTable()
    stop: StopTable = StopTable()
    limits: LimitsTable = LimitsTable()
    no_new_privs: bool = True
    protocol: Literal["auto", "legacy", "2026-07-28"] = "auto"
    approvals: ApprovalLevel = "never"
    approve: dict[str, ApprovalLevel] = {}


class JobTable(StrictTable):
    """`[jobs.NAME]`"""

    every: PositiveDuration | None = None
    cron: Text | None = None
    at: Text | datetime | None = None
    timezone: Text | None = None
    jitter: Duration = 0.0
    call: Text | None = None
    arguments: dict[str, Any] = {}
    command: list[Text] | None = None
    env: dict[str, str] = {}
    cwd: Text | None = None
    prompt: Text | None = None
    servers: list[Text] = []
    model: Names | None = None
    instructions: Text | None = None
    output_schema: dict[str, Any] = {}
    max_steps: Count | None = None
    max_tokens: Count | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    tools: ToolsTable = ToolsTable()
    approvals: ApprovalLevel = "never"
    may: list[Literal["runs", "jobs", "memory", "send"]] = []
    send_to: list[Text] = []
    overlap: Literal["skip", "queue", "replace", "parallel"] = "skip"
    catch_up: Literal["none", "latest", "all"] = "latest"
    catch_up_window: PositiveDuration = 86400.0
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_backoff: PositiveDuration = 1.0
    timeout: PositiveDuration | None = None
    idle_timeout: PositiveDuration | None = None
    priority: int = 0
    concurrency: Count = 1
    resources: list[Text] = []
    on_interrupted: Literal["record", "rerun"] = "record"
    paused: bool = False
    deliver: list[Text] = []
    deliver_on: Literal["always", "output", "success", "failure"] = "always"
    node: Text | None = None
    labels: list[Text] = []


class RootTable(StrictTable):
    """The keys before the first table."""

    listen: Text = "127.0.0.1:7390"
    timezone: Text = "UTC"
    concurrency: Count = 16
    drain_timeout: Duration = 20.0
    database: Text | None = None
    require_containment: Literal["process-group", "subreaper", "cgroup"] | None = None
    resources: dict[str, Count] = {}
    http: dict[str, Any] = {}
    tls: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}
    servers: dict[str, Any] = {}
    jobs: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    channels: dict[str, Any] = {}
    endpoint: dict[str, Any] = {}
    profiles: dict[str, Any] = {}
    models: dict[str, Any] = {}
    agent: dict[str, Any] = {}
    node: dict[str, Any] = {}


# Keys that a later part of sexton brings, or that stand in other programs' files.
_KNOWN_ELSEWHERE = {
    "disabled": "is unknown; write enabled = false",
    "schedule": 'is unknown; write cron = "0 7 * * *", every = "10m" or at = "2026-12-24 18:00"',
    "mcpServers": "is how JSON files name it; write [servers.NAME], or: sexton servers import FILE",
    "mcp_servers": "is how other programs name it; write [servers.NAME], or: sexton servers import FILE",
}


def read_table(model: type[_Table], raw: Mapping[str, object]) -> tuple[_Table, list[tuple[KeyPath, str]]]:
    """`raw` as `model`, and what is wrong with it: (path within the table, text) each.

    Keys that are wrong count as not given, so that the rest can still be checked.
    """
    try:
        return model.model_validate(raw), []
    except ValidationError as wrong:
        paths = [error["loc"] for error in wrong.errors(include_input=False, include_context=False)]
        return _salvaged(model, raw, paths), list(_explained(model, wrong))


def _salvaged(model: type[_Table], raw: Mapping[str, object], wrong: list[KeyPath]) -> _Table:
    sound = {key: value for key, value in raw.items() if key not in {path[0] for path in wrong}}
    for key in {path[0] for path in wrong if len(path) > 1}:
        inner, inner_wrong = raw[str(key)], {path[1] for path in wrong if path[0] == key}
        if isinstance(inner, dict) and all(isinstance(name, str) for name in inner_wrong):
            sound[str(key)] = {name: value for name, value in inner.items() if name not in inner_wrong}
    try:
        return model.model_validate(sound)
    except ValidationError:
        return model()


def valid_name(name: str) -> str | None:
    """What is wrong with `name` as the name of a server or job, if anything."""
    if not NAME.fullmatch(name) or len(name) > 64:
        return f"is no usable name: {_PATTERN_HELP}, not longer than 64"
    if "__" in name:
        return "is no usable name: '__' stands between server and tool"
    return None


def _explained(model: type[BaseModel], wrong: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    for error in wrong.errors(include_url=False):
        path = _without_union_members(model, error["loc"])
        yield path, _explanation(model, path, error)


def _without_union_members(model: type[BaseModel], loc: KeyPath) -> KeyPath:
    """pydantic appends the name of the union's member that failed ('datetime', 'list[str]'); TOML has no such key."""
    head, *rest = loc
    table = _inner_table(model, head)
    if table is not None and rest:
        return (head, *_without_union_members(table, tuple(rest)))
    member = re.compile(r"constrained-str|datetime|list\[.*|function-.*|constrained-.*|float|int|str")
    return (head, *(part for part in rest if isinstance(part, int) or not member.fullmatch(part)))


def _inner_table(model: type[BaseModel], key: str | int) -> type[BaseModel] | None:
    field = model.model_fields.get(str(key))
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _explanation(model: type[BaseModel], path: KeyPath, error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(_table_at(model, path), str(path[-1]))
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return _not_allowed(error["input"], str(context["expected"]))
    if (said := _TYPE_ERRORS.get(kind)) is not None:
        return f"is {_kind(error['input'])}; it must be {said}"
    if (bounded := _BOUNDS.get(kind)) is not None:
        return bounded(context)
    return error["msg"][0].lower() + error["msg"][1:]


def _table_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    for key in path[:-1]:
        model = _inner_table(model, key) or model
    return model


def _unknown_key(table: type[BaseModel], key: str) -> str:
    if known := _KNOWN_ELSEWHERE.get(key):
        return known
    near = nearest(key, table.model_fields)
    return "is an unknown key" + (f"; did you mean {near!r}?" if near else f"; allowed: {listed(table.model_fields)}")


def _not_allowed(value: object, expected: str) -> str:
    allowed = re.findall(r"'([^']*)'", expected)
    if not isinstance(value, str):
        return f"is {_kind(value)}; allowed: {listed(allowed)}"
    near = nearest(value, allowed)
    return f"is {value!r}; allowed: {listed(allowed)}" + (f"; did you mean {near!r}?" if near else "")


_TYPE_ERRORS = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": 'a list, such as ["a", "b"]',
    "dict_type": 'a table, such as { a = "b" }',
    "model_type": 'a table, such as { a = "b" }',
    "datetime_type": "a date and time",
}

_BOUNDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda context: f"is too small; the smallest is {context['ge']}",
    "less_than_equal": lambda context: f"is too large; the largest is {context['le']}",
    "greater_than": lambda context: f"is too small; it must be more than {context['gt']:g}",
    "string_too_short": lambda _context: "is empty",
}


def _kind(value: object) -> str:
    """What `value` is in TOML's words; the value itself may be a secret."""
    # bool is an int and datetime a date in Python: the narrower type comes first.
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a table"),
        (datetime, "a date and time"),
        (date, "a date"),
        (time, "a time of day"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)
