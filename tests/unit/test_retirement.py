"""When an idle process has had its time."""

from __future__ import annotations

import math

import pytest

from fake_servers import server
from sexton.mcp_servers.retirement import Reason, Service, Verdict, judge
from sexton.mcp_servers.server_config import ServerConfig

PLAIN = server("a", idle_timeout=60)
AGED = server("a", idle_timeout=60, max_age=100)
COUNTED = server("a", idle_timeout=60, max_calls=3)


@pytest.mark.parametrize(
    ("config", "now", "calls", "keeps_warm", "verdict"),
    [
        (PLAIN, 109, 0, False, Verdict(None, 110)),
        (PLAIN, 110, 0, False, Verdict(Reason.IDLE, 110)),
        (PLAIN, 10_000, 0, True, Verdict(None, math.inf)),
        (AGED, 60, 0, False, Verdict(None, 100)),
        (AGED, 100, 0, False, Verdict(Reason.MAX_AGE, 100)),
        (AGED, 100, 0, True, Verdict(Reason.MAX_AGE, 100)),
        (COUNTED, 51, 2, False, Verdict(None, 110)),
        (COUNTED, 51, 3, False, Verdict(Reason.MAX_CALLS, 51)),
    ],
)
def test_an_idle_process_ends_by_time_age_or_calls(
    config: ServerConfig, now: float, calls: int, keeps_warm: bool, verdict: Verdict
) -> None:
    service = Service(started_at=0.0, idle_since=50.0, calls=calls, keeps_warm=keeps_warm)
    assert judge(config, service, now=now) == verdict
