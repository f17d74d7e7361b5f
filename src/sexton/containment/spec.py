"""What is asked of one contained process tree: frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sexton.containment.stop_ladder import StopTimes

__all__ = ["DEFAULT_INHERITED_ENV", "Limits", "ProcessSpec", "StopTimes"]

DEFAULT_INHERITED_ENV = (
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What a program gets of our own environment unless its spec says otherwise: nothing that tends to be a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for one tree; None means no bound.  `cpu` is in cores.

    The first three are enforced where their cgroup controllers are delegated to us; `doctor` says whether they are.
    `open_files` is a limit of each process.
    """

    memory_bytes: int | None = None
    processes: int | None = None
    cpu: float | None = None
    open_files: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One program, whom it is for, and how it ends.

    `name` says what it is (a server's or a job's name), `owner` who holds it ("server:time", "run:ID").  The program
    is looked for on the PATH of its own environment: `inherit_env` names what it gets of ours, `env` what it gets
    besides.  `stderr` is the path of its log, or a descriptor that it gets as it is, or None: then only its last words
    are kept.  `ttl` is in seconds; when it is over the tree is ended, whoever holds it.
    """

    name: str
    argv: tuple[str, ...]
    owner: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    inherit_env: tuple[str, ...] = DEFAULT_INHERITED_ENV
    cwd: Path | None = None
    stderr: Path | int | None = None
    stop: StopTimes = field(default_factory=StopTimes)
    ttl: float | None = None
    limits: Limits = field(default_factory=Limits)
    no_new_privs: bool = True
