"""`sexton up` as a benchmark runs it: in a leaf, on a configuration of the benchmark's own, followed over its API."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.peers import ROOT
from benchmarks.truth import Leaf
from benchmarks.waiting import wait_until

READY_SECONDS = 60.0
EXIT_SECONDS = 60.0


@dataclass(slots=True)
class Gateway:
    """One `sexton up` at a time on one configuration and one data folder; it may be killed and started again."""

    leaf: Leaf
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    @property
    def data(self) -> Path:
        """Where the gateway keeps its state."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises TimeoutError, with the end of its output, if it does not within READY_SECONDS.
        """
        self.starts += 1
        output = self.folder / f"gateway-{self.starts}.log"
        argv = [sys.executable, "-m", "sexton", "up", "--config", str(self.folder / "sexton.toml")]
        with output.open("wb") as log:
            self.process = subprocess.Popen(
                self.leaf.entering([*argv, "--data", str(self.data)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        if not wait_until(self._answers, READY_SECONDS, every=0.05):
            raise TimeoutError(f"sexton up does not answer: {output.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EXIT_SECONDS)

    @contextlib.contextmanager
    def client(self, *, timeout: float | None = 30.0) -> Iterator[httpx2.Client]:
        """An HTTP client of the running gateway, whose paths begin after /api/v1."""
        with httpx2.Client(**self.address(), timeout=timeout) as client:
            yield client

    def address(self) -> dict[str, Any]:
        """What an httpx2 client needs to reach it."""
        url = json.loads((self.data / "gateway.json").read_text())["url"]
        token = (self.data / "token").read_text().strip()
        return {"base_url": f"{url}/api/v1", "headers": {"authorization": f"Bearer {token}"}}

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise TimeoutError("sexton up ended: " + self.last_words())
        try:
            address = json.loads((self.data / "gateway.json").read_text())
            if address["pid"] != self.process.pid:
                return False
            with self.client(timeout=2.0) as client:
                return client.get("/status").status_code == 200
        except (OSError, ValueError, httpx2.HTTPError):
            return False

    def last_words(self) -> str:
        """The end of the latest output."""
        return (self.folder / f"gateway-{self.starts}.log").read_text(errors="replace")[-2000:]


@dataclass(slots=True)
class Follower:
    """Reads the gateway's events in a thread of its own, across restarts of the gateway, and loses none."""

    gateway: Gateway
    on_event: Callable[[dict[str, Any]], None]
    last: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def following(self) -> Iterator["Follower"]:
        """Follow until left."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(10)

    def _follow(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, ValueError, httpx2.HTTPError):
                self._read_stream()
            self._ended.wait(0.1)

    def _read_stream(self) -> None:
        with (
            self.gateway.client(timeout=5.0) as client,
            client.stream("GET", "/events", params={"after": self.last, "kind": "run."}) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    self.last = event["id"]
                    self.on_event(event)
                if self._ended.is_set():
                    return


def toml_servers(servers: dict[str, dict[str, Any]]) -> str:
    """`[servers.NAME]` tables; a JSON string, number, list or flat table is TOML as well, but for `:`."""
    return "\n".join(f"[servers.{name}]\n{_toml_lines(table)}" for name, table in servers.items())


def toml_jobs(jobs: dict[str, dict[str, Any]]) -> str:
    """`[jobs.NAME]` tables."""
    return "\n".join(f"[jobs.{name}]\n{_toml_lines(table)}" for name, table in jobs.items())


def _toml_lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in table.items())


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)
