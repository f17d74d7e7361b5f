"""What the ways in need of the rest of the gateway, as protocols: the daemon hands the real parts over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import anyio

from sexton.agent import Chats
from sexton.clock import Clock
from sexton.gateway.channels import Channels
from sexton.gateway.deliveries import Deliveries
from sexton.gateway.http.caller import Caller
from sexton.gateway.http.limits import HttpLimits
from sexton.gateway.http.logins import Logins
from sexton.gateway.http.metrics import Metrics
from sexton.gateway.http.open_requests import OpenRequests
from sexton.gateway.http.tokens import Tokens
from sexton.gateway.journal_archive import JournalArchive
from sexton.gateway.memory_samples import MemorySamples
from sexton.gateway.reap_documents import Sweep
from sexton.gateway.record_documents import Record
from sexton.gateway.tree_status import TreeStatus
from sexton.journal import Journal
from sexton.redaction import Redactor
from sexton.scheduler import Scheduler


class Keyring(Protocol):
    """The tokens that were made for others."""

    async def caller(self, token: str) -> Caller | None:
        """Whose token it is; None if it is nobody's, revoked or expired."""
        ...

    async def caller_of_id(self, token_id: str) -> Caller | None: ...


class Tool(Protocol):
    """One tool of a server, under the server's own name for it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def description(self) -> str | None: ...
    @property
    def input_schema(self) -> Mapping[str, Any]: ...


class ToolResult(Protocol):
    """What a tool answered."""

    @property
    def content(self) -> Sequence[Any]: ...
    @property
    def structured_content(self) -> Any: ...
    @property
    def is_error(self) -> bool: ...


class Lease(Protocol):
    """The right to use one server."""

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], *, timeout: float | None = None
    ) -> ToolResult: ...
    async def list_tools(self) -> Sequence[Tool]: ...
    def admits(self, tool: str) -> bool: ...


class ServerProcess(Protocol):
    """One process of a server."""

    @property
    def pid(self) -> int | None: ...
    @property
    def holders(self) -> Sequence[str]: ...


class ServerStatus(Protocol):
    """How one configured server is doing; `memory` in bytes, `age` in seconds."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def sharing(self) -> str: ...
    @property
    def holders(self) -> Sequence[str]: ...
    @property
    def pids(self) -> Sequence[int]: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def age(self) -> float | None: ...
    @property
    def calls(self) -> int: ...
    @property
    def breaker(self) -> str: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def transport(self) -> str: ...
    @property
    def waiting(self) -> Sequence[str]: ...
    @property
    def tools(self) -> int | None: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def processes(self) -> Sequence[ServerProcess]: ...


class CheckReport(Protocol):
    """What came of using a server for a moment; `seconds` until its tools were known."""

    @property
    def server(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    @property
    def was_running(self) -> bool: ...
    @property
    def protocol_version(self) -> str | None: ...
    @property
    def server_info(self) -> str | None: ...
    @property
    def tools(self) -> Sequence[Tool]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def error(self) -> str | None: ...
    @property
    def hint(self) -> str | None: ...


class Containment(Protocol):
    """The process trees."""

    @property
    def boundary(self) -> str: ...
    def trees(self) -> Sequence[TreeStatus]: ...
    async def sweep(self, *, include_active: bool = False) -> Sweep: ...


class Pool(Protocol):
    """The MCP servers."""

    def status(self) -> Sequence[ServerStatus]: ...
    def lease(self, server: str, *, holder: str, returns: bool = True) -> AbstractAsyncContextManager[Lease]: ...
    async def tools(self, server: str) -> Sequence[Tool]: ...
    def known_tools(self, server: str) -> Sequence[Tool] | None: ...
    async def check(self, server: str) -> CheckReport: ...
    async def restart(self, server: str, *, drain: float = ...) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts behind the ways in.

    `examine` is containment's doctor and `orphans` its list of trees that nobody keeps any more, both for this data
    folder.  `node` is this gateway's name.  `logins` are the browsers, `keyring` knows the tokens beside the local
    owner's and `tokens` makes and revokes them.
    """

    pool: Pool
    scheduler: Scheduler
    deliveries: Deliveries
    chats: Chats
    containment: Containment
    journal: Journal
    clock: Clock
    examine: Callable[[], Awaitable[object]]
    orphans: Callable[[], Sequence[Record]]
    started_at: datetime
    node: str
    data_dir: Path
    config_path: Path | None = None
    logins: Logins = field(default_factory=Logins)
    keyring: Keyring | None = None
    tokens: Tokens | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    redactor: Redactor = field(default_factory=Redactor)
    memory: MemorySamples = field(default_factory=MemorySamples)
    """What the process trees used lately."""
    metrics: Metrics = field(default_factory=Metrics)
    channels: Channels | None = None
    archive: JournalArchive | None = None
    """The events of all nodes; None: this one is alone."""
    profiles: Callable[[], Collection[str]] | None = None
    """The MCP profiles that there are now; None: nobody knows."""
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    model_holders: Callable[[], Mapping[int, Sequence[str]]] = dict
    """Who uses the servers of local models, by the pid of their leaders."""
    closing: anyio.Event = field(default_factory=anyio.Event)
    """Set when the server begins to close: streams without end stop."""
    cutting_off: anyio.Event = field(default_factory=anyio.Event)
    """Set when calls that still run have had their time: they are cancelled."""
