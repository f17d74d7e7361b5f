"""From the first command to the last, with the real gateway and a real server process, and nothing left at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sexton.containment import list_live, list_orphans
from waiting import PATIENCE

SERVER = Path(__file__).parents[1] / "process" / "stdio_servers" / "raw_server.py"
SETTINGS = f"""
listen = "127.0.0.1:0"

[servers.raw]
command = {json.dumps(sys.executable)}
args = ["-S", {json.dumps(str(SERVER))}]

[servers.broken]
command = "sh"
args = ["-c", "echo TOKEN is not set >&2; exit 3"]

[jobs.hello]
call = "raw.echo"
arguments = {{ text = "hello" }}

[jobs.forever]
call = "raw.sleep"
arguments = {{ seconds = 600 }}
"""


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Machine:
    """A folder with settings and state, and the commands that use them."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sexton", *arguments]

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "SEXTON_CONFIG": str(self.folder / "sexton.toml"),
            "SEXTON_DATA": str(self.folder / "data"),
        }

    def sexton(self, *arguments: str) -> Answer:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        answer = self.sexton(*arguments, "--json")
        assert answer.status == 0, answer.err
        return json.loads(answer.out)

    def is_empty(self) -> bool:
        return not list_live(self.folder / "data") and not list_orphans(self.folder / "data")

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """The gateway in a process of its own; it is killed if the test has not stopped it."""
        with (self.folder / "up.log").open("w") as log:
            process = subprocess.Popen(
                self.command("up"), env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: re.search(r"^ready http://127\.0\.0\.1:\d+$", self.log(), re.MULTILINE), self.log)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)

    def log(self) -> str:
        return (self.folder / "up.log").read_text()


def wait_for(
    condition: Callable[[], Any], told: Callable[[], object] = lambda: "", *, seconds: float = PATIENCE
) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.01)  # what it waits for happens in another process
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "sexton.toml").write_text(SETTINGS)
    machine = Machine(tmp_path)
    yield machine
    wait_for(machine.is_empty, lambda: list_live(tmp_path / "data"))


def test_a_day_with_the_commands(machine: Machine) -> None:
    with machine.up() as gateway:
        assert {job["name"] for job in machine.json("jobs")} == {"hello", "forever"}
        added = machine.sexton(
            "jobs", "add", "greet", "--every", "1h", "--call", "raw.echo", "--arguments", '{"text": "good day"}'
        )
        assert added.status == 0, added.err
        ran = machine.sexton("jobs", "run", "greet", "--wait")
        assert (ran.status, ran.out) == (0, "good day\n")
        run = machine.json("runs", "--job", "greet")[0]
        record = machine.json("runs", "show", run["id"][-8:])
        assert (record["run"]["state"], record["output"]) == ("ran", "good day")
        assert machine.sexton("runs", "show", run["id"], "--output").out == "good day"

        tree = machine.json("ps")["trees"][0]
        assert (tree["name"], tree["state"], len(tree["pids"])) == ("raw", "running", 1)
        assert machine.json("reap", "--dry-run")["would_end"] == []
        assert machine.json("call", "raw", "pid")["text"] == str(tree["leader_pid"])
        assert machine.sexton("servers", "restart", "raw").status == 0
        assert int(machine.json("call", "raw", "pid")["text"]) != tree["leader_pid"]
        assert machine.sexton("call", "raw", "ecoh").status == 2

        broken = machine.sexton("servers", "check", "broken")
        assert broken.status == 1
        assert "TOKEN is not set" in broken.err

        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(PATIENCE) == 0, machine.log()
    assert not (machine.folder / "data" / "gateway.json").exists()
    assert "greet" in machine.log()
    assert machine.sexton("jobs").status == 1


def test_following_a_run_that_is_cancelled_by_somebody_else(machine: Machine) -> None:
    with machine.up() as gateway:
        follower = subprocess.Popen(
            machine.command("jobs", "run", "forever", "--wait"), env=machine.environ, cwd=machine.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: machine.json("runs", "--state", "running"))
        run = machine.json("runs", "--state", "running")[0]
        wait_for(lambda: [tree["holders"] for tree in machine.json("ps")["trees"]] == [[f"run:{run['id']}"]])
        assert "forever" in machine.sexton("ps").out
        assert machine.sexton("runs", "cancel", run["id"][-8:]).status == 0
        out, err = follower.communicate(timeout=PATIENCE)
        assert (follower.returncode, out) == (1, "")
        assert "The run of 'forever' was cancelled" in err
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(PATIENCE) == 0


def test_a_gateway_that_is_killed_leaves_nothing_and_is_no_obstacle(machine: Machine) -> None:
    with machine.up() as gateway:
        assert machine.sexton("call", "raw", "pid").status == 0
        gateway.kill()
        gateway.wait(PATIENCE)
        wait_for(machine.is_empty, seconds=PATIENCE)
        told = machine.sexton("ps")
        assert (told.status, told.out.splitlines()[-1]) == (0, "The ledger names no process trees: nothing is left.")
        assert "(The last one ended without cleaning up.)" in machine.sexton("jobs").err
    with machine.up() as again:
        assert machine.sexton("call", "raw", "echo", "text=back").out == "back\n"
        again.send_signal(signal.SIGINT)
        assert again.wait(PATIENCE) == 0


def test_a_call_without_a_gateway_starts_and_ends_the_server(machine: Machine) -> None:
    answer = machine.sexton("call", "raw", "echo", "text=alone")
    assert (answer.status, answer.out, answer.err) == (0, "alone\n", "")
    assert machine.is_empty()
    broken = machine.sexton("call", "broken", "x")
    assert broken.status == 1
    assert "TOKEN is not set" in broken.err
    assert "try again" not in broken.err
    assert machine.sexton("call", "nope", "x").status == 2
    assert machine.sexton("call", "raw", "nope").status == 2
    assert machine.is_empty()


def test_servers_are_listed_and_checked_without_a_gateway(machine: Machine) -> None:
    listed = machine.sexton("servers")
    assert listed.status == 0
    assert listed.out.splitlines()[-1] == "No gateway is running.  Start one: sexton up"
    assert {entry["state"] for entry in json.loads(machine.sexton("servers", "--json").out)} == {"stopped"}
    assert machine.sexton("servers", "check", "raw").out.startswith("raw works: ")
    assert "echo" in machine.sexton("servers", "tools", "raw").out
    broken = machine.sexton("servers", "check", "broken")
    assert (broken.status, broken.out) == (1, "")
    assert "TOKEN is not set" in broken.err
    assert "try again" not in broken.err
    assert machine.sexton("servers", "check", "rwa").status == 2
    assert machine.is_empty()


def test_ctrl_c_ends_a_call_without_a_gateway_and_its_server(machine: Machine) -> None:
    call = subprocess.Popen(
        machine.command("call", "raw", "sleep", "seconds=600"), env=machine.environ, cwd=machine.folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: any(record.state == "running" for record in list_live(machine.folder / "data")))
    call.send_signal(signal.SIGINT)
    out, err = call.communicate(timeout=PATIENCE)
    assert (call.returncode, out, err) == (130, "", "")
    wait_for(machine.is_empty, seconds=PATIENCE)
