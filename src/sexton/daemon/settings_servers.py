"""The tables `[servers.NAME]` as `ServerConfig`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sexton.containment import Limits, StopTimes
from sexton.daemon.references import expand_home
from sexton.daemon.settings_file import ServerTable, ToolsTable, read_table, valid_name
from sexton.daemon.settings_findings import Findings
from sexton.daemon.toml_lines import KeyPath
from sexton.mcp_servers import HttpServer, ServerConfig, Sharing, StdioServer, ToolFilter


def read_servers(findings: Findings, tables: Mapping[str, Any]) -> Iterator[ServerConfig]:
    """The servers that are enabled and have the right shape; everything that is wrong goes to `findings`."""
    for name, raw in tables.items():
        at: KeyPath = ("servers", name)
        if (fault := valid_name(name)) is not None:
            findings.problem(at, fault)
        if not isinstance(raw, dict):
            findings.problem(at, f"must be a table: [servers.{name}]")
            continue
        table, wrong = read_table(ServerTable, raw)
        findings.note(at, wrong)
        _check_transport(findings, at, raw)
        if table.enabled:
            yield _server(findings, at, name, table)


def tool_filter(table: ToolsTable) -> ToolFilter:
    """`tools = { allow = […], deny = […] }`"""
    return ToolFilter(allow=None if table.allow is None else tuple(table.allow), deny=tuple(table.deny))


def _check_transport(findings: Findings, at: KeyPath, raw: Mapping[str, Any]) -> None:
    """A server is a program or an address, and has no keys of the other kind."""
    kind = raw.get("type")
    if "command" in raw and "url" in raw:
        findings.problem((*at, "url"), "stands beside command; a server is either a program or an address")
    elif "command" in raw:
        _check_foreign(findings, at, raw, "command", ("headers",))
        if kind in {"streamable-http", "sse"}:
            findings.problem((*at, "type"), f"is {kind!r}, but the server has a command; leave type out")
    elif "url" in raw:
        _check_foreign(findings, at, raw, "url", ("args", "env", "cwd", "limits", "stop"))
        if kind == "stdio":
            findings.problem((*at, "type"), "is 'stdio', but the server has a url; allowed: 'streamable-http', 'sse'")
    else:
        findings.problem(
            at, 'has neither command nor url; add command = "…" for a program, url = "https://…" for an address'
        )


def _check_foreign(
    findings: Findings, at: KeyPath, raw: Mapping[str, Any], present: str, foreign: tuple[str, ...]
) -> None:
    for key in foreign:
        if key in raw:
            findings.problem((*at, key), f"has no meaning for a server with {present}")


def _server(findings: Findings, at: KeyPath, name: str, table: ServerTable) -> ServerConfig:
    return ServerConfig(
        name=name,
        transport=_http(findings, at, table) if table.url else _stdio(findings, at, table),
        sharing=Sharing(table.sharing),
        idle_timeout=table.idle_timeout,
        max_age=table.max_age,
        max_calls=table.max_calls,
        keep_warm=table.keep_warm,
        max_processes=table.max_processes,
        connect_timeout=table.connect_timeout,
        call_timeout=table.call_timeout,
        write_timeout=table.write_timeout,
        max_line_bytes=table.max_line,
        tools=tool_filter(table.tools),
        stop=StopTimes(**table.stop.model_dump()),
        limits=Limits(
            memory_bytes=table.limits.memory,
            processes=table.limits.processes,
            cpu=table.limits.cpu,
            open_files=table.limits.open_files,
        ),
        no_new_privs=table.no_new_privs,
        protocol=table.protocol,
        concurrency=table.concurrency,
    )


def _stdio(findings: Findings, at: KeyPath, table: ServerTable) -> StdioServer:
    args = (expand_home(findings.resolved((*at, "args", place), text)) for place, text in enumerate(table.args))
    env = {name: expand_home(findings.resolved((*at, "env", name), text)) for name, text in table.env.items()}
    return StdioServer(
        command=findings.program((*at, "command"), table.command or ""),
        args=tuple(args),
        env=env,
        cwd=findings.working_folder((*at, "cwd"), table.cwd),
    )


def _http(findings: Findings, at: KeyPath, table: ServerTable) -> HttpServer:
    url = findings.resolved((*at, "url"), table.url or "")
    if url and not re.match(r"https?://[^/\s]", url):
        findings.problem((*at, "url"), "must begin with http:// or https:// and name a host")
    return HttpServer(
        url=url,
        headers={name: findings.resolved((*at, "headers", name), text) for name, text in table.headers.items()},
        kind="sse" if table.type == "sse" else "streamable-http",
    )
