"""A container engine of a hundred lines: what `docker` does to processes, without the containers.

    python fake_docker.py SOCKET ENGINE_LOG SECONDS_PER_CREATE          is the daemon
    docker -H SOCKET run|ps|rm ...                                      is the client (a link to this file)

A container is a process that the *daemon* starts, so it is no descendant of the client; it outlives the client unless
somebody removes it by `rm --force`.  An image named `polite` ends when the client's stdin does, and is removed with
`--rm`; any other ignores it.  Every request is written to ENGINE_LOG, one JSON list a line.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any


class Daemon:
    """Containers by id: their labels and the process of each that was started."""

    def __init__(self, log: Path, slow_create: float) -> None:
        self._log, self._slow_create = log, slow_create
        self._labels: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, path: str) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            request = json.loads(stream.readline())
            with self._log.open("a") as log:
                log.write(json.dumps(request) + "\n")
            try:
                answer = getattr(self, "do_" + request[0])(*request[1:])
                stream.write(json.dumps(answer) + "\n")
                stream.flush()
            except BrokenPipeError:
                return  # the client was killed meanwhile; what it asked for is done

    def do_create(self, labels: list[str]) -> str:
        time.sleep(self._slow_create)
        container = uuid.uuid4().hex * 2
        self._labels[container] = labels
        return container

    def do_start(self, container: str) -> str:
        self._processes[container] = subprocess.Popen(["sleep", "86400"], stdin=subprocess.DEVNULL)
        return container

    def do_ps(self, label: str) -> list[str]:
        return [container for container, labels in self._labels.items() if not label or label in labels]

    def do_rm(self, containers: list[str]) -> list[str]:
        for container in containers:
            if process := self._processes.pop(container, None):
                process.kill()
                process.wait()
            self._labels.pop(container, None)
        return containers


def ask(path: str, *request: Any) -> Any:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        sys.exit(f"Cannot connect to the Docker daemon at {path}. Is the docker daemon running?")
    with connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        return json.loads(stream.readline())


def valued(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def run(path: str, words: list[str]) -> None:
    cidfile = Path(valued(words, "--cidfile")[0])
    with cidfile.open("x") as file:  # as the docker client does: made first, filled when the container exists
        container = ask(path, "create", valued(words, "--label"))
        file.write(container)
    ask(path, "start", container)
    if "-d" in words:
        print(container)
        return
    while os.read(0, 65536):
        continue
    if "polite" in words:
        ask(path, "rm", [container])
    else:
        time.sleep(86400)


def client(words: list[str]) -> None:
    path, command, rest = words[1], words[2], words[3:]
    if command == "run":
        run(path, rest)
    elif command == "ps":
        print(*ask(path, "ps", valued(rest, "--filter")[0].removeprefix("label=")), sep="\n")
    elif command == "rm":
        ask(path, "rm", [word for word in rest if not word.startswith("-")])
    else:
        sys.exit(f"docker: '{command}' is not a docker command.")


def main() -> None:
    if Path(sys.argv[0]).name in {"docker", "podman"}:
        client(sys.argv[1:])
    else:
        Daemon(Path(sys.argv[2]), float(sys.argv[3])).serve(sys.argv[1])


if __name__ == "__main__":
    main()
