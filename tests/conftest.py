"""What every test may rely on."""

from __future__ import annotations

import fcntl
import signal
import subprocess
from pathlib import Path

import pytest

from properties import register_profiles

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
