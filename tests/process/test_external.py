"""Containers are found by their label and removed by nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton.containment import external
from sexton.containment.ledger import External
from waiting import PATIENCE
from zoo.engine import FakeEngine
from zoo.oracles import wait_until


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path) as running:
        yield running


def labelled(*argv: str, env: dict[str, str] | None = None) -> tuple[tuple[str, ...], External | None]:
    return external.labelled(argv, env or {}, tree="t1", folder="/state")


def test_a_run_is_labelled_before_its_own_options() -> None:
    argv, found = labelled("docker", "run", "-i", "--rm", "mcp/time", "--utc")
    added = ("--label", "dev.sexton.tree=t1", "--cidfile", "/state/t1.cid", "--init")
    assert argv == ("docker", "run", *added, "-i", "--rm", "mcp/time", "--utc")
    assert found
    assert found.label == "dev.sexton.tree=t1"
    assert found.remove_volumes


@pytest.mark.parametrize(
    ("argv", "engine_words"),
    [
        (("docker", "--context", "lab", "run", "x"), ("--context", "lab")),
        (("docker", "-H", "unix:///run", "--debug", "container", "run", "x"), ("-H", "unix:///run", "--debug")),
        (("docker", "--context=lab", "run", "x"), ("--context=lab",)),
        (("/opt/bin/podman", "--remote", "run", "x"), ("--remote",)),
        (("nerdctl", "--namespace", "k8s.io", "run", "x"), ("--namespace", "k8s.io")),
    ],
)
def test_the_same_daemon_is_asked_later(argv: tuple[str, ...], engine_words: tuple[str, ...]) -> None:
    changed, found = labelled(*argv)
    assert found
    assert found.engine[1:] == engine_words
    at = changed.index("run")
    assert changed[at + 1 : at + 3] == ("--label", "dev.sexton.tree=t1")


@pytest.mark.parametrize(
    "argv",
    [("docker", "ps"), ("docker",), ("docker", "--debug"), ("docker", "compose", "run", "web"), ("runner", "run", "x")],
)
def test_what_starts_no_container_is_left_alone(argv: tuple[str, ...]) -> None:
    assert labelled(*argv) == (argv, None)


def test_what_the_user_chose_is_kept() -> None:
    argv, found = labelled("docker", "run", "--init=false", "--cidfile", "/mine", "x")
    assert argv.count("--cidfile") == 1
    assert "--init" not in argv
    assert found
    assert found.cidfile == "/mine"


def test_podman_gets_no_init_where_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    assert "--init" not in labelled("podman", "run", "x")[0]


def test_the_record_keeps_which_daemon_was_meant_and_no_secret() -> None:
    _, found = labelled("docker", "run", "x", env={"DOCKER_HOST": "ssh://lab", "DOCKER_AUTH_CONFIG": "s3cret"})
    assert found
    assert dict(found.environment) == {"DOCKER_HOST": "ssh://lab"}


def started(engine: FakeEngine, folder: Path, *words: str, tree: str) -> tuple[subprocess.Popen[bytes], External]:
    argv, found = external.labelled(engine.argv("run", *words), engine.env, tree=tree, folder=str(folder))
    assert found
    return subprocess.Popen(argv, env=engine.env, stdin=subprocess.PIPE, start_new_session=True), found


def end(client: subprocess.Popen[bytes]) -> None:
    client.kill()
    client.communicate(timeout=PATIENCE)


def test_the_containers_of_one_tree_are_removed_and_no_others(engine: FakeEngine, tmp_path: Path) -> None:
    ours, ours_record = started(engine, tmp_path, "-i", "--rm", "stubborn", tree="ours")
    theirs, theirs_record = started(engine, tmp_path, "-i", "--rm", "stubborn", tree="theirs")
    wait_until(lambda: len(engine.asked("start")) == 2, within=PATIENCE)
    end(ours)
    kept = external.listed(theirs_record)
    assert len(kept) == 1

    removal = external.remove(ours_record, settle=0.05)

    assert removal.pending is None
    assert len(removal.removed) == 1
    assert external.listed(ours_record) == ()
    assert external.listed(theirs_record) == kept
    assert not (tmp_path / "ours.cid").exists()
    end(theirs)


def test_a_container_whose_client_was_killed_while_it_asked_is_removed_when_it_appears(tmp_path: Path) -> None:
    """The cidfile tells that an answer is outstanding; two quick looks would find nothing, and miss it."""
    with FakeEngine(tmp_path, slow_create=1.0) as engine:
        client, record = started(engine, tmp_path, "-i", "--rm", "stubborn", tree="cut")
        wait_until(lambda: len(engine.asked("create")) == 1, within=PATIENCE)
        end(client)
        assert engine.containers() == []

        removal = external.remove(record, settle=0.05, patience=10)

        assert len(removal.removed) == 1
        assert engine.containers() == []


def test_an_engine_that_is_away_leaves_the_removal_pending(engine: FakeEngine, tmp_path: Path) -> None:
    client, record = started(engine, tmp_path, "-i", "--rm", "stubborn", tree="away")
    wait_until(lambda: len(engine.asked("start")) == 1, within=PATIENCE)
    end(client)
    engine.go_away()
    removal = external.remove(record)
    assert removal.removed == ()
    assert removal.pending is not None
    assert "docker daemon running" in removal.pending
    engine.come_back()


def test_an_engine_that_is_not_installed_any_more_leaves_the_removal_pending() -> None:
    record = External(engine=("/nowhere/docker",), label="dev.sexton.tree=x", cidfile="/nowhere/x.cid")
    removal = external.remove(record)
    assert removal.pending is not None
    assert "could not be started" in removal.pending


def test_a_refused_removal_is_tried_again(tmp_path: Path) -> None:
    """An engine says no while it is already removing (`--rm` after the client's death)."""
    looks = iter(["c1\n", "c1\n", "", ""])

    def ask(argv: tuple[str, ...], _environment: object) -> str:
        if "rm" in argv:
            raise external.EngineFailed("removal of container c1 is already in progress")
        return next(looks)

    record = External(engine=("docker",), label="dev.sexton.tree=x", cidfile=str(tmp_path / "x.cid"))
    removal = external.remove(record, ask=ask, settle=0.0)
    assert removal == external.Removal(removed=("c1",))


def test_an_engine_that_never_stops_listing_is_given_up_for_now(tmp_path: Path) -> None:
    record = External(engine=("docker",), label="dev.sexton.tree=x", cidfile=str(tmp_path / "x.cid"))
    removal = external.remove(record, ask=lambda *_: "c1", settle=0.01, patience=0.05)
    assert removal.pending == "containers with this label keep appearing"
