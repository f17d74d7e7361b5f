"""What `make up` runs: real servers, and jobs of every kind."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from system.gateway_process import GatewayProcess
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "examples/starter/sexton.toml"


@pytest.mark.npm
@pytest.mark.usefixtures("real_servers")
@pytest.mark.timeout(600)
def test_every_job_of_the_starter_configuration_does_what_it_shows(gateway: GatewayProcess) -> None:
    text = STARTER.read_text().replace("../..", str(ROOT)).replace('path = "."', f'path = "{ROOT}"')
    sooner = re.sub(r'every = "\d+s"', 'every = "5s"', text).replace("*/20", "*/5")
    gateway.write(sooner.replace('idle_timeout = "5s"', 'idle_timeout = "2s"')).up()
    for job in ("clock", "tokyo", "new-york", "commits", "listing", "sum", "hello", "load"):
        gateway.wait_event("run.ended", subject=job, state="ran", within=PATIENCE)
    for job in ("too-slow", "stubborn"):
        gateway.wait_event("run.ended", subject=job, state="failed", within=PATIENCE)
    assert gateway.events("server.shared", subject="time")
    gateway.wait_event("server.retired", subject="git")
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()
