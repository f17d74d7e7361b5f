"""A whole gateway on PostgreSQL, whose server crashes, and stops, under it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from postgres_server import PASSWORD, PostgresServer, postgres_server
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess, start_busy, wait_for


@pytest.fixture
def durable(debian_packages: None) -> Iterator[PostgresServer]:
    """A server of this test's own, with `fsync`, to be killed."""
    folder = Path(tempfile.mkdtemp(prefix="sexton-pg-"))
    folder.chmod(0o711)
    try:
        with postgres_server(folder / "server", durable=True) as server:
            yield server
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["crashes", "is restarted"])
def test_what_runs_goes_on_while_the_server_is_away(
    gateway: GatewayProcess, durable: PostgresServer, how: signal.Signals
) -> None:
    name = durable.new_database()
    gateway.database = durable.url(name).text
    start_busy(gateway)
    client = ApiClient(gateway)

    durable.stop(how)
    told = gateway.wait_event("database.failing")["data"]
    assert told["failure"] == "away", told
    (gateway.folder / "go").touch()
    assert client.call("small", "echo", text="as ever").text(within=60) == "as ever"
    status, document = client.ask("GET", "/status")
    assert (status, document["database"]["failure"]) == (200, "away")
    assert not gateway.events("run.ended", subject="holder")

    durable.start()
    gateway.wait_event("database.recovered")
    gateway.wait_event("run.ended", subject="holder", state="ran", output="held")
    ran = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 1)
    prove_each_slot_once(gateway, durable, name)
    assert client.ask("GET", "/status")[1]["database"] is None
    wait_for(lambda: "database.recovered" in kinds_on_all_nodes(client), what="the other nodes can read what happened")
    assert "gateway.starting" in kinds_on_all_nodes(client)
    assert "/src/sexton/" not in gateway.output()  # no traceback through our code
    assert PASSWORD not in gateway.output()
    assert "error connecting" not in gateway.output()  # of the pool's attempts
    gateway.stop()
    assert durable.admin("SELECT kind FROM event ORDER BY id DESC LIMIT 1", database=name) == [("gateway.stopped",)]


def kinds_on_all_nodes(client: ApiClient) -> set[str]:
    status, events = client.ask("GET", "/journal/all?limit=1000")
    assert status == 200, events
    return {event["kind"] for event in events}


def prove_each_slot_once(gateway: GatewayProcess, server: PostgresServer, name: str) -> None:
    """No slot was started twice, and none is missing: what passed meanwhile stands in a row, with its reason."""
    slots = Counter(event["data"]["slot"] for event in gateway.events("run.started", subject="quick"))
    assert set(slots.values()) == {1}
    query = "SELECT slot, coalesce(slot_end, slot) FROM run WHERE job = 'quick' ORDER BY slot"
    covered = [(int(str(slot)), int(str(end))) for slot, end in server.admin(query, database=name)]
    for (_, end), (following, _) in pairwise(covered):
        assert following - end == 1_000_000, covered


def test_a_start_without_the_server_says_what_is_wrong(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    gateway.database = postgres.url("nowhere").text
    gateway.write("").start()
    assert gateway.wait_exit(within=60) == 1
    gateway.wait_read()
    told = " ".join(gateway.output().split())
    assert "There is no database postgresql://sexton@127.0.0.1" in told
    assert "createdb" in told
    assert PASSWORD not in told
    assert "Traceback" not in told
    gateway.wait_nothing_left()
    done = subprocess.run(gateway.command("doctor"), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert "There is no database postgresql://sexton@127.0.0.1" in " ".join(done.stdout.split())
    assert PASSWORD not in done.stdout


def test_the_driver_is_loaded_only_for_postgresql(gateway: GatewayProcess) -> None:
    gateway.write("").up()
    maps = Path(f"/proc/{gateway.pid}/maps").read_text()
    assert "psycopg" not in maps
    gateway.stop()
