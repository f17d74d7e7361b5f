"""A real PostgreSQL server, Debian's, for tests: in a folder of its own, as a user without rights, on loopback only."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from sexton.database import PostgresUrl
from system.gateway_process import wait_for

PASSWORD = "hunter2-hunter2"


def _programs() -> Path:
    """Debian keeps a folder per version; without one, what is in the PATH."""
    if folders := sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)):
        return folders[-1]
    found = shutil.which("initdb")
    assert found, "no PostgreSQL server is installed: make debian"
    return Path(found).parent


def _as_server_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]


class PostgresServer:
    """One cluster.  `durable=False` trades what only a crash of the machine can tell for speed.

    `lasting=True` is for more than a few minutes: it cleans its tables up.
    """

    def __init__(
        self, folder: Path, *, durable: bool = False, lasting: bool = False, address: str = "127.0.0.1"
    ) -> None:
        self.folder = folder
        self.address = address
        self.port = _free_port()
        self._durable = durable
        self._lasting = lasting
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._make()

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=admin", "--encoding=UTF8", "--locale=C.UTF-8")
        (self.folder / "data" / "pg_hba.conf").write_text(
            "local all all trust\nhost all admin 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            f"host all all {self.address}/24 scram-sha-256\n"
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_server_user(), str(_programs() / program), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Comes back when it takes connections.  It ends with the thread that calls this (PR_SET_PDEATHSIG)."""
        options = {
            "port": str(self.port),
            "listen_addresses": ",".join(sorted({"127.0.0.1", self.address})),
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            "autovacuum": "on" if self._lasting else "off",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "jit": "off",
            "logging_collector": "off",
        }
        as_user = [*_as_server_user()[:-1], "--pdeathsig", "QUIT", "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(_programs() / "postgres"), "-D", str(self.folder / "data")]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, within=60, what="PostgreSQL takes connections")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.admin("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as a crash but for the machine; SIGINT: ends every session first."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(300)
            self._process = None

    def admin(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="admin", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, *, template: str = "template1") -> str:
        """The name of a database that belongs to the user `sexton`."""
        self._made += 1
        name = f"test_{self._made}_{secrets.token_hex(3)}"
        self.admin(f"CREATE DATABASE {name} OWNER sexton TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        self.admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def make_user(self) -> None:
        self.admin(f"CREATE ROLE sexton LOGIN PASSWORD '{PASSWORD}'")

    def url(self, name: str, *, parameters: str = "", port: int | None = None) -> PostgresUrl:
        return PostgresUrl(f"postgresql://sexton:{PASSWORD}@{self.address}:{port or self.port}/{name}{parameters}")


@contextmanager
def postgres_server(
    folder: Path, *, durable: bool = False, lasting: bool = False, address: str = "127.0.0.1"
) -> Iterator[PostgresServer]:
    """`address` is where it listens besides 127.0.0.1; who is in that /24 network may come."""
    server = PostgresServer(folder, durable=durable, lasting=lasting, address=address)
    server.start()
    try:
        server.make_user()
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
