"""A changed settings file under a running gateway."""

from __future__ import annotations

import signal

from system.gateway_process import GatewayProcess, wait_for

BEFORE = """
[servers.kept]
@SERVER@

[servers.changed]
@SERVER@

[jobs.kept]
every = "1s"
call = "kept.pid"

[jobs.changed]
every = "1s"
call = "changed.pid"

[jobs.removed]
every = "1s"
command = ["echo", "removed"]
"""

AFTER = """
[servers.kept]
@SERVER@

[servers.changed]
@SERVER --other@

[jobs.kept]
every = "1s"
call = "kept.pid"

[jobs.changed]
every = "1s"
call = "changed.pid"

[jobs.added]
every = "1s"
command = ["echo", "added"]
"""


def pid_of(gateway: GatewayProcess, job: str, *, after: int = 0) -> str:
    """What the server of `job` says its pid is, in a run that ended after that many."""
    return str(gateway.wait_event("run.ended", subject=job, state="ran", count=after + 1)["data"]["output"]).strip()


def begun_of(gateway: GatewayProcess, job: str) -> int:
    return len(gateway.events("run.started", subject=job))


def runs_of(gateway: GatewayProcess, job: str) -> int:
    return len(gateway.events("run.ended", subject=job, state="ran"))


def test_only_what_changed_is_restarted(gateway: GatewayProcess) -> None:
    gateway.write(BEFORE).up()
    kept, changed = pid_of(gateway, "kept"), pid_of(gateway, "changed")
    gateway.write(AFTER)
    told = gateway.wait_event("settings.reloaded")["data"]
    assert {what: names for what, names in told.items() if names} == {
        "servers_changed": ["changed"],
        "jobs_added": ["added"],
        "jobs_removed": ["removed"],
    }
    gateway.wait_event("run.ended", subject="added", state="ran", output="added")
    wait_for(lambda: begun_of(gateway, "removed") == runs_of(gateway, "removed"), what="the last run has ended")
    removed = runs_of(gateway, "removed")
    assert pid_of(gateway, "kept", after=runs_of(gateway, "kept")) == kept
    wait_for(lambda: pid_of(gateway, "changed") != changed, what="a run on the new process")
    assert runs_of(gateway, "removed") == removed

    gateway.write("concurrency = 3\n" + AFTER.replace("kept.pid", "kept.pod"))
    gateway.wait_event("settings.warning")
    gateway.wait_line("jobs.kept.call names the tool 'pod'.*did you mean 'pid'")
    assert "concurrency" in gateway.wait_event("settings.needs_restart")["data"]["what"]
    gateway.stop()


def test_a_broken_file_changes_nothing_and_is_told_with_its_lines(gateway: GatewayProcess) -> None:
    gateway.write(BEFORE).up()
    kept = pid_of(gateway, "kept")
    gateway.write(AFTER.replace('every = "1s"', 'evry = "1s"', 1))
    gateway.wait_event("settings.broken")
    problem = gateway.wait_event("settings.problem")["data"]["what"]
    assert "sexton.toml:12: jobs.kept.evry is an unknown key; did you mean 'every'?" in problem
    gateway.wait_line("did you mean 'every'")
    assert pid_of(gateway, "kept", after=runs_of(gateway, "kept")) == kept
    assert pid_of(gateway, "removed", after=runs_of(gateway, "removed")) == "removed"

    gateway.settings.unlink()
    gateway.wait_event("settings.broken", count=2)
    gateway.write(BEFORE)
    gateway.send(signal.SIGHUP)
    gateway.wait_event("settings.unchanged")
    gateway.stop()
