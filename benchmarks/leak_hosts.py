"""How each host of `benchmarks.leaks` is started on one server, and who plays its client."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gateway import Gateway, toml_servers
from benchmarks.peers import ROOT, Peers
from benchmarks.truth import COOKIE, Leaf
from benchmarks.waiting import free_port, wait_until

SESSION = str(ROOT / "benchmarks/hosts/session.py")
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server of the table, and the two calls that a session makes to it."""

    letter: str
    what: str
    command: str
    args: tuple[str, ...]
    cwd: Path
    probe: tuple[str, dict[str, Any]] = ("echo", {"message": "hello"})
    stuck: tuple[str, dict[str, Any]] = ("hang", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one cell runs: its leaf, its folder for output, the word that marks its server."""

    leaf: Leaf
    folder: Path
    cookie: str

    @property
    def server_env(self) -> dict[str, str]:
        """What the server finds in its environment besides what its host passes on."""
        return {COOKIE: self.cookie, "BENCH_LOG": str(self.folder / "server.log"), "PATH": os.environ["PATH"]}

    def start(self, argv: list[str], *, output: str) -> "subprocess.Popen[bytes]":
        """Run `argv` inside the leaf, its output in `folder/output`."""
        with (self.folder / output).open("wb") as out, (self.folder / f"{output}.err").open("wb") as err:
            return subprocess.Popen(
                self.leaf.entering(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT
            )

    def said(self, output: str, *words: str, within: float = START_SECONDS) -> str:
        """Wait until one of `words` stands in the output and give it.

        Raises TimeoutError, with the end of what was written to stderr, if none does in `within` seconds.
        """
        found = wait_until(lambda: next((word for word in words if word in self._read(output)), ""), within)
        if not found:
            raise TimeoutError(f"none of {words} in {within} s; stderr ends: {self._read(f'{output}.err')[-800:]}")
        return found

    def server_log(self) -> str:
        """What the server wrote down."""
        return self._read("server.log")

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A host, and the process that is its client (the same one, where the client lives in the host)."""

    host: "subprocess.Popen[bytes]"
    client: "subprocess.Popen[bytes]"


class Host(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """As the table prints it."""

    @property
    def shared(self) -> bool:
        """Whether the server belongs to the host, not to a client's session, so that it may outlive a session."""

    @property
    def has_clients(self) -> bool:
        """Whether the client is a process of its own, which can be killed alone."""

    def start(self, place: Place, server: Server, ending: str) -> Running:
        """Start the host on `server`, with a client that ends its session by `ending` (see hosts/session.py)."""


@dataclass(frozen=True, slots=True)
class LibraryHost:
    """A program that opens its own sessions with a client library."""

    name: str
    client: str
    python: Path
    shared: bool = False
    has_clients: bool = False

    def start(self, place: Place, server: Server, ending: str) -> Running:
        """The session program is host and client in one."""
        transport = {
            "command": server.command,
            "args": list(server.args),
            "env": place.server_env,
            "cwd": str(server.cwd),
        }
        host = place.start(session_command(self.python, self.client, ending, server, transport), output="client")
        return Running(host=host, client=host)


@dataclass(frozen=True, slots=True)
class ProxyHost:
    """mcp-proxy: one server behind an HTTP port; its client is a program on the SDK."""

    name: str
    peers: Peers
    shared: bool = True
    has_clients: bool = True

    def start(self, place: Place, server: Server, ending: str) -> Running:
        """The proxy first; when its port answers, the client."""
        port = free_port()
        environment = [word for key, value in place.server_env.items() for word in ("-e", key, value)]
        host = place.start(
            [
                *(str(self.peers.mcp_proxy), "--port", str(port), "--cwd", str(server.cwd)),
                *(*environment, "--", server.command, *server.args),
            ],
            output="host",
        )
        if not wait_until(lambda: _answers(port), START_SECONDS):
            raise TimeoutError(f"{self.name} does not listen: {place.said('host.err', '', within=1)}")
        url = {"url": f"http://127.0.0.1:{port}/mcp"}
        client = place.start(session_command(self.peers.python, "http", ending, server, url), output="client")
        return Running(host=host, client=client)


@dataclass(frozen=True, slots=True)
class GatewayHost:
    """`sexton up` with one shared server that is retired after a second without a holder; its client speaks HTTP."""

    name: str
    shared: bool = False
    has_clients: bool = True

    def start(self, place: Place, server: Server, ending: str) -> Running:
        """The gateway first; when it answers, the client."""
        table = {
            "command": server.command,
            "args": list(server.args),
            "env": place.server_env,
            "cwd": str(server.cwd),
            "idle_timeout": "1s",
        }
        settings = f'listen = "127.0.0.1:{free_port()}"\n{toml_servers({"it": table})}'
        (place.folder / "sexton.toml").write_text(settings)
        gateway = Gateway(place.leaf, place.folder)
        gateway.start()
        assert gateway.process is not None
        plan = session_command(sexton_python(), "gateway", ending, server, gateway.address())
        return Running(host=gateway.process, client=place.start(plan, output="client"))


def session_command(python: Path, client: str, ending: str, server: Server, transport: dict[str, Any]) -> list[str]:
    """The command line of `hosts/session.py`."""
    plan = {"client": client, "ending": ending, "server": transport, "probe": server.probe, "stuck": server.stuck}
    return [str(python), SESSION, json.dumps(plan)]


def sexton_python() -> Path:
    """The interpreter that has Sexton: the one we run on."""
    return Path(sys.executable)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def servers_of_the_table(peers: Peers) -> tuple[Server, ...]:
    """E F S D H of docs/benchmarks.md."""
    misbehaving = Server(
        letter="",
        what="",
        command=sys.executable,
        args=("-I", "-S", str(ROOT / "benchmarks/servers/misbehaving.py")),
        cwd=ROOT,
    )
    real = Server(
        letter="E",
        what="@modelcontextprotocol/server-everything, started by node",
        command="node",
        args=("node_modules/@modelcontextprotocol/server-everything/dist/index.js",),
        cwd=peers.npm,
        stuck=("trigger-long-running-operation", {"duration": 600, "steps": 2}),
    )
    return (
        real,
        dataclasses.replace(
            real, letter="F", what="the same by npx: npm, sh, node", command="npx", args=("mcp-server-everything",)
        ),
        *(
            dataclasses.replace(misbehaving, letter=letter, what=what, args=(*misbehaving.args, habit))
            for letter, habit, what in (
                ("S", "stubborn", "ignores SIGTERM and end of file"),
                ("D", "daemon", "leaves a daemonised helper (double fork, setsid)"),
                ("H", "helper", "leaves a helper in its own process group"),
            )
        ),
    )
