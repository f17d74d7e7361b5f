"""The tables `[endpoint]` and `[profiles.NAME]` as `EndpointSettings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from sexton.daemon.settings_file import (
    Count,
    PositiveDuration,
    Size,
    StrictTable,
    Text,
    ToolsTable,
    read_table,
    valid_name,
)
from sexton.daemon.settings_findings import Findings
from sexton.daemon.settings_problems import did_you_mean
from sexton.daemon.toml_lines import KeyPath
from sexton.gateway.mcp_endpoint import EndpointSettings, Profile
from sexton.mcp_servers import ToolFilter


class EndpointTable(StrictTable):
    """`[endpoint]`"""

    search_above: Annotated[int, Field(ge=0)] = 100
    idle_timeout: PositiveDuration = 1800.0
    max_sessions: Count = 256
    input_timeout: PositiveDuration = 600.0
    max_body: Size = 16 << 20
    close_streams_after: PositiveDuration | None = None
    audit: bool = True


class ProfileTable(StrictTable):
    """`[profiles.NAME]`"""

    servers: list[Text] | None = None
    allow: list[Text] | None = None
    deny: list[Text] = Field(default_factory=list)
    prompts: ToolsTable = ToolsTable()
    resources: ToolsTable = ToolsTable()


def read_endpoint(
    findings: Findings, raw: Any, profiles: Mapping[str, Any], *, servers: Mapping[str, Any]
) -> EndpointSettings:
    """What the file says of the MCP endpoint; everything that is wrong goes to `findings`."""
    table, wrong = read_table(EndpointTable, raw if isinstance(raw, dict) else {})
    findings.note(("endpoint",), wrong)
    return EndpointSettings(
        search_above=table.search_above,
        idle_timeout=table.idle_timeout,
        max_sessions=table.max_sessions,
        input_timeout=table.input_timeout,
        max_body=table.max_body,
        close_streams_after=table.close_streams_after,
        audit=table.audit,
        profiles={profile.name: profile for profile in _profiles(findings, profiles, servers)},
    )


def _profiles(findings: Findings, tables: Mapping[str, Any], servers: Mapping[str, Any]) -> Iterator[Profile]:
    for name, raw in tables.items():
        at: KeyPath = ("profiles", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if not isinstance(raw, dict):
            findings.problem(at, f"must be a table: [profiles.{name}]")
            continue
        table, wrong = read_table(ProfileTable, raw)
        findings.note(at, wrong)
        for place, server in enumerate(table.servers or ()):
            if server not in servers:
                what = f"is {server!r}, and there is no such server{did_you_mean(server, servers)}"
                findings.problem((*at, "servers", place), what)
        yield Profile(
            name=name,
            servers=None if table.servers is None else tuple(table.servers),
            tools=_filter(table),
            prompts=_filter(table.prompts),
            resources=_filter(table.resources),
        )


def _filter(table: ProfileTable | ToolsTable) -> ToolFilter:
    return ToolFilter(allow=None if table.allow is None else tuple(table.allow), deny=tuple(table.deny))
