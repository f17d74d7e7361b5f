"""`sexton token`, `sexton open` and the logs and stopping of servers, from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from cli_bench import Served, serving
from sexton.cli.main import run


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


Sexton = Callable[..., Answer]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("SEXTON_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def sexton(capsys: pytest.CaptureFixture[str]) -> Sexton:
    def invoke(*arguments: str) -> Answer:
        capsys.readouterr()
        status = run(arguments)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return invoke


def test_a_token_is_printed_once_listed_and_revoked(served: Served, sexton: Sexton) -> None:
    assert "No tokens" in sexton("token").out
    made = sexton("token", "create", "editor", "--scope", "run", "--profile", "notes", "--lasts", "30d")
    assert re.fullmatch(r"sxt_[a-z0-9]{8}_[\w-]{43}\n", made.out)
    listing = sexton("token").out
    assert made.out.strip() not in listing
    assert re.search(r"editor +\w{8} +valid +read, run +notes", listing)
    again = sexton("token", "create", "editor")
    assert (again.status, "token revoke editor" in again.err) == (2, True)
    assert sexton("token", "revoke", "editor").out.startswith("The token editor (")
    assert "revoked" in sexton("token", "list").out
    nothing = sexton("token", "revoke", "editr")
    assert nothing.status == 2


@pytest.mark.parametrize("wrong", [("--lasts", "soon"), ("--scope", "root"), ("--lasts", "0s")])
def test_a_token_that_is_asked_for_wrongly(served: Served, sexton: Sexton, wrong: tuple[str, str]) -> None:
    assert sexton("token", "create", "x", *wrong).status == 2
    assert sexton("token", "--json").out.strip() == "[]"


def test_open_shows_the_link_to_nobody_else(
    served: Served, sexton: Sexton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The arguments of the program that opens the browser can be seen by every user of the machine."""
    opened: list[str] = []

    def launch(url: str) -> int:
        opened.append(url)
        return 0

    monkeypatch.setattr(typer, "launch", launch)
    answer = sexton("open")
    assert (answer.status, "login?code" in answer.out) == (0, False)
    page = tmp_path / "open.html"
    assert opened == [page.resolve().as_uri()]
    assert page.stat().st_mode & 0o777 == 0o600
    assert f"url={served.url}/login?code=" in page.read_text()


def test_open_prints_the_link_where_no_browser_can_be_opened(
    served: Served, sexton: Sexton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typer, "launch", lambda _: 1)
    for arguments in (("open",), ("open", "--print")):
        assert sexton(*arguments).out.startswith(f"{served.url}/login?code=")
    assert json.loads(sexton("open", "--json").out)["url"].startswith(served.url)


def test_the_log_of_a_server_and_its_end(served: Served, sexton: Sexton, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "time.log").write_text("one\ntwo \x1b[31mred\n")
    assert sexton("servers", "log", "time", "-n", "1").out == "two \N{REPLACEMENT CHARACTER}[31mred\n"
    assert sexton("servers", "log", "tme").status == 2
    assert sexton("servers", "stop", "time").out == "time is running.\n"
    assert served.bench.pool.restarted == ["time at once"]
