"""Figures for Prometheus: counted as things happen, or looked up when they are asked for.

What happened is read from the journal, so that the parts need not know that somebody counts.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, final

import anyio
import anyio.abc
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

import sexton
from sexton.journal import Event, Journal

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


@final
class Metrics:
    """What was counted since the gateway began."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._runs = Counter("sexton_runs", "Runs that ended, by how.", ["job", "state"], registry=registry)
        self._run_seconds = Histogram(
            "sexton_run_seconds", "How long runs took.", ["job"], buckets=_LONG, registry=registry
        )
        self._calls = Counter(
            "sexton_tool_calls", "Tool calls of runs and of the API.", ["server", "state"], registry=registry
        )
        self._call_seconds = Histogram(
            "sexton_tool_call_seconds", "How long they took.", ["server"], buckets=_SHORT, registry=registry
        )
        self._requests = Counter("sexton_http_requests", "Requests to the API.", ["route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "sexton_http_request_seconds", "How long they took.", ["route"], buckets=_SHORT, registry=registry
        )
        self._starts = Counter("sexton_server_starts", "Processes that were started.", ["server"], registry=registry)
        self._start_seconds = Histogram(
            "sexton_server_start_seconds", "Until they could be used.", ["server"], buckets=_SHORT, registry=registry
        )
        self._ends = Counter("sexton_server_ends", "Processes of servers that are gone.", ["server"], registry=registry)
        self._failures = Counter(
            "sexton_server_failures", "Failed starts and lost connections.", ["server"], registry=registry
        )
        self._reaped = Counter("sexton_reaped_trees", "Process trees that nobody held any more.", registry=registry)
        self._deliveries = Counter("sexton_deliveries", "Deliveries that ended, by how.", ["state"], registry=registry)
        self._tellers: dict[str, Callable[[Event], None]] = {
            "run.ended": self._run_ended,
            "run.skipped": self._slots_passed,
            "run.missed": self._slots_passed,
            "server.started": self._server_started,
            "server.gone": lambda event: self._ends.labels(event.subject).inc(),
            "server.start_failed": lambda event: self._failures.labels(event.subject).inc(),
            "server.died": lambda event: self._failures.labels(event.subject).inc(),
            "containment.swept": lambda event: self._reaped.inc(_number(event.data.get("count"), 1)),
            "containment.recovered": lambda event: self._reaped.inc(_length(event.data.get("trees"))),
            "delivery.sent": lambda _: self._deliveries.labels("sent").inc(),
            "delivery.failed": lambda _: self._deliveries.labels("failed").inc(),
            "delivery.cancelled": lambda _: self._deliveries.labels("cancelled").inc(),
        }

    async def follow(
        self, journal: Journal, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Count what the journal tells, from now on, until cancelled."""
        after = journal.last_id
        task_status.started()
        async for event in journal.subscribe(after):
            self.count(event)

    def count(self, event: Event) -> None:
        if teller := self._tellers.get(event.kind):
            teller(event)

    def observe_call(self, server: str, state: str, seconds: float) -> None:
        """A tool call that ended: `ok`, `error` (the tool says so), `failed`, `denied` or `cancelled`."""
        self._calls.labels(server, state).inc()
        self._call_seconds.labels(server).observe(seconds)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """A request to the API; `route` is the name of what answered."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def _run_ended(self, event: Event) -> None:
        self._runs.labels(event.subject, str(event.data.get("state"))).inc()
        if "seconds" in event.data:
            self._run_seconds.labels(event.subject).observe(_number(event.data["seconds"], 0))

    def _slots_passed(self, event: Event) -> None:
        self._runs.labels(event.subject, str(event.data.get("state"))).inc(_number(event.data.get("count"), 1))

    def _server_started(self, event: Event) -> None:
        self._starts.labels(event.subject).inc()
        self._start_seconds.labels(event.subject).observe(_number(event.data.get("seconds"), 0))


@final
class Snapshot:
    """What holds at this moment, as a collector."""

    def __init__(self, *, servers: Any, trees: Any, jobs: Any, now: datetime, started_at: datetime) -> None:
        self._servers, self._trees, self._jobs = servers, trees, jobs
        self._uptime = (now - started_at).total_seconds()

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("sexton_info", "Always 1.", labels=["version"])
        info.add_metric([sexton.__version__], 1)
        yield info
        yield GaugeMetricFamily("sexton_uptime_seconds", "How long the gateway has been up.", value=self._uptime)
        yield from self._of_servers()
        yield from self._of_trees()
        yield from self._of_jobs()

    def _of_servers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "sexton_server_state", "1 for the state that a server is in.", labels=["server", "state"]
        )
        figures = {
            "holders": "Who uses the server.",
            "waiting": "Who waits for a process of it.",
            "processes": "Its processes, helpers included.",
            "memory_bytes": "What they use.",
        }
        families = {
            key: GaugeMetricFamily(f"sexton_server_{key}", what, labels=["server"]) for key, what in figures.items()
        }
        for server in self._servers:
            up.add_metric([server.name, str(server.state)], 1)
            values = (len(server.holders), len(server.waiting), len(server.pids), server.memory or 0)
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric([server.name], value)
        yield up
        yield from families.values()

    def _of_trees(self) -> Iterator[Metric]:
        states = Tally(str(tree.state) for tree in self._trees)
        trees = GaugeMetricFamily("sexton_trees", "Process trees, by state.", labels=["state"])
        for state, count in sorted(states.items()):
            trees.add_metric([state], count)
        yield trees
        pids = sum(len(tree.pids) for tree in self._trees)
        memory = sum(tree.memory_bytes or 0 for tree in self._trees)
        yield GaugeMetricFamily("sexton_tree_processes", "The processes in them.", value=pids)
        yield GaugeMetricFamily("sexton_tree_memory_bytes", "What they use.", value=memory)

    def _of_jobs(self) -> Iterator[Metric]:
        active = Tally(str(run.state) for status in self._jobs for run in status.active)
        yield GaugeMetricFamily("sexton_runs_waiting", "Runs that wait to start.", value=active["queued"])
        yield GaugeMetricFamily("sexton_runs_running", "Runs under way.", value=active["running"])
        yield GaugeMetricFamily("sexton_jobs", "Jobs.", value=len(self._jobs))
        paused = sum(status.job.paused for status in self._jobs)
        yield GaugeMetricFamily("sexton_jobs_paused", "Jobs that are paused.", value=paused)
        due = GaugeMetricFamily("sexton_job_next_start_seconds", "When it starts next (Unix time).", labels=["job"])
        for status in self._jobs:
            if status.next_at is not None:
                due.add_metric([status.job.name], status.next_at.astimezone(UTC).timestamp())
        yield due


def exposition(metrics: Metrics, snapshot: Snapshot) -> bytes:
    """All of it, in the text format of Prometheus."""
    now = CollectorRegistry()
    now.register(snapshot)
    return generate_latest(metrics.registry) + generate_latest(now)


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | tuple) else 0
