"""The MCP servers: how each is doing, what tools it has, and starting one anew."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from sexton.gateway.documents import CheckDocument, ServerDocument, ToolDocument
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.http.parts import CheckReport, Gateway, ServerStatus, Tool
from sexton.gateway.http.problem import not_found


async def list_servers(gateway: Gateway, _: Request) -> Sequence[ServerDocument]:
    """Every configured server, by name."""
    return [server_document(status) for status in sorted(gateway.pool.status(), key=lambda status: status.name)]


async def list_tools(gateway: Gateway, request: Request) -> Sequence[ToolDocument]:
    """A server's tools from the catalogue; the server is started only if they are not known yet."""
    name = known_server(gateway, request.path_params["server"])
    return [tool_document(tool) for tool in await while_connected(gateway, request.receive, gateway.pool.tools(name))]


async def check_server(gateway: Gateway, request: Request) -> CheckDocument:
    """Start the server, ask for its tools, and say what came of it."""
    name = known_server(gateway, request.path_params["server"])
    return check_document(await while_connected(gateway, request.receive, gateway.pool.check(name)))


async def restart_server(gateway: Gateway, request: Request) -> ServerDocument:
    """Give new holders a fresh process, and clear the breaker."""
    name = known_server(gateway, request.path_params["server"])
    await gateway.pool.restart(name)
    return next(server_document(status) for status in gateway.pool.status() if status.name == name)


async def stop_server(gateway: Gateway, request: Request) -> ServerDocument:
    """End the server's processes now, whoever uses them; it starts again when it is next needed."""
    name = known_server(gateway, request.path_params["server"])
    await gateway.pool.restart(name, drain=0.0)
    return next(server_document(status) for status in gateway.pool.status() if status.name == name)


def known_server(gateway: Gateway, name: str) -> str:
    """The name, if there is such a server.  Raises `Problem` 404 with the nearest one."""
    known = [status.name for status in gateway.pool.status()]
    if name not in known:
        raise not_found("server", name, known, listing="sexton servers")
    return name


def server_document(status: ServerStatus) -> ServerDocument:
    return ServerDocument(
        name=status.name,
        state=str(status.state),
        sharing=str(status.sharing),
        transport=str(status.transport),
        holders=list(status.holders),
        waiting=list(status.waiting),
        pids=list(status.pids),
        memory=status.memory,
        age=None if status.age is None else round(status.age, 3),
        calls=status.calls,
        tools=status.tools,
        breaker=str(status.breaker),
        last_error=status.last_error,
        warnings=list(status.warnings),
    )


def tool_document(tool: Tool) -> ToolDocument:
    return ToolDocument(
        name=tool.name, title=tool.title, description=tool.description, input_schema=dict(tool.input_schema)
    )


def check_document(report: CheckReport) -> CheckDocument:
    return CheckDocument(
        server=report.server,
        ok=report.ok,
        seconds=round(report.seconds, 3),
        was_running=report.was_running,
        protocol_version=report.protocol_version,
        server_info=report.server_info,
        tools=len(report.tools),
        warnings=list(report.warnings),
        error=report.error,
        hint=report.hint,
    )
