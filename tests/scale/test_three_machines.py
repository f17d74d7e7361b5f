"""Three machines and one PostgreSQL, with SIGKILLs, pulled cables and restarts of the database.

Every slot ends with exactly one outcome that counts, no two runs of one slot are ever at work together, and when the
nodes have stopped there is no process on any of them.  That runs did not overlap is not asked of the database: each
holds a lock of the kernel (flock(1)) on a file of its slot for as long as a process of it lives, and says so if it
cannot have it.

`SEXTON_SLOTS=10000` is the proof of docs/scale.md; by default there are a few hundred slots.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from postgres_server import PostgresServer, postgres_server
from scale.machines import Machine, bridge, machines
from system.gateway_process import wait_for

SLOTS = int(os.environ.get("SEXTON_SLOTS", "300"))
JOBS = 16 if SLOTS < 2000 else 60
EVERY = 2 if SLOTS < 2000 else 10
NETWORK = f"10.213.{os.getpid() % 250}"
PATIENCE = 240.0

# The lock is held by whoever has descriptor 9: the whole tree of the run, until its last process is gone.
EVIDENCE = r"""
slot="$0/$SEXTON_JOB@$SEXTON_SLOT"
exec 9>>"$slot"
flock -n 9 || { echo "$SEXTON_JOB $SEXTON_SLOT $SEXTON_ATTEMPT" >> "$0/overlaps"; exit 3; }
echo "began $SEXTON_ATTEMPT" >&9
sleep 0.$((RANDOM % 9))
echo "ended $SEXTON_ATTEMPT" >&9
"""


@pytest.fixture
def postgres_on_the_bridge(debian_packages: None) -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="sexton-scale-"))
    folder.chmod(0o711)
    try:
        with (
            bridge(NETWORK),
            postgres_server(folder / "server", lasting=SLOTS > 2000, address=f"{NETWORK}.1") as server,
        ):
            yield server
    finally:
        shutil.rmtree(folder)


def settings(name: str, url: str, evidence: Path, *, paused: bool = False) -> str:
    script = f"'''{EVIDENCE}'''"
    jobs = [
        f'[jobs.job-{number}]\nevery = "{EVERY}s"\ncommand = ["bash", "-c", {script}, "{evidence}"]\n'
        f'overlap = "queue"\ncatch_up = "all"\non_interrupted = "rerun"\nretries = 20\npaused = {str(paused).lower()}\n'
        for number in range(JOBS)
    ]
    head = f'database = "{url}"\nconcurrency = 8\ndrain_timeout = "30s"\n[node]\nname = "{name}"\n'
    return head + "\n".join(jobs)


class Mischief:
    """What happens to the machines, one thing after the other; the same for the same seed."""

    def __init__(self, nodes: list[Machine], server: PostgresServer, *, seed: int) -> None:
        self._nodes = nodes
        self._server = server
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()

    def kill(self) -> None:
        """SIGKILL, and a new start while the others find out."""
        node = self._random.choice(self._nodes)
        node.gateway.send(signal.SIGKILL)
        node.gateway.wait_exit(within=PATIENCE)
        time.sleep(self._random.uniform(0, 3))  # how long a service manager takes; nothing waits for it
        node.up()

    def partition(self) -> None:
        """Long enough that the node ends its work and the others settle it; or so short that nobody notices."""
        node = self._random.choice(self._nodes)
        node.pull_the_cable()
        time.sleep(self._random.choice([2, 12, 30] if self.done["partition"] else [12]))  # the fault itself
        node.plug_in()

    def restart_database(self) -> None:
        self._server.stop(signal.SIGQUIT)  # as if it had crashed; an orderly end waits for its disk
        time.sleep(self._random.uniform(0, 4))  # the fault itself
        self._server.start()

    def do_something(self) -> None:
        self.do(self._random.choice([self.kill, self.kill, self.partition, self.restart_database]))

    def do(self, deed: Callable[[], None]) -> None:
        deed()
        self.done[deed.__name__] += 1


Row = tuple[str, int, int, int, str]


def rows_of(server: PostgresServer, name: str) -> list[Row]:
    """Job, slot, how many slots, attempt, state."""
    select = "SELECT job, slot, slot_count, attempt, state FROM run ORDER BY job, slot, attempt"
    with psycopg.connect(host=str(server.folder), port=server.port, user="admin", dbname=name) as connection:
        return connection.execute(select).fetchall()


def time_of(slot: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=slot)).isoformat()


def check(rows: list[Row], evidence: Path) -> Counter[str]:
    """That each slot from the first to the last has exactly one outcome; how many of each there are."""
    assert not (evidence / "overlaps").exists(), (evidence / "overlaps").read_text()
    outcomes: dict[tuple[str, int], list[str]] = defaultdict(list)
    times: dict[str, list[int]] = defaultdict(list)
    for job, slot, count, attempt, state in rows:
        outcomes[job, slot] += [] if state in {"interrupted", "failed"} else [state]
        assert count == 1 or state in {"skipped", "missed"}
        if attempt == 1:
            times[job] += [slot + step * EVERY * 1_000_000 for step in range(count)]
    assert {len(states) for states in outcomes.values()} == {1}, "exactly one outcome"
    for job, slots in times.items():
        assert slots == list(range(slots[0], slots[-1] + 1, EVERY * 1_000_000)), f"a slot of {job} is not recorded"
    for (job, slot), [state] in outcomes.items():
        if state == "ran":
            said = (evidence / f"{job}@{time_of(slot)}").read_text()
            assert "ended" in said, (job, slot)
    return Counter(state for [state] in outcomes.values())


def stop(nodes: list[Machine]) -> None:
    """SIGTERM, and the proof that each machine is empty."""
    for node in nodes:
        node.gateway.send(signal.SIGTERM)
    for node in nodes:
        assert node.gateway.wait_exit(within=PATIENCE) == 0, node.gateway.lines[-10:]
        node.gateway.wait_nothing_left(within=60)
        assert node.processes() == []


def wait_while_it_goes_on(left: Callable[[], int]) -> None:
    """Until nothing is left; each time that some of it got done, there is as much patience as before."""
    while before := left():
        wait_for(partial(_is_below, before, left), within=PATIENCE, what=f"one of {before} runs has ended")


def _is_below(before: int, left: Callable[[], int]) -> bool:
    return left() < before


@pytest.mark.timeout(300 + SLOTS * 3)
def test_each_slot_has_one_outcome_and_no_two_runs_of_it_overlap(
    tmp_path: Path, postgres_on_the_bridge: PostgresServer
) -> None:
    server, evidence = postgres_on_the_bridge, tmp_path / "evidence"
    evidence.mkdir()
    name = server.new_database()
    url = server.url(name).text

    def recorded() -> int:
        return sum(count for _, _, count, attempt, _ in rows_of(server, name) if attempt == 1)

    def queued_or_running() -> int:
        return sum(state in {"queued", "running"} for *_, state in rows_of(server, name))

    with machines(tmp_path, 3, network=NETWORK) as nodes:
        for node in nodes:
            node.gateway.write(settings(node.name, url, evidence))
            node.start()
        for node in nodes:
            node.wait_ready()
        mischief = Mischief(nodes, server, seed=SLOTS)
        for deed in (mischief.kill, mischief.restart_database, mischief.partition):
            mischief.do(deed)
        while recorded() < SLOTS:
            mischief.do_something()
        for node in nodes:
            node.gateway.write(settings(node.name, url, evidence, paused=True))
            node.gateway.send(signal.SIGHUP)
        wait_while_it_goes_on(queued_or_running)
        stop(nodes)

    rows = rows_of(server, name)
    outcomes = check(rows, evidence)
    assert recorded() >= SLOTS
    print(f"{recorded()} slots, {len(rows)} runs, {dict(outcomes)}, {dict(mischief.done)}")


def test_a_machine_that_is_cut_off_ends_its_work_before_another_does_it_again(
    tmp_path: Path, postgres_on_the_bridge: PostgresServer
) -> None:
    """The cable is out until another machine has done the slot again, long after the run was ended on the first."""
    server, evidence = postgres_on_the_bridge, tmp_path / "evidence"
    evidence.mkdir()
    name = server.new_database()
    head = f'database = "{server.url(name).text}"\nconcurrency = 4\n'
    script = EVIDENCE.replace("sleep 0.$((RANDOM % 9))", '[ "$SEXTON_ATTEMPT" = 2 ] || sleep 10000')
    job = f"""[jobs.long]
at = "2026-01-01T00:00:00+00:00"
catch_up_window = "9000d"
command = ["bash", "-c", '''{script}''', "{evidence}"]
on_interrupted = "rerun"
"""

    def states() -> list[str]:
        return [state for *_, state in rows_of(server, name)]

    def began() -> list[Path]:
        return [path for path in evidence.iterdir() if "began 1" in path.read_text()]

    with machines(tmp_path, 2, network=NETWORK) as nodes:
        for node in nodes:
            node.gateway.write(f'{head}[node]\nname = "{node.name}"\n{job}')
            node.start()
        for node in nodes:
            node.wait_ready()
        wait_for(began, within=PATIENCE, what="it runs")
        with psycopg.connect(host=str(server.folder), port=server.port, user="admin", dbname=name) as connection:
            row = connection.execute("SELECT name FROM node JOIN run ON run.owner = node.id").fetchone()
        assert row is not None
        (cut,) = (node for node in nodes if node.name == row[0])
        cut.pull_the_cable()
        wait_for(lambda: states() == ["interrupted", "ran"], within=PATIENCE, what="another has done it again")
        cut.plug_in()
        cut.gateway.wait_event("node.back", within=PATIENCE)
        assert [event["data"]["runs"] for event in cut.gateway.events("node.cut_off")] == [1]
        assert not (evidence / "overlaps").exists()
        stop(nodes)
