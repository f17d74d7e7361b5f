"""A gateway on SQLite, moved to PostgreSQL with all that it knows."""

from __future__ import annotations

import subprocess

from postgres_server import PASSWORD, PostgresServer
from system.gateway_process import GatewayProcess

SETTINGS = """
drain_timeout = "500ms"
[jobs.quick]
every = "1s"
command = ["echo", "quick"]
"""


def run(gateway: GatewayProcess, *words: str) -> tuple[int, str]:
    done = subprocess.run(gateway.command(*words), capture_output=True, text=True, timeout=100, check=False)
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_a_gateway_goes_on_with_what_it_did_on_sqlite(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    gateway.write(SETTINGS).up()
    gateway.wait_event("run.ended", subject="quick", state="ran", count=2)
    token = gateway.cli("token", "create", "colleague", "--scope", "read")
    gateway.cli("jobs", "pause", "quick")
    status, told = run(gateway, "database", "copy")
    assert (status, "names no database on PostgreSQL" in told) == (2, True), told

    gateway.database = postgres.url(postgres.new_database()).text
    gateway.write(SETTINGS)
    status, told = run(gateway, "database", "copy")
    assert (status, "is in use by the gateway with pid" in told) == (2, True), told
    before = [one for one in gateway.cli("runs", "list", "--limit", "100") if one["state"] == "ran"]
    assert len(before) >= 2
    gateway.stop()

    looked = gateway.cli("database", "copy", "--dry-run")
    copied = gateway.cli("database", "copy")
    assert looked["rows"] == copied["rows"]
    assert copied["rows"]["run"] >= len(before)
    assert copied["target"].startswith("postgresql://sexton@127.0.0.1")
    status, told = run(gateway, "database", "copy")
    assert (status, "is not empty" in told) == (2, True), told

    gateway.up()
    assert gateway.cli("token", "list")[0]["id"] == token["id"]
    (job,) = gateway.cli("jobs", "list")
    assert job["paused"]
    after = {one["id"]: one for one in gateway.cli("runs", "list", "--limit", "100")}
    for one in before:
        assert after[one["id"]]["state"] == one["state"]
        assert after[one["id"]]["output"] == one["output"]
    ran = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.cli("jobs", "resume", "quick")
    gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 1)
    gateway.stop()
