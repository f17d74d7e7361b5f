"""sexton.toml: what it becomes, and what is said when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sexton.daemon import Launchers, Settings, SettingsError, load_settings, starter_text
from sexton.daemon.settings import resolve_action
from sexton.errors import UsageError
from sexton.mcp_servers import HttpServer, Sharing, StdioServer, ToolFilter
from sexton.scheduler import At, CatchUp, Cron, Every, OnInterrupted, Overlap

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
Load = Callable[[str], Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def from_text(text: str) -> Settings:
        path = tmp_path / "sexton.toml"
        path.write_text(text)
        return load_settings(path, environment={"TOKEN": "s3cret-value", "HOME": "/home/ada"}, started_at=NOW)

    return from_text


@pytest.fixture
def problems(load: Load) -> Callable[[str], list[str]]:
    def of_text(text: str) -> list[str]:
        with pytest.raises(SettingsError) as raised:
            load(text)
        assert "s3cret-value" not in str(raised.value)
        return [problem.text("f") for problem in raised.value.problems]

    return of_text


FULL = """
listen = "127.0.0.1:0"
timezone = "Europe/Amsterdam"
concurrency = 3
drain_timeout = "5s"
resources = { disk = 1 }

[servers.time]
command = "uvx"
args = ["mcp-server-time", "~/zones", "--token=${env:TOKEN}"]
env = { A = "${env:TOKEN}", B = "$${env:TOKEN}" }
idle_timeout = "10m"
max_age = "1d"
max_line = "8MiB"
concurrency = 2
tools = { deny = ["write_*"] }
stop = { term_grace = "500ms" }
limits = { memory = "512MiB", cpu = 1 }
sharing = "exclusive"

[servers.web]
url = "https://example.org/mcp"
type = "sse"
headers = { Authorization = "Bearer ${env:TOKEN}" }

[servers.off]
enabled = false
command = "nothing"

[jobs.clock]
every = "30s"
call = "time.get_current_time"
arguments = { timezone = "Europe/Amsterdam", when = 2026-12-24T18:00:00Z, token = "${env:TOKEN}" }
overlap = "queue"
catch_up = "all"
retries = 2
timeout = "1m30s"
on_interrupted = "rerun"

[jobs.backup]
cron = "*/10 30 2 * * mon-fri"
timezone = "America/New_York"
command = ["./backup.sh", "~/x", "./y"]
env = { A = "b" }
resources = ["disk"]

[jobs.once]
at = "2026-12-24 18:00"
call = "web.look"

[jobs.soon]
at = "start + 5s"
call = "web.look"

[jobs.written]
at = 2026-12-24T18:00:00+05:00
call = "web.look"

[jobs.by_hand]
command = ["true"]
paused = true
"""


def test_a_whole_file_becomes_frozen_settings(load: Load, tmp_path: Path) -> None:
    settings = load(FULL)
    assert (
        settings.http.listening.host,
        settings.http.listening.port,
        settings.concurrency,
        settings.drain_timeout,
    ) == ("127.0.0.1", 0, 3, 5)
    assert dict(settings.resources) == {"disk": 1, "server:time": 2}
    time, web = settings.servers["time"], settings.servers["web"]
    assert set(settings.servers) == {"time", "web"}
    assert isinstance(time.transport, StdioServer)
    assert time.transport.args == ("mcp-server-time", f"{Path.home()}/zones", "--token=s3cret-value")
    assert dict(time.transport.env) == {"A": "s3cret-value", "B": "${env:TOKEN}"}
    assert time.transport.cwd == tmp_path
    assert (time.idle_timeout, time.max_age, time.max_line_bytes) == (600, 86400, 8 << 20)
    assert (time.tools, time.sharing) == (ToolFilter(deny=("write_*",)), Sharing.EXCLUSIVE)
    assert (time.stop.term_grace, time.limits.memory_bytes, time.limits.cpu) == (0.5, 512 << 20, 1)
    assert isinstance(web.transport, HttpServer)
    assert web.transport.kind == "sse"
    assert web.transport.headers["Authorization"] == "Bearer s3cret-value"


def test_jobs_of_every_kind(load: Load, tmp_path: Path) -> None:
    jobs = {job.name: job for job in load(FULL).jobs}
    clock, backup = jobs["clock"], jobs["backup"]
    assert clock.schedule == Every(seconds=30)
    assert clock.timezone == "Europe/Amsterdam"
    assert clock.action == {
        "kind": "call",
        "server": "time",
        "tool": "get_current_time",
        "arguments": {"timezone": "Europe/Amsterdam", "when": "2026-12-24T18:00:00+00:00", "token": "${env:TOKEN}"},
    }
    assert (clock.overlap, clock.catch_up, clock.on_interrupted) == (Overlap.QUEUE, CatchUp.ALL, OnInterrupted.RERUN)
    assert (clock.retries, clock.timeout, clock.resources) == (2, 90, ("server:time",))
    assert backup.schedule == Cron(expression="*/10 30 2 * * mon-fri")
    assert backup.timezone == "America/New_York"
    assert backup.action == {
        "kind": "command",
        "argv": [f"{tmp_path}/backup.sh", f"{Path.home()}/x", "./y"],
        "env": {"A": "b"},
        "cwd": str(tmp_path),
    }
    assert backup.resources == ("disk",)
    times = {name: job.schedule.time.astimezone(UTC) for name, job in jobs.items() if isinstance(job.schedule, At)}
    assert times == {
        "once": datetime(2026, 12, 24, 17, tzinfo=UTC),
        "soon": datetime(2026, 11, 22, 12, 0, 5, tzinfo=UTC),
        "written": datetime(2026, 12, 24, 13, tzinfo=UTC),
    }
    assert jobs["by_hand"].schedule is None
    assert jobs["by_hand"].paused


def test_secrets_stand_in_no_repr_and_not_in_what_is_stored_of_a_job(load: Load, tmp_path: Path) -> None:
    settings = load(FULL)
    assert "s3cret-value" not in repr(settings)
    action = next(job for job in settings.jobs if job.name == "clock").action
    assert "s3cret-value" not in str(action)
    learnt: list[str] = []
    put_in = resolve_action(action, environment={"TOKEN": "s3cret-value"}, folder=tmp_path, learn=learnt.append)
    assert learnt == ["s3cret-value"]
    assert "s3cret-value" in settings.secrets
    assert put_in["arguments"]["token"] == "s3cret-value"
    assert "s3cret-value" not in repr(put_in)


def test_the_same_text_gives_equal_settings(load: Load) -> None:
    assert load(FULL) == load(FULL)


def test_an_empty_file_is_a_gateway_without_jobs(load: Load) -> None:
    settings = load("")
    assert (settings.http.listening.port, settings.servers, settings.jobs) == (7390, {}, ())


EVERY_PROBLEM = [
    (
        "f:1: listen is '0.0.0.0:80', which other machines can reach, and nothing there is encrypted; add [tls] with"
        ' certificate and key, or [http] trusted_proxy = ["ADDRESS"] for a proxy that ends TLS (or use an SSH tunnel)'
    ),
    "f:2: concurency is an unknown key; did you mean 'concurrency'?",
    "f:3: timezone is 'Europe/Amsterdm', which is no time zone of this machine; did you mean 'Europe/Amsterdam'?",
    'f:5: servers.time has neither command nor url; add command = "…" for a program, url = "https://…" for an address',
    "f:6: servers.time.comand is an unknown key; did you mean 'command'?",
    "f:7: servers.time.sharing is 'shard'; allowed: 'shared', 'exclusive'; did you mean 'shared'?",
    'f:8: servers.time.idle_timeout is the number 600; name the unit: "600s" or "600m"',
    "f:9: servers.time.limits.memory is '512M', which is no size; did you mean '512MiB'?",
    "f:9: servers.time.limits.procs is an unknown key; did you mean 'processes'?",
    "f:10: servers.time.env.N is a number; it must be text in quotes",
    (
        "f:10: servers.time.env.TOKEN refers to ${env:UNSET}, and no environment variable UNSET is set "
        "(export UNSET=… before the start)"
    ),
    "f:14: servers.git.url stands beside command; a server is either a program or an address",
    "f:15: servers.git.keep_warm is text; it must be true or false",
    "f:18: jobs.clock.evry is an unknown key; did you mean 'every'?",
    "f:19: jobs.clock.call names the server 'tme', which is not in this file; did you mean 'time'?",
    "f:20: jobs.clock.retries is text; it must be a whole number",
    "f:23: jobs.backup.every is '10min', which is no duration; write '500ms', '30s', '10m', '1h30m' or '2d'",
    "f:24: jobs.backup.cron stands beside every; a job has one of 'every', 'cron', 'at', or none",
    'f:25: jobs.backup.command is text; it must be a list, such as ["a", "b"]',
    "f:26: jobs.backup.overlap is 'Skip'; allowed: 'skip', 'queue', 'replace', 'parallel'; did you mean 'skip'?",
    (
        "f:30: jobs.brief.deliver[0] is 'telegram:me', and there is no target or channel 'telegram'; add a table"
        " [targets.NAME] or [channels.NAME]"
    ),
    (
        "f:32: jobs.\"bad name\" is no usable name: a letter or digit, then letters, digits, '-' and '_', not"
        " longer than 64"
    ),
    (
        'f:33: jobs."bad name".at is \'tomorrow\', which is no date and time; write "2026-12-24 18:00",'
        ' "2026-12-24T18:00:00+01:00" or "start + 5s"'
    ),
    'f:36: jobs.nothing does nothing; add call = "server.tool", command = ["program", "argument"] or prompt = "…"',
    "f:37: jobs.nothing.every is not usable: An interval of 0.5 s is too short; use an interval of 1 s or more",
]


def test_all_problems_are_told_at_once_each_with_its_line_and_advice(problems: Callable[[str], list[str]]) -> None:
    assert (
        problems(
            """\
listen = "0.0.0.0:80"
concurency = 3
timezone = "Europe/Amsterdm"

[servers.time]
comand = "uvx"
sharing = "shard"
idle_timeout = 600
limits = { memory = "512M", procs = 3 }
env = { TOKEN = "${env:UNSET}", N = 5 }

[servers.git]
command = "uvx mcp-server-git"
url = "https://example.org"
keep_warm = "yes"

[jobs.clock]
evry = "30s"
call = "tme.get_current_time"
retries = "2"

[jobs.backup]
every = "10min"
cron = "@daily"
command = "restic backup"
overlap = "Skip"

[jobs.brief]
prompt = "hello"
deliver = ["telegram:me"]

[jobs."bad name"]
at = "tomorrow"
command = ["true"]

[jobs.nothing]
every = "500ms"
"""
        )
        == EVERY_PROBLEM
    )


def test_values_are_named_with_what_is_allowed(problems: Callable[[str], list[str]]) -> None:
    assert problems('[servers.a]\ncommand = "x"\nsharing = "shard"\n') == [
        "f:3: servers.a.sharing is 'shard'; allowed: 'shared', 'exclusive'; did you mean 'shared'?"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "f:1: is no TOML: Invalid value for 'a'; text needs quotes: a = \"…\""),
        ("listen = localhost\n", "f:1: is no TOML: Invalid value for 'listen'; text needs quotes: listen = \"…\""),
        (
            'x = 1\ny = "abc\nz = 2',
            "f:2: is no TOML: Illegal character '\\n'; a quote is opened",
        ),
        ('x = 1\ny = """abc\nz = 2', "f:2: is no TOML: Unterminated string; a quote is opened and not closed"),
        (
            "[jobs.a]\nevery = '1s'\n[jobs.b]\n[jobs.a]\n",
            "f:4: jobs.a is given twice, first in line 1",
        ),
        ("listen = '1'\nlisten = '2'\n", "f:2: listen is given twice, first in line 1; TOML allows each once"),
        (
            "just words\n",
            "f:1: is no TOML: Expected '=' after a key in a key/value pair; each line is",
        ),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(problems: Callable[[str], list[str]], text: str, said: str) -> None:
    (found,) = problems(text)
    assert found.startswith(said)


def test_a_broken_line_with_a_secret_is_not_quoted(load: Load) -> None:
    with pytest.raises(SettingsError) as raised:
        load("[servers.a.env]\nTOKEN = hunter22\n")
    assert "hunter22" not in str(raised.value)


def test_a_file_that_others_can_read_with_a_secret_in_it_is_a_warning(load: Load, tmp_path: Path) -> None:
    text = '[servers.a]\ncommand = "x"\nenv = { API_KEY = "hunter22", OTHER = "x", B_TOKEN = "${env:TOKEN}" }\n'
    settings = load(text)
    (tmp_path / "sexton.toml").chmod(0o644)
    (warning,) = load_settings(tmp_path / "sexton.toml", environment={"TOKEN": "x"}).warnings
    assert (warning.line, warning.path) == (3, ("servers", "a", "env", "API_KEY"))
    assert "everybody can read this file" in warning.what
    assert "hunter22" not in warning.text("f")
    (tmp_path / "sexton.toml").chmod(0o600)
    assert load_settings(tmp_path / "sexton.toml", environment={"TOKEN": "x"}).warnings == ()
    assert settings.servers["a"].transport is not None


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        load_settings(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(SettingsError, match=r"latin.toml:2: is not UTF-8"):
        load_settings(tmp_path / "latin.toml")


@pytest.mark.parametrize("launchers", [Launchers(uvx=uvx, npx=npx) for uvx in (True, False) for npx in (True, False)])
def test_what_init_writes_can_be_used_as_it_is(load: Load, launchers: Launchers) -> None:
    settings = load(starter_text(launchers))
    assert set(settings.servers) == {name for name, is_there in _servers_of(launchers) if is_there}
    assert {"uptime", "nightly"} <= {job.name for job in settings.jobs}


def _servers_of(launchers: Launchers) -> list[tuple[str, bool]]:
    return [("time", launchers.uvx), ("everything", launchers.npx)]


def test_what_only_a_restart_changes_is_named(load: Load) -> None:
    before = load("")
    assert before.needs_restart(load("concurrency = 2\n")) == ("concurrency",)
    assert before.needs_restart(load("[jobs.a]\ncommand = ['true']\n")) == ()


def test_the_starter_configuration_can_be_used() -> None:
    settings = load_settings(Path(__file__).parents[2] / "examples/starter/sexton.toml")
    assert settings.warnings == ()
    assert {"call", "command"} == {job.action["kind"] for job in settings.jobs}
    assert {Every, Cron, At, type(None)} == {type(job.schedule) for job in settings.jobs}
