"""A day of cron in minutes: seven jobs on mempalace and two other real servers, with Sexton and the naive way.

A fifth of the runs time out, are cancelled or fail; the host is killed with SIGKILL after a third and after two thirds
of them, and started again two seconds later. Who is alive, and how much memory (PSS) that is, is read from outside
twice a second. Sexton runs the jobs on its schedule, five a second; the naive host runs the same list with a fresh SDK
`stdio_client` a run, eight at a time, as fast as it can.

    python -m benchmarks.cron_day [--runs 1500] [--naive-runs as many]

Writes .bench/cron_day.csv (one line a sample) and .bench/cron_day.svg.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.bystanders import Bystanders
from benchmarks.day_jobs import JOBS, MIDWAY, PROGRAMS, day_servers, runs_in_order
from benchmarks.gateway import Follower, Gateway, toml_jobs, toml_servers
from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT, Peers, ensure_peers
from benchmarks.plot import write_plot
from benchmarks.report import RESULTS, markdown_table, quantile, say, times, write_csv
from benchmarks.truth import Leaf, command_line, cookie_pids, end_cookie_pids, parent_of, proportional_bytes
from benchmarks.waiting import free_port, wait_until

SAMPLE_SECONDS = 0.5
AFTER_KILL = 2.0
AT_ONCE = 8
SETTLE_SECONDS = 8.0
STALLED_SECONDS = 120.0
SAMPLE_FIELDS = ("day", "seconds", "runs", "processes", "trees", "server_processes", "server_mib", "all_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one look from outside found."""

    day: str
    seconds: float
    runs: int
    processes: int
    """In the leaf: host, its helpers and servers."""
    trees: int
    """Servers: not their children, such as the git processes of mcp-server-git."""
    server_processes: int
    server_mib: float
    all_mib: float


@dataclass(slots=True, kw_only=True)
class Day:
    """One host's day as it goes: what ended how, what was seen, what was left after each kill."""

    name: str
    leaf: Leaf
    cookie: str
    ended: "Counter[str]" = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    left_after_kill: list[int] = field(default_factory=list)
    seconds_after_kill: list[float] = field(default_factory=list)
    left_at_end: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def runs(self) -> int:
        """Runs that have ended, however."""
        return sum(self.ended.values())

    def note_run(self, how: str, seconds: float) -> None:
        """One more run has ended."""
        self.ended[how] += 1
        self.durations.append(seconds)

    def note_left_after_kill(self) -> None:
        """Who is alive AFTER_KILL seconds after the host was killed; and when the last one was seen to go."""
        began = time.monotonic()
        wait_until(lambda: not self.leaf.pids(), AFTER_KILL)
        self.seconds_after_kill.append(time.monotonic() - began)
        self.left_after_kill.append(len(self.leaf.pids() | cookie_pids(self.cookie)))

    @contextlib.contextmanager
    def sampled(self) -> Iterator[None]:
        """Look every SAMPLE_SECONDS until left."""
        over, began = threading.Event(), time.monotonic()

        def look() -> None:
            while not over.wait(SAMPLE_SECONDS):
                self.samples.append(self._sample(time.monotonic() - began))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.seconds = time.monotonic() - began
            self.cpu_seconds = _cpu_seconds(self.leaf)

    def _sample(self, seconds: float) -> Sample:
        everybody, servers = self.leaf.pids(), cookie_pids(self.cookie)
        memory = {pid: proportional_bytes(pid) / 2**20 for pid in everybody | servers}
        return Sample(
            day=self.name,
            seconds=round(seconds, 1),
            runs=self.runs,
            processes=len(memory),
            trees=sum(parent_of(pid) not in servers and _is_leader(pid) for pid in servers),
            server_processes=len(servers),
            server_mib=round(sum(memory[pid] for pid in servers), 1),
            all_mib=round(sum(memory.values()), 1),
        )


def _is_leader(pid: int) -> bool:
    return any(program in command_line(pid) for program in PROGRAMS)


def _cpu_seconds(leaf: Leaf) -> float:
    """Of everybody who was ever in the leaf: cgroup2 counts that without any controller (cgroups, cpu.stat)."""
    lines = (leaf.folder / "cpu.stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("usage_usec"))) / 1e6


@contextlib.contextmanager
def day_of(name: str) -> Iterator[tuple[Day, Path]]:
    """A day with its leaf and its folder; whoever is left when it is over is ended."""
    cookie = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Leaf.made() as leaf:
        try:
            yield Day(name=name, leaf=leaf, cookie=cookie), Path(folder)
        finally:
            end_cookie_pids(cookie)


def sexton_day(peers: Peers, runs: int) -> Day:
    """`sexton up` on the seven jobs until so many runs have ended, killed twice."""
    with day_of("sexton") as (day, folder):
        (folder / "sexton.toml").write_text(day_config(peers, folder, day.cookie))
        gateway = Gateway(day.leaf, folder)
        gateway.start()
        follower = Follower(gateway, lambda event: _on_event(day, gateway, event))
        with day.sampled(), follower.following():
            for mark in (runs // 3, 2 * runs // 3):
                wait_for_runs(day, mark)
                gateway.kill()
                day.note_left_after_kill()
                gateway.start()
            wait_for_runs(day, runs)
            status = gateway.stop()
            wait_until(lambda: not day.leaf.pids(), SETTLE_SECONDS)
            day.left_at_end = len(day.leaf.pids() | cookie_pids(day.cookie))
        if status:
            say(f"sexton up ended with status {status}: {gateway.last_words()}")
    return day


def day_config(peers: Peers, folder: Path, cookie: str) -> str:
    """The whole sexton.toml."""
    jobs: dict[str, dict[str, Any]] = {
        job.name: {
            "every": f"{job.every}s",
            "call": f"{job.server}.{job.tool}",
            "arguments": job.arguments,
            "overlap": "parallel",
            "concurrency": 4,
            "catch_up": "none",
        }
        for job in JOBS
    }
    for job in JOBS:
        if job.ending == "times out":
            jobs[job.name]["timeout"] = f"{MIDWAY * 1000:.0f}ms"
    listen = f'listen = "127.0.0.1:{free_port()}"\n'
    return listen + toml_servers(day_servers(peers, folder, cookie)) + toml_jobs(jobs)


def _on_event(day: Day, gateway: Gateway, event: dict[str, Any]) -> None:
    data = event["data"]
    if event["kind"] == "run.ended":
        day.note_run(data["state"], data.get("seconds", 0.0))
    elif event["kind"] == "run.started" and event["subject"] in CANCELLED_BY_HAND:
        timer = threading.Timer(MIDWAY, _cancel, [gateway, data["run"]])
        timer.daemon = True
        timer.start()


CANCELLED_BY_HAND = {job.name for job in JOBS if job.ending == "cancelled"}


def _cancel(gateway: Gateway, run: str) -> None:
    with contextlib.suppress(OSError, ValueError, httpx2.HTTPError), gateway.client() as client:
        client.post(f"/runs/{run}/cancel")


def naive_day(peers: Peers, runs: int) -> Day:
    """The naive host on the same list, killed twice."""
    with day_of("naive") as (day, folder):
        servers, every_run = day_servers(peers, folder, day.cookie), list(runs_in_order(runs))
        with day.sampled():
            for mark in (runs // 3, 2 * runs // 3):
                with _naive_host(peers, day, folder, servers, every_run[day.runs :]) as host:
                    wait_for_runs(day, mark, host.refresh)
                    host.process.kill()
                    host.process.wait()
                    host.refresh()
                    day.note_left_after_kill()
            with _naive_host(peers, day, folder, servers, every_run[day.runs :]) as host:
                wait_for_runs(day, runs, host.refresh)
                host.process.kill()
                host.process.wait()
                wait_until(lambda: not day.leaf.pids(), SETTLE_SECONDS)
                day.left_at_end = len(day.leaf.pids() | cookie_pids(day.cookie))
    return day


@dataclass(slots=True)
class NaiveHost:
    """The naive program and how far its output has been read."""

    process: "subprocess.Popen[bytes]"
    output: Path
    day: Day
    read: int = 0

    def refresh(self) -> None:
        """Take note of the runs that have ended since."""
        lines = [line for line in self.output.read_text().split("\n")[:-1] if line != "all done"]
        for line in lines[self.read :]:
            _, seconds, how = line.split()
            self.day.note_run(how, float(seconds))
        self.read = len(lines)


@contextlib.contextmanager
def _naive_host(
    peers: Peers, day: Day, folder: Path, servers: dict[str, Any], runs: list[dict[str, Any]]
) -> Iterator[NaiveHost]:
    name = uuid.uuid4().hex[:8]
    plan = {"servers": servers, "runs": runs, "at_once": AT_ONCE, "midway": MIDWAY}
    (folder / f"{name}.json").write_text(json.dumps(plan))
    argv = [str(peers.python), str(ROOT / "benchmarks/hosts/naive_day.py"), str(folder / f"{name}.json")]
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        process = subprocess.Popen(day.leaf.entering(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        yield NaiveHost(process, folder / f"{name}.out", day)
    finally:
        process.kill()
        process.wait()


def wait_for_runs(day: Day, count: int, refresh: Callable[[], None] = lambda: None) -> None:
    """Until so many runs have ended.

    Raises TimeoutError if none ends for STALLED_SECONDS.
    """
    say(f"  {day.name}: {day.runs} of {count} runs …")
    seen, since = -1, time.monotonic()
    while day.runs < count:
        refresh()
        if day.runs != seen:
            seen, since = day.runs, time.monotonic()
        if time.monotonic() - since > STALLED_SECONDS:
            raise TimeoutError(f"{day.name}: {day.runs} runs have ended, and none for {STALLED_SECONDS:.0f} s")
        time.sleep(0.05)


def report(days: list[Day], harm: list[str]) -> None:
    """The table, the CSV and the plot."""
    rows = [(label, *(figure(day) for day in days)) for label, figure in FIGURES.items()]
    say(markdown_table(("", *(day.name for day in days)), rows))
    if len(days) == 2:
        sexton, naive = days
        say(
            f"\nper run, naive to sexton: cpu {times(_per_run(naive), _per_run(sexton))}, "
            f"median duration {times(quantile(naive.durations, 0.5), quantile(sexton.durations, 0.5))}"
        )
    say(f"signals to bystanders: {harm or 'none'}")
    samples = [sample for day in days for sample in day.samples]
    write_csv("cron_day", SAMPLE_FIELDS, [[getattr(sample, name) for name in SAMPLE_FIELDS] for sample in samples])
    panels = {"servers alive": "trees", "memory of the servers, MiB (PSS)": "server_mib"}
    write_plot(
        RESULTS / "cron_day.svg",
        {
            title: {day.name: [(100 * s.runs / day.runs, getattr(s, name)) for s in day.samples] for day in days}
            for title, name in panels.items()
        },
        x_label="% of the runs",
    )


def _per_run(day: Day) -> float:
    return day.cpu_seconds / day.runs


def _memory_in_tenths(day: Day) -> str:
    """The median of the servers' memory in the second and in the last tenth of the day: is it flat?"""
    tenth = max(1, len(day.samples) // 10)
    early = quantile([sample.server_mib for sample in day.samples[tenth : 2 * tenth]], 0.5)
    late = quantile([sample.server_mib for sample in day.samples[-2 * tenth : -tenth]], 0.5)
    return f"{early:.0f} → {late:.0f}"


FIGURES: dict[str, Callable[[Day], object]] = {
    "runs": lambda day: day.runs,
    "how they ended": lambda day: ", ".join(f"{count} {how}" for how, count in day.ended.most_common()),
    "minutes": lambda day: f"{day.seconds / 60:.1f}",
    "median run, s": lambda day: f"{quantile(day.durations, 0.5):.3f}",
    "p99 run, s": lambda day: f"{quantile(day.durations, 0.99):.3f}",
    "cpu per run, s": lambda day: f"{_per_run(day):.3f}",
    "most server trees at once": lambda day: max(sample.trees for sample in day.samples),
    "most processes at once": lambda day: max(sample.processes for sample in day.samples),
    "most memory of servers, MiB": lambda day: f"{max(sample.server_mib for sample in day.samples):.0f}",
    "their memory, second and last but one tenth of the day, MiB": _memory_in_tenths,
    "alive 2 s after each kill -9": lambda day: ", ".join(map(str, day.left_after_kill)),
    "seconds until all were gone": lambda day: ", ".join(f"{seconds:.2f}" for seconds in day.seconds_after_kill),
    "alive at the end": lambda day: day.left_at_end,
}


def main() -> None:
    """Measure both days; exit 1 if Sexton left anybody or a bystander was touched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1500, help="of Sexton's day; 0 leaves it out")
    parser.add_argument("--naive-runs", type=int, help="of the naive day, if not the same number; 0 leaves it out")
    options = parser.parse_args()
    naive_runs = options.runs if options.naive_runs is None else options.naive_runs
    peers = ensure_peers()
    say(f"on {describe_machine()}")
    with Bystanders.watching() as bystanders:
        days = [sexton_day(peers, options.runs)] if options.runs else []
        days += [naive_day(peers, naive_runs)] if naive_runs else []
        harm = bystanders.harm()
    report(days, harm)
    left = [day.left_at_end + sum(day.left_after_kill) for day in days if day.name == "sexton"]
    sys.exit(1 if harm or any(left) else 0)


if __name__ == "__main__":
    main()
