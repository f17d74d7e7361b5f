"""What is written of a tree is what the next start reads, and nothing else passes for it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sexton.containment import ledger
from sexton.containment.identity import ProcessIdentity
from sexton.containment.tree_state import Boundary, EndReason, TreeState
from small_disk import fill, small_disk

RECORD = ledger.Record(
    tree="t1",
    instance="i1",
    boot_id="b1",
    pid_namespace=4026531836,
    cookie="c1",
    name="time",
    owner="server:time",
    uid=0,
    argv=("node", "server.js"),
    cwd=None,
    boundary=Boundary.CGROUP,
    state=TreeState.DRAINING,
    reason=EndReason.RELEASED,
    started_at=1.5,
    deadline=None,
    gateway=ProcessIdentity(pid=1, start_ticks=10),
    warden=ProcessIdentity(pid=2, start_ticks=11, inode=5, handle="254:00"),
    keeper=None,
    leader=ProcessIdentity(pid=4, start_ticks=13),
    leaf=ledger.CgroupLeaf(path="/sys/fs/cgroup/x", inode=7),
    externals=(
        ledger.External(engine=("docker", "-c", "lab"), label="a=b", cidfile="/x", environment=(("HOME", "/h"),)),
    ),
    census=(ProcessIdentity(pid=4, start_ticks=13),),
    stuck=(ledger.Stuck(pid=4, why="D"),),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), RECORD)
    assert list(ledger.records(str(tmp_path))) == [RECORD]


def test_only_we_can_read_it(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), RECORD)
    assert (tmp_path / "t1.rec").stat().st_mode & 0o777 == 0o600


def test_a_record_that_does_not_fit_on_the_disk_whole_leaves_the_old_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        ledger.write(str(disk), RECORD)
        ballast = fill(disk)
        os.truncate(ballast, ballast.stat().st_size - 4096)
        with pytest.raises(OSError, match="No space left"):
            ledger.write(str(disk), replace(RECORD, argv=("x" * 32_000,)))
        assert list(ledger.records(str(disk))) == [RECORD]


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), RECORD)
    (tmp_path / "t1.rec.new").mkdir()
    with pytest.raises(OSError, match=r"t1\.rec\.new"):
        ledger.write(str(tmp_path), replace(RECORD, state=TreeState.GONE))
    assert list(ledger.records(str(tmp_path))) == [RECORD]


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), RECORD)
    ledger.remove(str(tmp_path), "t1")
    ledger.remove(str(tmp_path), "t1")
    assert ledger.record_paths(str(tmp_path)) == ()


def test_an_instance_that_never_was_has_no_records(tmp_path: Path) -> None:
    assert ledger.record_paths(str(tmp_path / "none")) == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        json.dumps({"schema": 99}).encode(),
        json.dumps({"schema": ledger.SCHEMA, "tree": "t"}).encode(),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(ledger.LedgerError, match=r"x\.rec"):
        ledger.read(str(tmp_path / "x.rec"))


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("srv", "--api-key", "s3", "x"), ("srv", "--api-key", "***", "x")),
        (("srv", "--token=s3"), ("srv", "--token=***")),
        (("env", "MY_SECRET=s3", "srv"), ("env", "MY_SECRET=***", "srv")),
        (("srv", "--port", "80"), ("srv", "--port", "80")),
        (("srv", "--auth", "--verbose"), ("srv", "--auth", "--verbose")),
    ],
)
def test_secrets_in_a_command_are_not_written(argv: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert ledger.redact(argv) == shown
