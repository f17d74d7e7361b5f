"""The command line as a process: what it loads, and how it behaves at the ends of pipes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli_bench import serving
from waiting import PATIENCE

HEAVY = ("mcp", "mcp_types", "pydantic", "sqlalchemy", "starlette", "uvicorn", "alembic")
PROBE = """
import sys
from sexton.cli.main import run
status = run(sys.argv[1:])
print("LOADED", [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def environ(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "SEXTON_DATA": str(folder / "data"), "LANG": "C.UTF-8"}


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "ps", "jobs", "jobs add x --every 30s --call a.b", "reap --dry-run"]
)
def test_a_light_command_loads_nothing_heavy(tmp_path: Path, arguments: str) -> None:
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments.split()]
    done = subprocess.run(command, env=environ(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert "LOADED []" in done.stderr, done.stderr


def test_listing_jobs_of_a_gateway_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data"):
        command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), "jobs", "--json"]
        done = subprocess.run(command, env=environ(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert "LOADED []" in done.stderr, done.stderr


def test_a_reader_that_has_had_enough_is_met_in_silence(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "sexton", "ps"]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            command, env=environ(tmp_path), stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_while_the_gateway_works_is_quiet_and_ends_the_call(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data") as served:
        command = [sys.executable, "-m", "sexton", "call", "time", "wait"]
        process = subprocess.Popen(
            command, env=environ(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        served.portal.call(served.bench.pool.call_began.wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        served.portal.call(served.bench.pool.call_cancelled.wait)
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.parametrize(("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_that_want_them(tmp_path: Path, variable: dict[str, str], coloured: bool) -> None:
    import pty

    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data"):
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [sys.executable, "-m", "sexton", "servers"],
            env=environ(tmp_path) | {"TERM": "xterm-256color", "COLUMNS": "80"} | variable,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=60,
            check=False,
        )
        os.close(theirs)
        said = os.read(ours, 65536).decode()
        os.close(ours)
    assert done.returncode == 0, said
    assert ("\x1b[32mrunning" in said) is coloured
    assert "running" in said
    table = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()[:3]
    assert all(len(line) <= 80 for line in table), table
