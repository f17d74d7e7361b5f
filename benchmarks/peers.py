"""The peers and the real servers that Sexton is measured with, each in its own git-ignored environment in `.peers/`.

`python -m benchmarks.peers` installs them; every benchmark does so by itself when they are missing or their pins have
changed.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import say

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".peers"
INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Where the installed programs are."""

    python: Path
    """An interpreter with the MCP SDK, fastmcp, APScheduler and the Python servers."""
    mcp_proxy: Path
    mcpo: Path
    npm: Path
    """The folder whose node_modules holds the npm servers."""

    def program(self, name: str) -> str:
        """The path of a program that came with the Python packages, e.g. `mcp-server-time`."""
        return str(self.python.parent / name)


def ensure_peers() -> Peers:
    """Install what is missing (minutes, once) and say where it is.

    Raises subprocess.CalledProcessError if a package cannot be installed.
    """
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(FOLDER / "python", ROOT / "requirements/bench-peers.txt", _install_python)
        _install(FOLDER / "mcp-proxy", ROOT / "requirements/bench-mcp-proxy.txt", _install_python)
        _install(FOLDER / "mcpo", ROOT / "requirements/bench-mcpo.txt", _install_python)
        _install(FOLDER / "npm", ROOT / "benchmarks/npm/package-lock.json", _install_npm)
    return Peers(
        python=FOLDER / "python/bin/python",
        mcp_proxy=FOLDER / "mcp-proxy/bin/mcp-proxy",
        mcpo=FOLDER / "mcpo/bin/mcpo",
        npm=FOLDER / "npm",
    )


def ensure_dbos() -> Path:
    """An interpreter with DBOS, which only `benchmarks.engines` needs."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(FOLDER / "dbos", ROOT / "requirements/bench-dbos.txt", _install_python)
    return FOLDER / "dbos/bin/python"


def _install(folder: Path, pins: Path, install: Callable[[Path, Path], None]) -> None:
    stamp, wanted = folder / ".pins", hashlib.sha256(pins.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing {pins.name} into .peers/{folder.name} …")
    install(folder, pins)
    stamp.write_text(wanted)


def _install_python(folder: Path, pins: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    _run(
        [
            str(folder / "bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(pins),
        ]
    )


def _install_npm(folder: Path, pins: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_bytes((pins.parent / name).read_bytes())
    _run(["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, timeout=INSTALL_SECONDS, stdin=subprocess.DEVNULL, env={**os.environ})


if __name__ == "__main__":
    ensure_peers()
    sys.exit(0)
