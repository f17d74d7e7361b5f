"""A gateway that is stopped (SIGSTOP) for longer than its claims hold, while its machine goes on.

Another node does its slot again, and nothing of the first run may be at work any more: each run holds a lock of the
kernel on a file of its slot for as long as a process of it lives.  With the warden's switch taken out this fails.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scale.machines import QUICK_NODE
from system.gateway_process import GatewayProcess, wait_for

if TYPE_CHECKING:
    from postgres_server import PostgresServer

SETTINGS = """
[node]
name = "{name}"

[jobs.long]
at = "2026-01-01T00:00:00+00:00"
catch_up_window = "9000d"
on_interrupted = "rerun"
command = ["bash", "-c", '''
trap "" TERM
exec 9>> "$0/slot"
flock -n 9 || {{ echo "$SEXTON_ATTEMPT" >> "$0/overlaps"; exit 3; }}
echo "$SEXTON_ATTEMPT" >> "$0/began"
[ "$SEXTON_ATTEMPT" = 2 ] || while :; do sleep 1; done
''', "{evidence}"]
"""


@pytest.fixture
def nodes(tmp_path: Path, postgres: PostgresServer) -> Iterator[dict[str, GatewayProcess]]:
    """Two gateways with shorter leases (see `quick_node`), and a run that ends only when it is the second one."""
    url, made = postgres.url(postgres.new_database()).text, {}
    (tmp_path / "evidence").mkdir()
    with ExitStack() as stack:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            made[name] = GatewayProcess(tmp_path / name)
            stack.callback(made[name].close)
            made[name].database, made[name].program = url, (str(QUICK_NODE),)
            made[name].write(SETTINGS.format(name=name, evidence=tmp_path / "evidence"))
        yield made


def test_its_warden_ends_its_work_before_another_node_does_it_again(
    nodes: dict[str, GatewayProcess], tmp_path: Path
) -> None:
    one, two = nodes["one"], nodes["two"]
    one.up()
    wait_for((tmp_path / "evidence/began").exists, what="it runs")
    two.up()
    one.send(signal.SIGSTOP)
    try:
        two.wait_event("run.ended", subject="long", state="ran", within=240)
    finally:
        one.send(signal.SIGCONT)
    assert not (tmp_path / "evidence/overlaps").exists()
    assert (tmp_path / "evidence/began").read_text().split() == ["1", "2"]
    one.wait_event("node.cut_off")
    one.wait_event("node.back")
    assert not one.events("run.ended", subject="long", state="failed")
    one.stop()
    two.stop()
