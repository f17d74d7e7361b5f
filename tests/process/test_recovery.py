"""Recovery ends what was left behind, and touches nobody whom it cannot be certain of.

The records here are made by hand for real processes that no keeper watches: what a crash of all three leaves behind.

Mutants seen to fail here: the pid of the ledger without a look at who has it now, a cgroup known by its path alone,
a cookie that counts whoever has it, a recovery that may end its own ancestors (P5);
a recovery that ends the trees of a living gateway (P6).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from sexton.containment import external, identity, ledger, recovery
from sexton.containment.environment import COOKIE_VARIABLE
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import CgroupLeaf, Record, home_of
from sexton.containment.recovery import recover
from sexton.containment.remains import Claim, Search, is_member, parse_cookie
from sexton.containment.tree_state import Boundary, TreeState
from waiting import PATIENCE
from zoo.engine import FakeEngine
from zoo.oracles import PYTHON, ZOO, Bystanders, Truth, is_running, start_ticks, unified_mount, wait_until

pytestmark = pytest.mark.anyio
COOKIE = "6f0c" * 8


def dead() -> ProcessIdentity:
    """Somebody who was, and is no more."""
    with subprocess.Popen(["sleep", "60"]) as process:
        who = identity.identify(process.pid)
        process.kill()
    assert who
    return who


def here() -> ProcessIdentity:
    who = identity.identify(os.getpid())
    assert who
    return who


def record(**changes: object) -> Record:
    """A tree of which all helpers are dead."""
    gone = dead()
    made = Record(
        tree="t1",
        instance="lost",
        boot_id=identity.boot_id(),
        pid_namespace=identity.pid_namespace(),
        cookie=COOKIE,
        name="time",
        owner="server:time",
        uid=os.geteuid(),
        argv=("zoo",),
        cwd=None,
        boundary=Boundary.SUBREAPER,
        state=TreeState.RUNNING,
        reason=None,
        started_at=time.time(),
        deadline=None,
        gateway=gone,
        warden=gone,
        keeper=gone,
        leader=None,
        leaf=None,
        externals=(),
        census=(),
        stuck=(),
        home=home_of(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def write(state_dir: Path, written: Record) -> Path:
    folder = ledger.instance_folder(state_dir, written.instance)
    Path(folder).mkdir(parents=True, exist_ok=True)
    ledger.write(folder, written)
    return Path(ledger.record_path(folder, written.tree))


class Abandoned:
    """A family of the zoo that nobody keeps."""

    def __init__(self, folder: Path, name: str, kind: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.truth = Truth(folder, name)
        self._process = subprocess.Popen(
            [*PYTHON, str(ZOO), kind, *self.truth.arguments, *arguments],
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout
        while b'"ready"' not in self._process.stdout.readline():
            continue

    def identities(self) -> tuple[ProcessIdentity, ...]:
        return tuple(who for pid in self.truth.survivors() if (who := identity.identify(pid)))

    def lose_the_leader(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def close(self) -> None:
        self.truth.close()
        self._process.communicate(timeout=PATIENCE)


class Abandon(Protocol):
    def __call__(self, kind: str, *arguments: str, env: dict[str, str] | None = None) -> Abandoned: ...


@pytest.fixture
def abandoned(tmp_path: Path) -> Iterator[Abandon]:
    made: list[Abandoned] = []

    def make(kind: str, *arguments: str, env: dict[str, str] | None = None) -> Abandoned:
        made.append(Abandoned(tmp_path, f"{kind}-{len(made)}", kind, *arguments, env=env))
        return made[-1]

    yield make
    for family in made:
        family.close()


def recover_elsewhere(state_dir: Path, *, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a recovery reports that runs in another process, below a shell; what we start is no descendant of it."""
    program = "import anyio, sys; from sexton.containment.recovery import recover; anyio.run(recover, sys.argv[1])"
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program, str(state_dir)]
    subprocess.run(command, env={**os.environ, **(env or {})}, check=True, timeout=PATIENCE)
    report = recovery.last_recovery(state_dir)
    assert report
    return report


def families_of(*kinds: str) -> list[tuple[str, ...]]:
    return [(*PYTHON, str(ZOO), kind) for kind in kinds]


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    """With the command line of an adversary, and in the environment a cookie that is not quite the right one."""
    almost = {COOKIE_VARIABLE: COOKIE[:-1] + "d", "OTHER_" + COOKIE_VARIABLE: COOKIE}
    with Bystanders(tmp_path, families_of("daemonises", "scrubs"), extra_env=almost) as fleet:
        yield fleet
        fleet.assert_untouched()


async def test_members_that_the_census_knows_are_ended(
    tmp_path: Path, abandoned: Abandon, bystanders: Bystanders
) -> None:
    family = abandoned("scrubs")
    path = write(tmp_path, record(census=family.identities()))
    family.lose_the_leader()

    report = await recover(tmp_path)

    family.truth.wait_empty(within=PATIENCE)
    assert [tree.state for tree in report.trees] == [TreeState.RECOVERED]
    assert len(report.trees[0].killed) == 1
    assert report.is_clean
    assert not path.parent.exists()
    assert bystanders


async def test_descendants_younger_than_the_census_are_found_by_descent(
    tmp_path: Path, abandoned: Abandon, bystanders: Bystanders
) -> None:
    """Forced: the census holds the leader alone, and no environment tells of the others."""
    family = abandoned("wide", "--count", "20")
    write(tmp_path, record(cookie="of another tree", leader=identity.identify(family.pid)))

    report = await recover(tmp_path)

    family.truth.wait_empty(within=PATIENCE)
    assert len(report.trees[0].killed) == 21
    assert bystanders


async def test_the_group_of_a_living_leader_goes_with_it(tmp_path: Path, bystanders: Bystanders) -> None:
    """An orphan in the leader's group, unknown to the census, with no environment and another parent."""
    script = "sh -c 'env -i sleep 1234 & echo $!'; exec sleep 1234"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        orphan = int(leader.stdout.readline())
        start = start_ticks(orphan)
        assert start
        write(tmp_path, record(leader=identity.identify(leader.pid)))

        await recover(tmp_path)

        wait_until(lambda: not is_running(orphan, start), within=PATIENCE)
        leader.wait(PATIENCE)
    assert bystanders


async def test_the_cookie_leads_to_those_whom_nobody_counted(
    tmp_path: Path, abandoned: Abandon, bystanders: Bystanders
) -> None:
    lost = record()
    family = abandoned("daemonises", env={COOKIE_VARIABLE: COOKIE})
    family.lose_the_leader()
    write(tmp_path, lost)

    report = await recover(tmp_path)

    family.truth.wait_empty(within=PATIENCE)
    assert len(report.trees[0].killed) == 1
    assert bystanders


async def test_a_cookie_older_than_its_tree_is_nobodys(tmp_path: Path) -> None:
    """It was there before the tree: whoever it is, it did not come of it."""
    with Bystanders(tmp_path, families_of("daemonises"), extra_env={COOKIE_VARIABLE: COOKIE}) as before:
        wait_until(lambda: here_ticks() > max(before.start_ticks()), within=PATIENCE)
        write(tmp_path, record())
        report = recover_elsewhere(tmp_path)
        before.assert_untouched()
    assert report["trees"][0]["killed"] == []


def here_ticks() -> int:
    return dead().start_ticks


@pytest.mark.skipif(unified_mount() is None, reason="no cgroup v2 here")
async def test_a_cookie_elsewhere_in_the_hierarchy_is_reported_and_left_alone(tmp_path: Path) -> None:
    """A service manager that took over the environment started it: escaped by delegation."""
    mount = unified_mount()
    assert mount
    home, elsewhere = (mount / f"zoo-{name}-{os.getpid()}" for name in ("home", "elsewhere"))
    elsewhere.mkdir()
    lost = record(home="/" + home.name)
    with Bystanders(tmp_path, families_of("daemonises"), extra_env={COOKIE_VARIABLE: COOKIE}) as started:
        for pid in started.pids():
            (elsewhere / "cgroup.procs").write_text(str(pid))
        write(tmp_path, lost)
        report = recover_elsewhere(tmp_path)
        started.assert_untouched()
        assert set(report["trees"][0]["escaped"]) == set(started.pids())
        assert report["trees"][0]["killed"] == []
    wait_until(lambda: (elsewhere / "cgroup.procs").read_text() == "", within=PATIENCE)
    elsewhere.rmdir()


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"uid": os.geteuid() + 1}, False),
        ({"start_ticks": 9}, False),
        ({"cgroup": "/user.slice/other"}, False),
        ({"cgroup": "/app/servicexyz"}, False),
        ({"cgroup": "/app/service"}, True),
        ({"cgroup": None}, False),
        ({"cookie": COOKIE + "0"}, False),
        ({"cookie": COOKIE[:-1]}, False),
    ],
)
async def test_what_a_cookie_proves(changes: dict[str, object], counts: bool) -> None:
    claim = Claim(
        uid=os.geteuid(),
        start_ticks=10,
        cgroup="/app/service/sexton-x/t1",
        cookie=COOKIE,
    )
    tree = record(keeper=ProcessIdentity(pid=2, start_ticks=10), home="/app/service")
    assert is_member(replace(claim, **changes), tree) is counts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "cookie"),
    [
        (b"", None),
        (b"HOME=/\0", None),
        (b"SEXTON_TREE=abc\0HOME=/\0", "abc"),
        (b"HOME=/\0SEXTON_TREE=abc\0", "abc"),
        (b"HOME=/\0SEXTON_TREE=abc", "abc"),
        (b"HOME=/\0XSEXTON_TREE=abc\0", None),
        (b"HOME=SEXTON_TREE=abc\0", None),
        (b"SEXTON_TREE=abc\0SEXTON_TREE=def\0", "abc"),
    ],
)
async def test_the_cookie_in_an_environment(environment: bytes, cookie: str | None) -> None:
    assert parse_cookie(environment) == cookie


async def test_a_gateway_that_was_started_from_inside_a_tree_is_not_its_own_victim(tmp_path: Path) -> None:
    write(tmp_path, record())
    assert recover_elsewhere(tmp_path, env={COOKIE_VARIABLE: COOKIE})["trees"][0]["killed"] == []


@pytest.fixture
def leaf() -> Iterator[Path]:
    mount = unified_mount()
    if mount is None:
        pytest.skip("no cgroup v2 here")
    group = mount / f"zoo-instance-{os.getpid()}"
    group.mkdir()
    (group / "leaf").mkdir()
    yield group / "leaf"
    for folder in (group / "leaf", group):
        if folder.exists():
            folder.rmdir()


async def test_a_leaf_is_killed_and_removed_with_all_that_its_members_made_in_it(
    tmp_path: Path, abandoned: Abandon, leaf: Path
) -> None:
    nested = leaf / "made" / "by-server"
    nested.mkdir(parents=True)
    family = abandoned("scrubs")
    for pid in family.truth.survivors():
        (nested / "cgroup.procs").write_text(str(pid))
    write(tmp_path, record(cookie="of another tree", leaf=CgroupLeaf(path=str(leaf), inode=leaf.stat().st_ino)))

    report = await recover(tmp_path)

    family.truth.wait_empty(within=PATIENCE)
    assert report.trees[0].leaf_killed
    assert report.trees[0].killed == ()
    assert not leaf.parent.exists()


async def test_another_cgroup_at_the_same_path_is_left_alone(tmp_path: Path, leaf: Path) -> None:
    with Bystanders(tmp_path, families_of("daemonises")) as others:
        for pid in others.pids():
            (leaf / "cgroup.procs").write_text(str(pid))
        write(tmp_path, record(leaf=CgroupLeaf(path=str(leaf), inode=leaf.stat().st_ino + 1)))
        report = await recover(tmp_path)
        others.assert_untouched()
        assert not report.trees[0].leaf_killed
    wait_until(lambda: (leaf / "cgroup.procs").read_text() == "", within=PATIENCE)


LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def reuse(pid: int, bystanders_of: Path) -> Bystanders:
    """A bystander fleet whose leader has exactly that pid."""
    for _ in range(200):
        LAST_PID.write_text(str(pid - 1))
        fleet = Bystanders(bystanders_of, families_of("daemonises"))
        if fleet.leader_pids == [pid]:
            return fleet
        fleet.close()
    pytest.skip("this host is too busy to force a pid")


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="pids cannot be forced here")
@pytest.mark.parametrize("certain_by", ["handle", "inode", "start_ticks"])
async def test_whoever_got_the_pid_of_a_dead_member_is_left_alone(certain_by: str, tmp_path: Path) -> None:
    was = dead()
    if certain_by != "handle":
        was = replace(was, handle=None)
    if certain_by == "start_ticks":
        was = replace(was, inode=None)
    wait_until(lambda: here_ticks() > was.start_ticks, within=PATIENCE)
    with reuse(was.pid, tmp_path) as innocent:
        write(tmp_path, record(leader=was, census=(was,), keeper=was, warden=was, gateway=was))
        report = await recover(tmp_path)
        innocent.assert_untouched()
    assert [tree.state for tree in report.trees] == [TreeState.RECOVERED]


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="pids cannot be forced here")
async def test_a_pid_that_is_used_again_within_one_tick_is_told_apart(tmp_path: Path) -> None:
    """The start time alone would say that it is the same process: that is what its inode and handle are for."""
    was = dead()
    if was.inode is None and was.handle is None:
        pytest.skip("this kernel has no pidfs")
    with reuse(was.pid, tmp_path) as innocent:
        same_tick = replace(was, start_ticks=start_ticks(was.pid) or 0)
        write(tmp_path, record(leader=same_tick, census=(same_tick,)))
        await recover(tmp_path)
        innocent.assert_untouched()


async def test_an_instance_whose_gateway_lives_is_left_alone(tmp_path: Path, abandoned: Abandon) -> None:
    family = abandoned("daemonises")
    path = write(tmp_path, record(gateway=here(), census=family.identities()))
    report = await recover(tmp_path)
    assert report.trees == ()
    assert report.alive == ("lost",)
    assert path.exists()
    assert len(family.truth.survivors()) == 2
    assert recovery.list_orphans(tmp_path) == ()
    assert [one.tree for one in recovery.list_live(tmp_path)] == ["t1"]


async def test_of_ones_own_instance_only_trees_without_any_helper_are_ended(tmp_path: Path, abandoned: Abandon) -> None:
    kept, lost = abandoned("daemonises"), abandoned("scrubs")
    write(tmp_path, record(tree="kept", gateway=here(), warden=here(), census=kept.identities()))
    gone = write(tmp_path, record(tree="lost", cookie="other", gateway=here(), census=lost.identities()))
    report = await recover(tmp_path, own_instance="lost")
    assert [tree.tree for tree in report.trees] == ["lost"]
    lost.truth.wait_empty(within=PATIENCE)
    assert len(kept.truth.survivors()) == 2
    assert gone.parent.exists()


async def test_the_folder_of_ones_own_instance_stays(tmp_path: Path) -> None:
    """The last of its records is done; the next tree will need the folder."""
    path = write(tmp_path, record(gateway=here()))
    await recover(tmp_path, own_instance="lost")
    assert not path.exists()
    assert path.parent.exists()


async def test_who_appears_after_a_first_clean_look_is_seen_by_the_second(
    tmp_path: Path, abandoned: Abandon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is no snapshot: a process that forks while it is taken may be missed.  Forced: it comes right after it."""
    late: list[Abandoned] = []

    class Late(Search):
        def __exit__(self, *details: object) -> None:
            super().__exit__(*details)
            if not late:
                late.append(abandoned("daemonises", env={COOKIE_VARIABLE: COOKIE}))
                late[0].lose_the_leader()

    monkeypatch.setattr(recovery, "Search", Late)
    write(tmp_path, record())
    await recover(tmp_path)
    late[0].truth.wait_empty(within=PATIENCE)


async def test_a_keeper_that_does_not_finish_is_ended_first(
    tmp_path: Path, abandoned: Abandon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "HELPERS_MAY_TAKE", 0.05)
    family = abandoned("scrubs")
    with subprocess.Popen(["sleep", "60"]) as frozen_keeper:
        frozen_keeper.send_signal(signal.SIGSTOP)
        keeper = identity.identify(frozen_keeper.pid)
        write(tmp_path, record(keeper=keeper, census=family.identities()))
        assert [one.tree for one in recovery.list_orphans(tmp_path)] == ["t1"]
        report = await recover(tmp_path)
        assert frozen_keeper.wait(PATIENCE) == -signal.SIGKILL
    family.truth.wait_empty(within=PATIENCE)
    assert [tree.state for tree in report.trees] == [TreeState.RECOVERED]


async def test_a_keeper_that_holds_something_stuck_keeps_it(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as custodian:
        path = write(tmp_path, record(keeper=identity.identify(custodian.pid), state=TreeState.STUCK))
        report = await recover(tmp_path)
        assert report.trees == ()
        assert path.exists()
        assert custodian.poll() is None
        custodian.kill()


async def test_who_may_not_be_signalled_is_stuck_and_stays_on_record(
    tmp_path: Path, abandoned: Abandon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root-owned descendant of a gateway that is not root; the refusal is made by hand, since tests may be root."""
    family = abandoned("daemonises")

    def refuse(_pidfd: int, _signal: int) -> bool:
        raise PermissionError

    path = write(tmp_path, record(leader=None, census=family.identities()))
    with monkeypatch.context() as patched:
        patched.setattr(identity, "send", refuse)
        report = await recover(tmp_path)
    assert report.trees[0].state is TreeState.STUCK
    assert {one.why for one in report.trees[0].stuck} == {"it runs with other credentials"}
    assert ledger.read(str(path)).state is TreeState.STUCK
    again = await recover(tmp_path)
    assert again.trees[0].state is TreeState.RECOVERED
    assert not path.exists()


async def test_what_does_not_die_is_stuck_until_it_does(
    tmp_path: Path, abandoned: Abandon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Z47: a process in a frozen cgroup cannot even be killed."""
    monkeypatch.setattr(recovery, "PATIENCE", 0.2)
    family = abandoned("scrubs")
    if family.truth.group is None or not family.truth.group.can_freeze:
        pytest.skip("no freezer here")
    write(tmp_path, record(census=family.identities()))
    with family.truth.group.frozen():
        report = await recover(tmp_path)
        assert report.trees[0].state is TreeState.STUCK
        assert {one.why for one in report.trees[0].stuck} == {"it was killed and does not end"}
        assert [one.state for one in recovery.list_orphans(tmp_path)] == [TreeState.STUCK]
    assert (await recover(tmp_path)).is_clean
    family.truth.wait_empty(within=PATIENCE)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"schema": 1}', b'{"schema": 99}', b"[]", b"null", b"\xff\xfe", b'{"schema": 1, "tree": 3}'],
)
async def test_a_damaged_record_is_reported_and_not_followed(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, record())
    path.write_bytes(content)
    report = await recover(tmp_path)
    assert [one.path for one in report.unfollowed] == [str(path)]
    assert report.trees == ()
    assert path.exists()
    assert not report.is_clean


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pid", "1"),
        ("pid", -1),
        ("pid", True),
        ("start_ticks", None),
        ("inode", "x"),
        ("handle", "no handle"),
        ("more", 1),
    ],
)
async def test_a_record_with_an_impossible_identity_is_reported_and_not_followed(
    field: str, value: object, tmp_path: Path
) -> None:
    path = write(tmp_path, record(census=(dead(),)))
    content = json.loads(path.read_text())
    content["census"][0][field] = value
    path.write_text(json.dumps(content))
    report = await recover(tmp_path)
    assert [one.path for one in report.unfollowed] == [str(path)]


@pytest.mark.parametrize("damage", ["owner", "uid", "link", "boot", "namespace"])
async def test_a_record_that_is_not_ours_is_reported_and_not_followed(
    damage: str, tmp_path: Path, abandoned: Abandon
) -> None:
    family = abandoned("daemonises")
    wrong: dict[str, dict[str, object]] = {
        "uid": {"uid": os.geteuid() + 1},
        "boot": {"boot_id": "0" * 32},
        "namespace": {"pid_namespace": 1},
    }
    path = write(tmp_path, record(census=family.identities(), **wrong.get(damage, {})))
    if damage == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, 65534)
    if damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    report = await recover(tmp_path)
    assert [one.path for one in report.unfollowed] == [str(path)]
    assert [one.path for one in recovery.list_unfollowed(tmp_path)] == [str(path)]
    assert len(family.truth.survivors()) == 2


async def test_records_of_another_boot_are_deleted_and_nothing_else(tmp_path: Path, abandoned: Abandon) -> None:
    family = abandoned("daemonises")
    write(tmp_path, record(census=family.identities()))
    boots = Path(ledger.boots_folder(tmp_path))
    (boots / identity.boot_id()).rename(boots / ("0" * 32))
    (boots / "notes").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (boots / ("1" * 32)).symlink_to(outside)

    report = await recover(tmp_path)

    assert report.boots_deleted == 1
    assert report.trees == ()
    assert sorted(entry.name for entry in boots.iterdir()) == ["1" * 32, "notes"]
    assert outside.exists()
    assert len(family.truth.survivors()) == 2


async def test_containers_of_a_lost_tree_are_removed_and_pending_while_their_engine_is_away(tmp_path: Path) -> None:
    with FakeEngine(tmp_path) as engine:
        argv, found = external.labelled(
            engine.argv("run", "-i", "--rm", "stubborn"), engine.env, tree="t1", folder=str(tmp_path)
        )
        assert found
        with subprocess.Popen(argv, env=engine.env, stdin=subprocess.PIPE) as client:
            wait_until(lambda: len(engine.asked("start")) == 1, within=PATIENCE)
            client.kill()
        path = write(tmp_path, record(externals=(found,)))
        engine.go_away()

        pending = await recover(tmp_path)
        assert pending.trees[0].state is TreeState.EXTERNAL_PENDING
        assert "daemon running" in (pending.trees[0].pending or "")
        assert ledger.read(str(path)).state is TreeState.EXTERNAL_PENDING

        engine.come_back()
        done = await recover(tmp_path)
        assert done.trees[0].state is TreeState.RECOVERED
        assert len(done.trees[0].containers) == 1
        assert engine.containers() == []


async def test_without_a_ledger_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert await recover(tmp_path / "never") == recovery.RecoveryReport()
    assert recovery.last_recovery(tmp_path) is None


async def test_what_was_recovered_is_kept_for_the_doctor(tmp_path: Path) -> None:
    write(tmp_path, record())
    await recover(tmp_path)
    await recover(tmp_path)  # with nothing to do, it must not hide the last one that had
    last = recovery.last_recovery(tmp_path)
    assert last
    assert [tree["name"] for tree in last["trees"]] == ["time"]


async def test_two_recoveries_at_once_do_no_harm(tmp_path: Path, abandoned: Abandon) -> None:
    families = [abandoned("daemonises") for _ in range(4)]
    for number, family in enumerate(families):
        write(tmp_path, record(tree=f"t{number}", cookie=f"{number}", census=family.identities()))
    reports: list[recovery.RecoveryReport] = []

    async def one() -> None:
        reports.append(await recover(tmp_path))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        tasks.start_soon(one)
    for family in families:
        family.truth.wait_empty(within=PATIENCE)
    assert all(report.is_clean for report in reports)
