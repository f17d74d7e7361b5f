"""Sexton with one mechanism taken out, for each of its promises: a test has to notice.

    python tests/mutants.py [WORD...]        all of them, or those whose promise or name has one of these words in it

A copy of the sources is changed in one place and the tests named beside it are run on the copy; at least one has to
fail.  On an unchanged copy all of them have to pass; `SEXTON_PATIENCE=60` gives them time for it on a slow machine.
`unit/test_mutants.py` keeps this list true to the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`change` in `file` (below src/sexton) from what there is, once, to what takes its place."""

    promise: str
    name: str
    file: str
    change: tuple[str, str]
    tests: tuple[str, ...]

    def apply(self, sources: Path) -> None:
        path = sources / "sexton" / self.file
        text = path.read_text()
        assert text.count(self.change[0]) == 1, f"{self.name}: not once in {self.file}"
        path.write_text(text.replace(*self.change))


KEEPER, WARDEN = "containment/keeper.py", "containment/warden_process.py"
ENDINGS, ATTACKS = "tests/process/test_zoo_endings.py", "tests/process/test_zoo_attacks.py"
LIFECYCLE, TREE = "tests/process/test_lifecycle.py", "tests/process/test_tree.py"
EXHAUSTION, STOPPED = "tests/system/test_exhaustion.py", "tests/system/test_stopped_processes.py"
DATABASE = "tests/system/test_database_faults.py"
LIVE = "tests/system/test_live_"
CRASH, RECOVERY = "tests/process/test_zoo_crash.py", "tests/process/test_recovery.py"

MUTANTS = (
    Mutant(
        promise="P1",
        name="a warden that sweeps what living keepers keep",
        file=WARDEN,
        change=("Descent(spared=self._keepers.keys())", "Descent()"),
        tests=(f"{ENDINGS}::test_killing_one_keeper_does_not_disturb_the_others",),
    ),
    Mutant(
        promise="P1",
        name="a keeper that kills the cgroup of its gateway, and not its leaf",
        file=KEEPER,
        change=(
            "            self._leaf.kill_all()\n",
            "            Leaf(os.path.dirname(self._leaf.path)).kill_all()\n",
        ),
        tests=(f"{ATTACKS}::test_a_crowd_is_ended_and_its_neighbour_is_not[wide-cgroup]",),
    ),
    Mutant(
        promise="P2",
        name="a keeper that takes no notice of the end of its lifeline",
        file=KEEPER,
        change=("self._end(EndReason.HOLDER_GONE, Event.RELEASE)", "pass"),
        tests=(f"{TREE}::test_a_handle_that_is_lost_ends_its_tree",),
    ),
    Mutant(
        promise="P2",
        name="a keeper that does not watch the gateway's pidfd",
        file=KEEPER,
        change=("        self._poller.watch(self._custody.gateway_pidfd, self._mourn_gateway)\n", ""),
        tests=(f"{LIFECYCLE}::test_a_worker_of_multiprocessing_does_not_keep_the_trees_of_a_dead_gateway",),
    ),
    Mutant(
        promise="P2",
        name="lifelines that a program which the gateway becomes inherits",
        file="containment/containment.py",
        change=(
            "        stdin_reader, stdin_writer = _pipe(undo)\n",
            "        os.set_inheritable(ours.fileno(), True)\n        stdin_reader, stdin_writer = _pipe(undo)\n",
        ),
        tests=(f"{LIFECYCLE}::test_a_gateway_that_becomes_another_program_leaves_nobody",),
    ),
    Mutant(
        promise="P3",
        name="SIGKILL to the leader's process group only",
        file=KEEPER,
        change=(
            "            self._leaf.kill_all()\n        self._descent.kill_all()\n",
            "            pass\n        if self._leader:\n            self._leader._signal(signal.SIGKILL)\n",
        ),
        tests=(f"{ATTACKS}::test_a_crowd_is_ended_and_its_neighbour_is_not[orphans-subreaper]",),
    ),
    Mutant(
        promise="P3",
        name="a keeper that is no subreaper",
        file=WARDEN,
        change=(
            '        prctl.become_subreaper()\n        prctl.take_name("sexton-keeper")\n',
            '        prctl.take_name("sexton-keeper")\n',
        ),
        tests=(f"{ENDINGS}::test_when_a_tree_has_ended_nobody_of_it_is_alive[close-subreaper]",),
    ),
    Mutant(
        promise="P3",
        name="no walk of descendants beside the cgroup",
        file=KEEPER,
        change=(
            "            self._leaf.kill_all()\n        self._descent.kill_all()\n",
            "            self._leaf.kill_all()\n        else:\n            self._descent.kill_all()\n",
        ),
        tests=(f"{ENDINGS}::test_when_a_tree_has_ended_nobody_of_it_is_alive[kill-cgroup]",),
    ),
    Mutant(
        promise="P4",
        name="a keeper that takes its kill for the proof",
        file=KEEPER,
        change=(
            "        if not self._ladder.has_begun or not self._descent.is_empty():\n            return False\n",
            "        if not self._descent.is_empty():\n            return self._ladder.is_killing\n",
        ),
        tests=(f"{ATTACKS}::test_what_cannot_be_killed_is_stuck_until_it_can",),
    ),
    Mutant(
        promise="P4",
        name="a warden that takes its kill for the proof",
        file=WARDEN,
        change=("        if self._is_swept():\n", "        if self._orphaned or self._is_swept():\n"),
        tests=(f"{ATTACKS}::test_when_its_keeper_is_dead_too_it_is_stuck_until_it_can_be_killed",),
    ),
    Mutant(
        promise="P5",
        name="the start time of the ledger without a look at who has the pid now",
        file="containment/identity.py",
        change=(
            "    if pidfd is None or _is_same(pidfd, identity):\n",
            "    if pidfd is None or identity.pid:\n",
        ),
        tests=(f"{RECOVERY}::test_whoever_got_the_pid_of_a_dead_member_is_left_alone",),
    ),
    Mutant(
        promise="P5",
        name="a cgroup that is known by its path alone",
        file="containment/cgroup_boundary.py",
        change=("return os.stat(self.path).st_ino == recorded.inode", "return os.stat(self.path).st_ino > 0"),
        tests=(f"{RECOVERY}::test_another_cgroup_at_the_same_path_is_left_alone",),
    ),
    Mutant(
        promise="P5",
        name="a cookie that counts wherever it is found",
        file="containment/remains.py",
        change=(
            "return carries_cookie(claim, record) and is_inside(claim.cgroup, record.home)",
            "return carries_cookie(claim, record)",
        ),
        tests=(f"{ATTACKS}::test_what_another_daemon_started_is_reported_and_not_signalled_by_a_recovery",),
    ),
    Mutant(
        promise="P5",
        name="servers and helpers in the session of the terminal",
        file="containment/warden.py",
        change=("start_new_session=True", "start_new_session=False"),
        tests=(f"{LIFECYCLE}::test_ctrl_c_at_the_terminal_reaches_the_gateway_alone_which_ends_its_trees",),
    ),
    Mutant(
        promise="P6",
        name="a sweep that ends what is held",
        file="containment/containment.py",
        change=(
            "active = tuple(self._trees.values()) if include_active else ()",
            "active = tuple(self._trees.values())",
        ),
        tests=(f"{TREE}::test_a_sweep_disturbs_nothing_that_is_in_use_unless_told_to",),
    ),
    Mutant(
        promise="P6",
        name="a reader that takes all of a flood in one turn",
        file="mcp_servers/server_process.py",
        change=("if number % _LINES_AT_ONCE == 0:", "if number < 0:"),
        tests=(
            "tests/process/test_stdio_server_process.py::test_a_flood_that_never_ends_lets_others_have_their_turns",
        ),
    ),
    Mutant(
        promise="P6",
        name="times to live that are counted on the clock on the wall",
        file=KEEPER,
        change=(
            "self._expires = None if order.ttl is None else time.monotonic() + order.ttl",
            "self._expires = order.ttl and time.monotonic() + order.ttl + order.started_at - time.time()",
        ),
        tests=(
            "tests/process/test_host_limits.py::test_a_step_of_the_clock_ends_nothing_too_early_and_nothing_too_late",
        ),
    ),
    Mutant(
        promise="P7",
        name="keepers that do not watch the warden",
        file=KEEPER,
        change=("        self._poller.watch(self._custody.warden_pidfd, self._mourn_warden)\n", ""),
        tests=("tests/process/test_warden.py::test_when_the_warden_is_killed_the_keepers_end_their_trees",),
    ),
    Mutant(
        promise="P7",
        name="a warden that never looks whether a stopped gateway has run out of time",
        file="containment/dead_mans_switch.py",
        change=("boot_time() >= self._until", "self._until < 0"),
        tests=("tests/process/test_dead_mans_switch.py::test_what_a_stopped_gateway_runs_is_ended_for_it",),
    ),
    Mutant(
        promise="P7",
        name="a warden that is no subreaper",
        file=WARDEN,
        change=(
            '    prctl.become_subreaper()\n    prctl.take_name("sexton-warden")\n',
            '    prctl.take_name("sexton-warden")\n',
        ),
        tests=(f"{ENDINGS}::test_when_all_keepers_are_killed_nothing_is_left_and_the_gateway_goes_on",),
    ),
    Mutant(
        promise="P7",
        name="a leader that does not go with its keeper",
        file="containment/launch.py",
        change=("    prctl.die_with_parent(signal.SIGKILL)\n", ""),
        tests=(f"{CRASH}::test_a_leader_goes_with_its_keeper_when_nobody_is_left_to_end_it",),
    ),
    Mutant(
        promise="P7",
        name="no recovery at the next start",
        file="containment/containment.py",
        change=("            if recover:\n", "            if recover and not containment.instance:\n"),
        tests=(f"{ATTACKS}::test_when_somebody_kills_everybody_the_next_start_finds_who_is_left",),
    ),
    Mutant(
        promise="P8",
        name="a self-test that does not look",
        file="containment/self_test.py",
        change=(
            '        return os.read(witness, 1) == b""\n    except BlockingIOError:\n        return False',
            "        return True\n    finally:\n        pass",
        ),
        tests=("tests/process/test_doctor.py",),
    ),
    Mutant(
        promise="P8",
        name="a doctor that calls the one hole held",
        file="containment/doctor.py",
        change=(
            '            level=Level.BEST_EFFORT,\n            evidence="leaders die at once',
            '            level=Level.SUPERVISED,\n            evidence="leaders die at once',
        ),
        tests=("tests/process/test_doctor.py",),
    ),
    Mutant(
        promise="whole",
        name="a call whose time limit passed while the gateway was stopped",
        file="mcp_servers/call.py",
        change=("if not self.answered and anyio.current_time()", "if self.answered and anyio.current_time()"),
        tests=(f"{STOPPED}::test_a_gateway_that_is_stopped_goes_on_where_it_was",),
    ),
    Mutant(
        promise="whole",
        name="a run whose time limit passed while the gateway was stopped",
        file="scheduler/run_task.py",
        change=("if left <= 0 and (has_caught_up or left > -LATE):", "if left <= 0:"),
        tests=(f"{STOPPED}::test_a_gateway_that_is_stopped_goes_on_where_it_was",),
    ),
    Mutant(
        promise="whole",
        name="a warden without descriptors in reserve",
        file=WARDEN,
        change=(
            "            with self._reserve.spent():\n                self._sweep_at_need()\n",
            "            raise\n",
        ),
        tests=(f"{EXHAUSTION}::test_descriptors_of_the_gateway_and_of_the_warden",),
    ),
    Mutant(
        promise="whole",
        name="a thread that cannot be had is an error that nobody expects",
        file="threads.py",
        change=("        if begun or str(error) != _NO_THREAD:\n            raise\n", "        raise\n"),
        tests=("tests/unit/test_threads.py::test_it_is_done_here_when_the_system_gives_no_thread",),
    ),
    Mutant(
        promise="whole",
        name="a keeper that dies of complaining about the disk",
        file="containment/record_book.py",
        change=("with suppress(OSError):  # our stderr", "with suppress(ValueError):  # our stderr"),
        tests=(f"{EXHAUSTION}::test_room_on_the_disk",),
    ),
    Mutant(
        promise="whole",
        name="a record that does not fit takes the place of the one before",
        file="containment/ledger.py",
        change=("if written < len(content):", "if written > len(content):"),
        tests=("tests/process/test_ledger.py",),
    ),
    Mutant(
        promise="whole",
        name="a stop that waits for a database that does not come back",
        file="scheduler/dispatcher.py",
        change=("                if self._out_of_time:\n", "                if self._failing is None:\n"),
        tests=(f"{DATABASE}::test_a_damaged_database_stops_no_server_and_no_stop",),
    ),
    Mutant(
        promise="whole",
        name="a second SIGTERM that blames the server for the calls that it cuts off",
        file="gateway/http/disconnect.py",
        change=("if failure is not None and not gateway.cutting_off.is_set():", "if failure is not None:"),
        tests=(
            "tests/unit/test_http_api.py::test_a_call_that_fails_because_the_gateway_ends_is_not_blamed_on_its_server",
        ),
    ),
    Mutant(
        promise="P6",
        name="a job that ends in the middle of its call, and takes the calls of others along",
        file="mcp_servers/multiplexer.py",
        change=(
            '        for call in self.calls_of(connection):\n            self._abandon(call, "the caller has left")\n',
            '        for call in [*self._calls.values()]:\n            self._abandon(call, "the caller has left")\n',
        ),
        tests=(f"{LIVE}chats.py::test_no_chat_notices_what_becomes_of_jobs_on_its_servers",),
    ),
    Mutant(
        promise="whole",
        name="a tool call that is made again after a kill",
        file="agent/conversation_store.py",
        change=("(CallState.STARTED,), CallState.UNKNOWN, _UNKNOWN)", '(CallState.STARTED,), CallState.PLANNED, "")'),
        tests=(f"{LIVE}kill.py::test_ten_turns_and_their_deliveries_outlive_a_kill_and_nothing_is_done_twice",),
    ),
)


def run_on_copy(mutant: Mutant | None, tests: tuple[str, ...]) -> bool:
    """Whether those tests pass on a copy of the sources with that change, or with none."""
    with tempfile.TemporaryDirectory(prefix="sexton-mutant-") as folder:
        copy = Path(folder)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for part in ("Makefile", ".venv"):  # fixtures install with them what tests need
            (copy / part).symlink_to(ROOT / part)
        if mutant:
            mutant.apply(copy / "src")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={"SEXTON_TIMED": "1", "SEXTON_PATIENCE": "10", **os.environ, "PYTHONPATH": str(copy / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return done.returncode == 0


def try_out(mutant: Mutant) -> str:
    """Whether its tests notice; "UNSURE" when they fail on the sources as they are, too."""
    if run_on_copy(mutant, mutant.tests):
        return "MISSED"
    return "caught" if run_on_copy(None, mutant.tests) else "UNSURE"


def main(words: list[str]) -> int:
    chosen = [one for one in MUTANTS if not words or any(word in f"{one.promise} {one.name}" for word in words)]
    missed = 0
    for mutant in chosen:
        began = time.monotonic()
        verdict = try_out(mutant)
        missed += verdict != "caught"
        print(f"{mutant.promise}  {verdict}  {time.monotonic() - began:5.0f} s  {mutant.name}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutants caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
