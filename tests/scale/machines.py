"""Machines for a test: network namespaces (ip-netns(8)) on one bridge, each with one gateway, and cables to pull."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from system.gateway_process import GatewayProcess

QUICK_NODE = Path(__file__).with_name("quick_node.py")


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (arguments, done.stderr)


@dataclass
class Machine:
    """One node: its namespace, its cable, its gateway."""

    name: str
    namespace: str
    cable: str
    gateway: GatewayProcess

    def start(self) -> None:
        """Begin to start; see `GatewayProcess.start`."""
        self.gateway.start("nsenter", f"--net=/run/netns/{self.namespace}")

    def wait_ready(self) -> None:
        self.gateway.wait_line("^ready http")

    def up(self) -> None:
        self.start()
        self.wait_ready()

    def pull_the_cable(self) -> None:
        ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        ip("link", "set", self.cable, "up")

    def processes(self) -> list[int]:
        """Every process that is on this machine, whatever its parents: a network namespace is inherited."""
        said = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, timeout=60, check=True
        )
        return [int(pid) for pid in said.stdout.split()]


@contextmanager
def machines(folder: Path, count: int, *, network: str) -> Iterator[list[Machine]]:
    """`network` is the first three numbers of a /24; `.1` is the bridge, where the database is to listen."""
    tag = f"sx{os.getpid() % 100_000}"
    made: list[Machine] = []
    try:
        for number in range(count):
            namespace, cable = f"{tag}n{number}", f"{tag}c{number}"
            ip("netns", "add", namespace)
            own = folder / f"node-{number}"
            own.mkdir()
            gateway = GatewayProcess(own)
            gateway.program = (str(QUICK_NODE),)
            made.append(Machine(f"node-{number}", namespace, cable, gateway))
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("link", "set", cable, "master", f"{tag}b")
            ip("link", "set", cable, "up")
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "address", "add", f"{network}.{number + 2}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
        yield made
    finally:
        for machine in made:
            machine.gateway.close()
        for machine in made:
            ip("netns", "delete", machine.namespace)  # its end of the cable goes with it, and so the other


@contextmanager
def bridge(network: str) -> Iterator[None]:
    """The switch between the machines."""
    name = f"sx{os.getpid() % 100_000}b"
    ip("link", "add", name, "type", "bridge")
    try:
        ip("address", "add", f"{network}.1/24", "dev", name)
        ip("link", "set", name, "up")
        yield
    finally:
        ip("link", "delete", name)
