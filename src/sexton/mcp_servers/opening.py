"""Which kind of connection a server's definition asks for."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from sexton.containment import Containment
from sexton.mcp_servers.callbacks import ANY_HOLDER
from sexton.mcp_servers.remote_transport import RemoteServer
from sexton.mcp_servers.running_server import OpenServer, RunningServer
from sexton.mcp_servers.server_config import HttpServer, ServerConfig
from sexton.mcp_servers.server_process import ServerProcess


def server_opener(containment: Containment, log_dir: Path) -> OpenServer:
    """Return what starts or reaches a server; the stderr of those that we start goes to `log_dir`."""

    def open_server(config: ServerConfig) -> AbstractAsyncContextManager[RunningServer]:
        if isinstance(config.transport, HttpServer):
            return RemoteServer.open(config)
        owner = f"server:{config.name}"
        return ServerProcess.open(config, containment, owner=owner, log_dir=log_dir, callbacks=ANY_HOLDER)

    return open_server
