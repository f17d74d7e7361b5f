"""The pure parts of the command line: places, figures, arguments, the lines of events."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.cli.console import EventConsole
from sexton.cli.job_options import parse_moment, parse_schedule
from sexton.cli.places import Places
from sexton.cli.tool_arguments import parse_arguments
from sexton.errors import UsageError
from sexton.gateway import figures
from sexton.gateway.event_lines import line_of

NOW = datetime(2026, 11, 22, 14, 3, 7, tzinfo=UTC)


def test_what_is_left_at_the_end_is_not_hidden() -> None:
    clean, stuck = line_of("gateway.stopped", {"left": []}), line_of("gateway.stopped", {"left": ["browser"]})
    assert clean is not None
    assert clean.text == "stopped; nothing is left"
    assert stuck is not None
    assert "browser" in stuck.text
    assert "nothing is left" not in stuck.text


def places(folder: Path, *, config: str | None = None, data: str | None = None, **environ: str) -> Places:
    return Places(
        config_option=Path(config) if config else None,
        data_option=Path(data) if data else None,
        environ={"HOME": str(folder / "home")} | environ,
        cwd=folder,
    )


def test_the_configuration_is_looked_for_in_the_order_that_is_documented(tmp_path: Path) -> None:
    xdg = tmp_path / "xdg" / "sexton" / "sexton.toml"
    here = tmp_path / "sexton.toml"
    other, named = tmp_path / "other.toml", tmp_path / "named.toml"
    xdg.parent.mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    for path in (xdg, here, other, named):
        path.touch()
    assert places(tmp_path, config="named.toml", SEXTON_CONFIG="other.toml", **environ).find_config() == named
    assert places(tmp_path, SEXTON_CONFIG="other.toml", **environ).find_config() == other
    assert places(tmp_path, **environ).find_config() == here
    here.unlink()
    assert places(tmp_path, **environ).find_config() == xdg
    assert places(tmp_path, **environ).config_to_extend() == xdg
    assert places(tmp_path, **environ).config_to_write() == here
    with pytest.raises(UsageError, match=r"\$SEXTON_CONFIG names .*, which is not there"):
        places(tmp_path, SEXTON_CONFIG="nope.toml").find_config()


def test_the_data_folder_is_looked_for_in_the_order_that_is_documented(tmp_path: Path) -> None:
    assert places(tmp_path, data="d", SEXTON_DATA="e").data_dir() == tmp_path / "d"
    assert places(tmp_path, SEXTON_DATA="e").data_dir() == tmp_path / "e"
    assert places(tmp_path, XDG_STATE_HOME="/state").data_dir() == Path("/state/sexton")
    assert places(tmp_path, XDG_STATE_HOME="relative").data_dir() == tmp_path / "home/.local/state/sexton"


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (['{"a": [1]}'], {"a": [1]}),
        (["a=1", "b=x y", "c=true", "d=", "e=[1,2]"], {"a": 1, "b": "x y", "c": True, "d": "", "e": [1, 2]}),
        (["a==1", "b:=2"], {"a": "1", "b": 2}),
        (["url=http://x/?q=1"], {"url": "http://x/?q=1"}),
        (["time=07:00"], {"time": "07:00"}),
    ],
)
def test_arguments_are_json_or_pairs(words: list[str], arguments: dict[str, Any]) -> None:
    assert parse_arguments(words) == arguments


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["[1]"], "must be a JSON object, not a list"),
        (['"x"'], "must be a JSON object, not a text"),
        (["{"], "column 2"),
        (["nonsense"], "column 1"),
        (["a=1", "b"], "'b' is not a pair"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a:=x"], "The value of 'a' is not JSON"),
        (["=1", "b=2"], "is not a pair"),
        (['{"a": 1,\n "b": }'], "line 2, column 7"),
        (["[" * 100_000], "nested too deeply"),
        (["{\n"], "line 2, column 1"),
    ],
)
def test_arguments_that_cannot_be_read_are_pointed_at(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_arguments(words)
    assert said in told.value.what


@given(st.lists(st.text(), max_size=3))
def test_no_argument_whatever_breaks_the_parser(words: list[str]) -> None:
    with suppress(UsageError):
        parse_arguments(words)


@given(st.text(min_size=1).map(lambda text: "{" + text))
def test_the_mark_below_a_mistake_is_below_the_mistake(text: str) -> None:
    try:
        parse_arguments([text])
    except UsageError as error:
        lines = error.what.split("\n")
        assert lines[-1].strip() == "^"
        assert len(lines[-1]) <= 63


def test_moments_are_in_the_zone_that_is_named() -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    assert parse_moment("2026-12-24T18:00", zone, now=NOW).isoformat() == "2026-12-24T18:00:00+01:00"
    assert parse_moment("2026-12-24 18:00Z", zone, now=NOW).isoformat() == "2026-12-24T18:00:00+00:00"
    assert parse_moment("18:00", zone, now=NOW).isoformat() == "2026-11-22T18:00:00+01:00"
    assert parse_moment("07:00", zone, now=NOW).isoformat() == "2026-11-23T07:00:00+01:00"
    assert parse_moment("+1h30m", zone, now=NOW) == NOW + timedelta(minutes=90)


def test_a_moment_that_has_passed_is_refused() -> None:
    with pytest.raises(UsageError, match="'2020-01-01', which has passed"):
        parse_schedule(every=None, cron=None, at="2020-01-01", zone=ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0 ms"), (0.0123, "12 ms"), (0.84, "0.8 s"), (41.7, "42 s"), (200, "3m 20s"), (90_000, "1d 1h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert figures.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0s"), (59, "59s"), (60, "1m"), (3601, "1h"), (86_400 * 2 + 7200, "2d 2h")]
)
def test_ages(seconds: float, shown: str) -> None:
    assert figures.age(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (81_400_000, "81 MB"), (2.5e12, "2.5 TB")],
)
def test_sizes(count: float | None, shown: str) -> None:
    assert figures.size(count) == shown


def test_times_near_and_far() -> None:
    assert figures.from_now(NOW + timedelta(seconds=12), NOW) == "in 12s"
    assert figures.from_now(NOW - timedelta(seconds=200), NOW) == "3m 20s ago"
    assert figures.from_now(NOW, NOW) == "now"
    assert figures.local_time(NOW, NOW) == "14:03:07"
    assert figures.local_time(NOW - timedelta(days=1), NOW) == "Nov 21 14:03:07"
    assert figures.local_time(NOW - timedelta(days=400), NOW) == "2025-10-18 14:03:07"
    assert figures.interval(5400) == "1h30m"
    assert figures.interval(1.5) == "1.5s"
    assert figures.first_line("\n  one\ntwo\n\nthree") == "one (+2 lines)"
    assert figures.first_line('{\n  "a": 1, "b": "x"\n}') == "a: 1, b: x"
    assert figures.first_line('{\n  "a": 1,\n') == '{ "a": 1,'
    assert figures.first_line("[FILE] a\n[FILE] b") == "[FILE] a (+1 line)"


# The console of `sexton up`


@dataclass(frozen=True, kw_only=True)
class Happening:
    kind: str
    subject: str = "clock"
    at: datetime = NOW
    data: Mapping[str, Any] = field(default_factory=dict)


HAPPENINGS = [
    Happening(kind="gateway.starting", subject="gateway", data={"pid": 7, "version": "0.1"}),
    Happening(kind="gateway.ready", subject="gateway", data={"url": "http://127.0.0.1:7390", "boundary": "cgroup"}),
    Happening(kind="run.queued", data={"run": "0194-aabbccdd"}),
    Happening(kind="run.started", data={"run": "0194-aabbccdd", "trigger": "schedule"}),
    Happening(kind="server.starting", subject="time", data={"process": "time#1", "waiting": ["run:0194-aabbccdd"]}),
    Happening(kind="server.started", subject="time", data={"pid": 41, "seconds": 0.81, "tools": 2}),
    Happening(kind="server.leased", subject="time", data={"holders": ["run:0194-aabbccdd"]}),
    Happening(kind="server.shared", subject="time", data={"holders": ["run:0194-aabbccdd", "api:12"]}),
    Happening(kind="run.ended", data={"run": "x", "state": "ran", "seconds": 0.012, "output": "It is 15:03\nin town"}),
    Happening(
        kind="run.ended", data={"run": "x", "state": "failed", "seconds": 4.0, "error": "It broke.\nNext: mend it"}
    ),
    Happening(kind="run.ended", data={"run": "x", "state": "cancelled", "seconds": 4.0, "reason": "by hand"}),
    Happening(kind="run.skipped", data={"state": "skipped", "reason": "the previous run has not ended", "count": 3}),
    Happening(kind="server.retired", subject="time", data={"reason": "idle", "calls": 14}),
    Happening(
        kind="server.died", subject="time", data={"error": "server 'time' ended with status 1.", "holders": ["api:12"]}
    ),
    Happening(
        kind="server.start_failed",
        subject="time",
        data={"error": "'time' could not be started: the command 'uvx' was not found.\nNext: install 'uvx'"},
    ),
    Happening(
        kind="run.ended",
        data={
            "run": "x",
            "state": "failed",
            "seconds": 0.2,
            "error": "server 'git' ended with status 3.\n  Its last words: 1\n    2\n    3\n    4",
        },
    ),
    Happening(kind="server.breaker_open", subject="time", data={"failures": 5, "retry_in": 30.0}),
    Happening(
        kind="settings.problem", subject="settings", data={"what": "sexton.toml:3: evry: unknown", "hint": "every"}
    ),
    Happening(kind="gateway.dead", subject="here", data={"runs": 0}),
    Happening(kind="gateway.dead", subject="here", data={"runs": 2}),
    Happening(kind="clock.jumped", subject="here", data={"seconds": -600.0}),
    Happening(kind="gateway.stopping", subject="gateway", data={"signal": "SIGTERM", "drain": 20.0}),
]


def test_what_a_person_sees_of_a_gateway() -> None:
    stream = io.StringIO()
    console = EventConsole(stream)
    for happening in HAPPENINGS:
        console.show(happening)
    local = f"{NOW.astimezone():%H:%M:%S}"
    assert stream.getvalue().replace(local, "14:03:07") == (
        "14:03:07  · gateway     sexton 0.1 starts, pid 7\n"
        "ready http://127.0.0.1:7390\n"
        "14:03:07  ▶ clock       run aabbccdd started\n"
        "14:03:07  ○ time        starting for clock\n"
        "14:03:07  ● time        ready in 0.8 s (pid 41, 2 tools)\n"
        "14:03:07  ◆ time        shared by 2 holders: clock, api:12\n"
        "14:03:07  ✔ clock       ran in 12 ms: It is 15:03 (+1 line)\n"
        "14:03:07  ✘ clock       failed after 4.0 s: It broke.\n"
        "                  Next: mend it\n"
        "14:03:07  ! clock       cancelled after 4.0 s: by hand\n"
        "14:03:07  ! clock       skipped 3 times: the previous run has not ended\n"
        "14:03:07  ○ time        retired after 14 calls: idle\n"
        "14:03:07  ✘ time        died (held by api:12): it ended with status 1.\n"
        "14:03:07  ✘ time        did not start: the command 'uvx' was not found.\n"
        "                  Next: install 'uvx'\n"
        "14:03:07  ✘ clock       failed after 0.2 s: server 'git' ended with status 3.\n"
        "                        Its last words: 1\n"
        "                        2\n"
        "                        (+2 lines)\n"
        "14:03:07  ! time        failed 5 times in a row; not started for 30 s\n"
        "                  Next: try at once: sexton servers restart NAME\n"
        "14:03:07  ! settings    sexton.toml:3: evry: unknown\n"
        "                  Next: every\n"
        "14:03:07  ! gateway     an earlier one had died, with no run under way\n"
        "14:03:07  ! gateway     an earlier one had died; 2 runs of it settled\n"
        "14:03:07  ! gateway     the clock went back by 3m 20s; nothing runs twice\n"
        "14:03:07  · gateway     stopping (SIGTERM); what runs gets 20 s to end\n"
        "                  Next: once more stops at once\n"
    ).replace("3m 20s", "10m")


def test_symbols_are_ascii_where_only_that_can_be_shown() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    EventConsole(stream).show(HAPPENINGS[3])
    stream.flush()
    assert b"> clock" in raw.getvalue()


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_reader_who_went_away_does_not_stop_the_gateway() -> None:
    console = EventConsole(Gone())
    for happening in HAPPENINGS:
        console.show(happening)


@given(
    st.sampled_from([happening.kind for happening in HAPPENINGS]),
    st.dictionaries(st.sampled_from(["error", "reason", "output", "holders", "state", "what"]), st.text() | st.none()),
)
def test_no_event_whatever_breaks_the_console(kind: str, data: dict[str, Any]) -> None:
    if kind == "gateway.ready":
        return
    stream = io.StringIO()
    EventConsole(stream).show(Happening(kind=kind, data=data))
    assert "\x1b" not in stream.getvalue()
    line_of(kind, data)


def test_what_becomes_of_a_model_on_this_machine_is_told() -> None:
    def told(kind: str, **data: Any) -> str:
        line = line_of(f"model.{kind}", data)
        assert line is not None
        return line.text

    assert told("started", seconds=2.5, pid=41) == "ready in 2.5 s (pid 41)"
    assert told("retired") == "retired: idle"
    assert told("died", what="The server of model 'small' was ended by SIGKILL.") == (
        "died: The server of model 'small' was ended by SIGKILL."
    )
    assert told("failed", error="Its file is not there.", hint="pull it") == "did not start: Its file is not there."
