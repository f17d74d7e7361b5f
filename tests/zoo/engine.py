"""A running fake container engine, for tests: its daemon, and a `docker` and a `podman` on a PATH of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from sexton.containment import ProcessSpec, StopTimes
from waiting import PATIENCE
from zoo.oracles import wait_until

FAKE = Path(__file__).with_name("fake_docker.py")


class FakeEngine:
    """The daemon and its containers live as long as this is open."""

    def __init__(self, folder: Path, *, slow_create: float = 0.0) -> None:
        self.socket = str(folder / "engine.sock")
        self.requests = folder / "engine.log"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "inner").mkdir()
        for client in ("docker", "podman"):
            script = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{self.bin / "inner" / client}" "$@"\n'
            (self.bin / "inner" / client).symlink_to(FAKE)
            (self.bin / client).write_text(script)
            (self.bin / client).chmod(0o755)
        self.env = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        command = [sys.executable, "-I", "-S", str(FAKE), self.socket, str(self.requests), str(slow_create)]
        self._daemon = subprocess.Popen(command, start_new_session=True)
        wait_until(Path(self.socket).exists, within=PATIENCE)

    def argv(self, *words: str, client: str = "docker") -> tuple[str, ...]:
        """A command of docker, or of podman, that asks this daemon."""
        return (client, "-H" if client == "docker" else "--url", self.socket, *words)

    def spec(self, *words: str, stop: StopTimes, client: str = "docker") -> ProcessSpec:
        """A tree whose leader is that command."""
        return ProcessSpec(name=client, argv=self.argv(*words, client=client), env=self.env, stop=stop)

    def go_away(self) -> None:
        """No client can reach the daemon any more; its containers run on."""
        Path(self.socket).rename(self.socket + ".away")

    def come_back(self) -> None:
        Path(self.socket + ".away").rename(self.socket)

    def asked(self, what: str) -> list[list[object]]:
        """The requests of that kind so far."""
        lines = self.requests.read_text().splitlines() if self.requests.exists() else []
        return [request for request in map(json.loads, lines) if request[0] == what]

    def containers(self) -> list[str]:
        """Every container that the engine knows, whoever it belongs to."""
        done = subprocess.run(
            [*self.argv("ps", "--all", "--quiet", "--no-trunc", "--filter", "label=")],
            env=self.env, capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        return done.stdout.split()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for container in self.containers():
            subprocess.run(self.argv("rm", "--force", container), env=self.env, check=True, capture_output=True)
        self._daemon.kill()
        self._daemon.wait(PATIENCE)
