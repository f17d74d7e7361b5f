"""What a person types, with a gateway that is made up but for its scheduler and journal."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli_bench import Served, serving
from gateway_bench import FakeServer
from sexton.cli import local_clock
from sexton.cli.main import run
from sexton.gateway import Address, write_address

NOW = datetime(2026, 11, 1, 12, 0, 10, tzinfo=UTC)


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    def json(self) -> object:
        return json.loads(self.out)


Sexton = Callable[..., Answer]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("SEXTON_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEXTON_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(local_clock, "now", lambda: NOW)
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def sexton(capsys: pytest.CaptureFixture[str]) -> Sexton:
    def invoke(*arguments: str) -> Answer:
        capsys.readouterr()
        status = run(arguments)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return invoke


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data") as served:
        yield served


def test_the_journal_is_shown_the_latest_last_and_can_be_narrowed(sexton: Sexton, gateway: Served) -> None:
    def tell() -> None:
        journal = gateway.bench.gateway.journal
        journal.append("run.ended", subject="daily", run="r-1", state="ran", seconds=1.5, output="all well")
        journal.append("server.died", subject="notes", error="server 'notes' ended with status 1.")

    gateway.portal.call(tell)
    lines = sexton("journal").out.splitlines()
    assert lines[-2].endswith("daily  ran in 1.5 s: all well")
    assert "notes  died" in lines[-1]
    for options in (("--job", "daily"), ("--run", "r-1"), ("--kind", "run.ended"), ("--limit", "2", "-k", "run.ended")):
        told = sexton("journal", *options).out.splitlines()
        assert ["daily" in line for line in told] == [True], options
    found = sexton("journal", "--server", "notes", "--json").json()
    assert isinstance(found, list)
    assert set(found[0]) == {"id", "node", "number", "at", "kind", "subject", "data"}
    assert sexton("journal", "--node", "elsewhere").out == "No such events.\n"
    assert sexton("journal", "--job", "daily", "--since", "2200-01-01").out == "No such events.\n"
    assert sexton("journal", "--job", "daily", "--server", "notes").status == 2
    assert sexton("journal", "--since", "yesterday").status == 2


# Without a gateway


@pytest.mark.parametrize("command", ["jobs", "runs", "jobs list", "servers restart x", "runs show 1"])
def test_without_a_gateway_it_says_so_and_how_to_start_one(sexton: Sexton, command: str, tmp_path: Path) -> None:
    answer = sexton(*command.split())
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == (
        f"error: No gateway is running on {tmp_path}/data.\n"
        "Next: start one with: sexton up  (or name its folder: --data)\n"
    )


def test_what_a_crash_left_behind_is_no_obstacle(sexton: Sexton, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    stale = Address.of_this_process("http://127.0.0.1:1", started_at=NOW)
    write_address(tmp_path / "data", replace(stale, start_ticks=stale.start_ticks - 1))
    answer = sexton("jobs")
    assert answer.status == 1
    assert "(The last one ended without cleaning up.)" in answer.err


def test_a_gateway_that_is_alive_and_takes_no_connection_is_told_apart(sexton: Sexton, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").write_text("x")
    write_address(tmp_path / "data", Address.of_this_process("http://127.0.0.1:1", started_at=NOW))
    answer = sexton("jobs")
    assert answer.status == 1
    assert f"(pid {os.getpid()}) is alive but takes no connection" in answer.err


def test_no_configuration_names_every_place_that_was_looked_at(sexton: Sexton, tmp_path: Path) -> None:
    answer = sexton("up")
    assert answer.status == 2
    assert answer.err == (
        "error: There is no configuration.  We looked for:\n"
        f"  {tmp_path}/sexton.toml\n"
        f"  {tmp_path}/home/.config/sexton/sexton.toml\n"
        "Next: write one with: sexton init  (or name one: sexton --config FILE …)\n"
    )
    named = sexton("--config", "nope.toml", "up")
    assert named.status == 2
    assert f"--config names {tmp_path}/nope.toml, which is not there." in named.err


def test_init_writes_once_and_never_over_a_file(sexton: Sexton, tmp_path: Path) -> None:
    assert sexton("init").status == 0
    assert (tmp_path / "sexton.toml").is_file()
    again = sexton("init")
    assert again.status == 2
    assert "exists already" in again.err


def test_asking_wrongly_is_status_2(sexton: Sexton) -> None:
    assert sexton("jbos").status == 2
    assert sexton("jobs", "show").status == 2
    assert sexton("runs", "--limit", "0").status == 2


# With a gateway


def test_listing_servers(sexton: Sexton, gateway: Served) -> None:
    assert sexton("servers").out == (
        "SERVER  STATE    SHARING  HELD BY   PROCESSES  MEMORY    AGE  CALLS\n"
        "notes   broken   shared   -                 0       -      -      0\n"
        "time    running  shared   run 0194          2   81 MB  2m 5s     14\n"
        "notes: server 'notes' ended with status 1. (+1 line)\n"
    )
    keys = {"name", "state", "sharing", "holders", "pids", "memory", "age", "calls", "breaker", "last_error"}
    for listing in (sexton("servers", "--json"), sexton("servers", "list", "--json"), sexton("--json", "servers")):
        found = listing.json()
        assert isinstance(found, list)
        assert keys <= set(found[0])


def test_a_listing_of_nothing_says_what_to_do(sexton: Sexton, gateway: Served) -> None:
    gateway.bench.pool.servers.clear()
    assert sexton("servers").out.startswith("No servers are configured.  Add one")
    assert sexton("jobs").out.startswith("No jobs yet.  Add one")
    assert sexton("runs").out == "No runs yet.\n"
    assert sexton("jobs", "--json").json() == []


def test_tools_check_and_restart(sexton: Sexton, gateway: Served) -> None:
    assert sexton("servers", "tools", "time").out == (
        "TOOL              ARGUMENTS         WHAT IT DOES\n"
        "get_current_time  timezone [style]  Get the current time in a time zone\n"
        "convert_time      timezone [style]\n"
        "2 tools.  Call one: sexton call time TOOL key=value …\n"
    )
    assert sexton("servers", "check", "time").out == (
        "time works: mcp-time 1.2, protocol 2025-11-25, 1 tool, ready in 0.8 s\n"
    )
    broken = sexton("servers", "check", "notes")
    assert (broken.status, broken.err) == (1, "error: server 'notes' ended with status 1.\nNext: look\n")
    assert sexton("servers", "restart", "time").out == "time is running; held by run 0194.\n"
    unknown = sexton("servers", "restart", "tiem")
    assert (unknown.status, unknown.err) == (
        2,
        "error: There is no server 'tiem'.\nNext: did you mean 'time'?  All of them: sexton servers\n",
    )


def test_a_call_prints_the_answer_and_its_failure(sexton: Sexton, gateway: Served) -> None:
    assert sexton("call", "time", "now", "timezone=UTC", "n=3").out == "called now\n"
    assert gateway.bench.pool.calls[-1] == ("time", "now", {"timezone": "UTC", "n": 3})
    assert sexton("call", "time", "now", '{"timezone": "UTC"}', "--json").json() == {
        "server": "time",
        "tool": "now",
        "is_error": False,
        "text": "called now",
        "content": [{"type": "text", "text": "called now"}],
        "structured_content": None,
        "seconds": 0.0,
    }
    sad = sexton("call", "time", "sad")
    assert (sad.status, sad.out, sad.err) == (1, "", "error: time.sad failed: called sad\n")
    assert sexton("call", "time", "sad", "--json").status == 1
    assert sexton("call", "time", "fail").err == "error: server 'time' died.\nNext: look at its log\n"
    assert sexton("call", "time", "nwo").status == 2


def test_arguments_that_are_not_json_are_pointed_at(sexton: Sexton, gateway: Served) -> None:
    answer = sexton("call", "time", "now", '{"timezone": Europe}')
    assert answer.status == 2
    assert answer.err.splitlines()[:3] == [
        "error: The arguments are not JSON: Expecting value at column 14.",
        '  {"timezone": Europe}',
        "               ^",
    ]


def test_the_life_of_a_job(sexton: Sexton, gateway: Served) -> None:
    added = sexton("jobs", "add", "clock", "--every", "30s", "--call", "time.now", "--arguments", '{"a": 1}')
    assert (added.status, added.out) == (0, "clock added: every 30s, time.now; next in 20s\n")
    sexton(
        "jobs", "add", "hi", "--cron", "0 7 * * *", "--timezone", "Europe/Amsterdam", "--command", "--", "echo", "a b"
    )
    sexton("jobs", "add", "hand", "--call", "time.now", "--paused")
    assert sexton("jobs", "run", "clock", "--wait").out == "did clock\n"
    assert sexton("jobs").out == (
        "JOB    WHEN                        DOES        NEXT                   LAST RUN\n"
        "clock  every 30s                   time.now    in 20s                 ran 10s ago\n"
        "hand   by hand                     time.now    paused since 12:00:00  -\n"
        "hi     0 7 * * * Europe/Amsterdam  echo 'a b'  in 17h 59m             -\n"
    )
    assert "paused since 12:00:00" in sexton("jobs", "show", "hand").out
    assert sexton("jobs", "next", "hi", "-n", "2").out == (
        "Europe/Amsterdam             LOCAL             FROM NOW\n"
        "Mon 2026-11-02 07:00:00 CET  Mon 06:00:00 UTC  in 17h 59m\n"
        "Tue 2026-11-03 07:00:00 CET  Tue 06:00:00 UTC  in 1d 17h\n"
    )
    assert sexton("jobs", "pause", "clock").out == "clock is paused.\n"
    assert sexton("jobs", "next", "clock").out.startswith("clock is paused; resumed, it would start at:\n")
    assert sexton("jobs", "resume", "clock").out == "clock is resumed; next in 20s.\n"
    assert "30s" in sexton("jobs", "show", "clock").out
    listed = sexton("runs", "--job", "clock")
    assert listed.out.splitlines()[0] == "RUN       JOB    STATE  WHEN      TOOK  RESULT"
    assert listed.out.splitlines()[1][8:] == "  clock  ran    12:00:00  0 ms  did clock"
    short = listed.out.splitlines()[1][:8]
    assert "did clock" in sexton("runs", "show", short).out
    assert sexton("runs", "show", short, "--output").out == "did clock"
    assert sexton("runs", "cancel", short).status in (0, 2)
    assert sexton("jobs", "remove", "clock").out == "clock is removed.\n"
    assert sexton("jobs", "show", "clock").status == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--every 30", "The value of --every is '30', which is no duration"),
        ("--every 30s --cron @daily", "--every and --cron were both given."),
        ("--at noon", "The value of --at is 'noon', which is no time."),
        ("--timezone Mars/Phobos", "There is no time zone 'Mars/Phobos'"),
        ("--cron 61****", "61****"),
    ],
)
def test_a_schedule_that_cannot_be_meant(sexton: Sexton, gateway: Served, arguments: str, said: str) -> None:
    answer = sexton("jobs", "add", "clock", "--call", "time.now", *arguments.split())
    assert answer.status == 2
    assert said in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "A job does one thing, and this one does nothing."),
        (["--call", "time.now", "--command", "--", "ls"], "A job does one thing, and this one does several."),
        (["--call", "time"], "--call is 'time'; it must be SERVER.TOOL."),
        (["--call", "tiem.now"], "There is no server 'tiem'."),
        (["--call", "time.now", "extra"], "'extra' was not expected."),
        (["--call", "time.now", "--arguments", "[1]"], "The --arguments must be a JSON object, not a list."),
        (["--command"], "--command is given, but no program."),
    ],
)
def test_an_action_that_cannot_be_meant(sexton: Sexton, gateway: Served, arguments: list[str], said: str) -> None:
    answer = sexton("jobs", "add", "clock", "--every", "30s", *arguments)
    assert answer.status == 2
    assert said in answer.err


def test_processes_and_reaping(sexton: Sexton, gateway: Served) -> None:
    assert sexton("ps").out == (
        "NAME  STATE    HELD BY   PID  PROCESSES  MEMORY    AGE  BOUNDARY\n"
        "time  running  run 0194   41          2   81 MB  2m 5s  cgroup\n"
        "1 tree, 2 processes, 81 MB in the boundary cgroup.\n"
    )
    dry = sexton("reap", "--dry-run")
    assert dry.out.splitlines()[-1] == "1 tree, 2 processes, 0 B would be ended.  Nothing was."
    assert gateway.bench.containment.sweeps == []
    assert sexton("reap").out == "Nothing to end: no tree is without its holder.\n"
    assert sexton("reap", "--include-active").out == "1 tree in use ended.\n"
    assert sexton("ps", "--json").status == 0


def test_what_a_tool_says_cannot_steer_the_terminal(sexton: Sexton, gateway: Served) -> None:
    gateway.bench.pool.servers[:] = [FakeServer(name="time", last_error="\x1b]0;owned\x07 red \x1b[31m")]
    out = sexton("servers").out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "red" in out


# Defects


def test_a_defect_of_ours_is_one_line_and_a_traceback_in_a_log(
    sexton: Sexton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sexton.cli import jobs

    def break_down(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(jobs, "connect", break_down)
    answer = sexton("jobs")
    assert answer.status == 1
    assert answer.err == (
        "error: sexton met an error of its own: ZeroDivisionError: of ours\n"
        f"Next: please report it; the traceback is in {tmp_path}/data/cli-errors.log\n"
    )
    log = tmp_path / "data" / "cli-errors.log"
    assert "ZeroDivisionError" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_is_quiet(sexton: Sexton, monkeypatch: pytest.MonkeyPatch) -> None:
    from sexton.cli import jobs

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "connect", interrupt)
    assert sexton("jobs") == Answer(130, "", "")


# Files


def test_importing_servers_says_what_it_did(sexton: Sexton, tmp_path: Path) -> None:
    source = tmp_path / "claude.json"
    source.write_text(
        '{"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"API_KEY": "x1"}}}}'
    )
    dry = sexton("servers", "import", str(source), "--dry-run", "--json").json()
    assert isinstance(dry, dict)
    assert dry["added"] == ["time"]
    assert not (tmp_path / "sexton.toml").exists()
    done = sexton("servers", "import", str(source))
    assert (done.status, "got 1 server" in done.out) == (0, True)
    assert "x1" not in (tmp_path / "sexton.toml").read_text()
    assert sexton("servers", "import", str(tmp_path / "nope.json")).status == 2


def test_the_unit_can_be_looked_at_first(sexton: Sexton) -> None:
    assert sexton("service", "install", "--dry-run").status == 2  # there is no configuration yet
    sexton("init")
    answer = sexton("service", "install", "--dry-run")
    assert answer.status == 0
    assert "Delegate=yes" in answer.out
    assert "KillMode=mixed" in answer.out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("listen = ", "sexton.toml:1"),
        ('[jobs.x]\nevry = "30s"\ncall = "time.now"\n[servers.time]\ncommand = "true"', "did you mean 'every'"),
        ('[jobs.x]\nevery = "30s"\ncall = "tiem.now"\n[servers.time]\ncommand = "true"', "'time'"),
    ],
)
def test_a_broken_configuration_is_told_with_its_place(
    sexton: Sexton, tmp_path: Path, settings: str, said: str
) -> None:
    (tmp_path / "sexton.toml").write_text(settings)
    for command in (["up"], ["call", "time", "now"]):
        answer = sexton(*command)
        assert answer.status == 2, answer.err
        assert said in answer.err
        assert "errors of its own" not in answer.err


def test_a_gateway_that_hangs_does_not_hide_what_runs(
    sexton: Sexton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A socket that accepts and never answers, as a stopped gateway's does."""
    monkeypatch.setattr("sexton.cli.gateway_client.ANSWER_SECONDS", 0.2)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        write_address(tmp_path / "data", Address.of_this_process(url, started_at=NOW))
        answer = sexton("ps")
    assert (answer.status, answer.out) == (0, "The ledger names no process trees: nothing is left.\n")
    assert f"(pid {os.getpid()}) is alive but does not answer in time." in answer.err
