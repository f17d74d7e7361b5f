"""The connection of one command to the gateway, closed when the command ends."""

from __future__ import annotations

from pathlib import Path

import typer

from sexton.cli.gateway_client import GatewayClient, find_gateway, need_gateway
from sexton.cli.options import places_of


def connect(context: typer.Context, config: Path | None, data: Path | None) -> GatewayClient:
    """The gateway on the data folder that the options name.  Raises `NoGatewayError` if none runs there."""
    gateway = need_gateway(places_of(context, config, data).data_dir())
    context.call_on_close(gateway.close)
    return gateway


def connect_if_running(context: typer.Context, data_dir: Path) -> GatewayClient | None:
    """The gateway on that folder, if one runs there."""
    gateway = find_gateway(data_dir)
    if gateway is not None:
        context.call_on_close(gateway.close)
    return gateway
