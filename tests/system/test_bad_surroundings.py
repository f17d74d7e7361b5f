"""Everything that keeps a gateway, a server or a job from working gets a clear error and no traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess

from small_disk import fill, small_disk
from system.gateway_process import GatewayProcess
from waiting import PATIENCE

QUIET = '[jobs.quick]\nevery = "1s"\ncommand = ["echo", "quick"]\n'


def fail_to_start(gateway: GatewayProcess) -> tuple[int, str]:
    """The exit status and everything that was said."""
    status = gateway.start().wait_exit(within=PATIENCE)
    gateway.wait_read()
    assert "Traceback" not in gateway.output()
    gateway.wait_nothing_left()
    return status, " ".join(gateway.output().split())


def test_a_broken_file_is_told_as_a_whole_and_nothing_is_made(gateway: GatewayProcess) -> None:
    status, said = fail_to_start(gateway.write('concurency = 3\n[jobs.a]\nevery = "10"\n'))
    assert status == 2
    assert "did you mean 'concurrency'?" in said
    assert "name the unit: '10s'" in said
    assert "jobs.a does nothing" in said
    assert not gateway.data.exists()


def test_a_port_in_use(gateway: GatewayProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway.write(QUIET + "[servers.warm]\n@SERVER@\nkeep_warm = true\n")
        gateway.settings.write_text(gateway.settings.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        status, said = fail_to_start(gateway)
    assert status == 1
    assert '"server.' not in (gateway.data / "journal.jsonl").read_text()
    assert f"port {port}" in said
    assert "listen" in said


def test_a_second_gateway_on_one_data_folder(gateway: GatewayProcess) -> None:
    gateway.write(QUIET).up()
    second = subprocess.run(gateway.command("up"), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert second.returncode == 2
    assert f"the gateway with pid {gateway.pid}" in " ".join(second.stderr.split())
    gateway.wait_event("run.ended", state="ran")
    gateway.stop()


def test_a_full_disk_at_the_start(gateway: GatewayProcess) -> None:
    gateway.write(QUIET)
    with small_disk(gateway.data, kilobytes=16):
        status, said = fail_to_start(gateway)
    assert status == 1
    assert "No space left on device" in said
    assert "make room" in said


def test_a_disk_that_fills_up_and_empties_again(gateway: GatewayProcess) -> None:
    gateway.write(QUIET)
    with small_disk(gateway.data, kilobytes=4096):
        gateway.up()
        gateway.wait_event("run.ended", state="ran")
        ballast = fill(gateway.data)
        gateway.wait_line("(?i)space|full", within=PATIENCE)
        ballast.unlink()
        count = len(gateway.events("run.ended", state="ran"))
        gateway.wait_event("run.ended", state="ran", count=count + 1, within=PATIENCE)
        gateway.stop()


def test_servers_that_cannot_be_started_fail_their_runs_with_the_reason(gateway: GatewayProcess) -> None:
    gateway.write(
        """
[servers.missing]
command = "no-such-program"

[servers.dies]
@SERVER --die TOKEN_is_not_set@

[servers.small]
@SERVER@

[jobs.missing]
at = "start"
call = "missing.look"

[jobs.dies]
at = "start"
call = "dies.look"

[jobs.no-such-tool]
at = "start"
call = "small.eco"

[jobs.no-such-command]
at = "start"
command = ["no-such-program"]

[jobs.killed-in-call]
call = "small.die"
"""
    ).up()
    errors = {
        job: gateway.wait_event("run.ended", subject=job, state="failed")["data"]["error"]
        for job in ("missing", "dies", "no-such-tool", "no-such-command")
    }
    gateway.cli("jobs", "run", "killed-in-call")
    killed = gateway.wait_event("run.ended", subject="killed-in-call", state="failed")["data"]["error"]
    assert "no-such-program" in errors["missing"]
    assert "TOKEN_is_not_set" in errors["dies"]
    assert "echo" in errors["no-such-tool"]
    assert "no-such-program" in errors["no-such-command"]
    assert "I was told to die" in killed
    assert "Traceback" not in gateway.output()
    gateway.stop()


def test_a_secret_reaches_the_server_and_nothing_else(gateway: GatewayProcess) -> None:
    gateway.write(
        """
[servers.small]
@SERVER@
env = { SECRET = "${env:OUR_SECRET}" }

[jobs.length]
at = "start"
command = ["sh", "-c", "echo $1 | wc -c", "sh", "${env:OUR_SECRET}"]

[jobs.call]
at = "start"
call = "small.secret"
"""
    ).up(OUR_SECRET="hunter22-and-more")
    gateway.wait_event("run.ended", subject="length", state="ran", output="18")
    gateway.wait_event("run.ended", subject="call", state="ran", output="17 characters")
    said = json.dumps([gateway.cli("jobs", "list"), gateway.cli("servers", "list"), gateway.cli("ps")])
    kept = b"".join(path.read_bytes() for path in (gateway.data / "contain").rglob("*") if path.is_file())
    gateway.stop()
    assert "hunter22" not in said
    assert b"hunter22" not in kept
    assert os.environ.get("OUR_SECRET") is None
