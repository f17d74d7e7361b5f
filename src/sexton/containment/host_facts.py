"""What this host offers to hold processes with, found by trying; nothing is inferred from version numbers.

Sources: pidfd_open(2), proc(5), cgroups(7), systemd.kill(5), systemd.resource-control(5), systemctl(1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sexton.containment import cgroup_boundary, external, identity
from sexton.containment.ledger import home_of

_ANSWER_WITHIN = 5.0
_UNIT_PROPERTIES = ("KillMode", "Delegate", "OOMPolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdUnit:
    """The unit that a process runs in, and what its settings mean for us."""

    name: str
    kill_mode: str
    delegate: str
    oom_policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEngine:
    """A container engine on our PATH; `unreachable` is what its client says when its daemon does not answer."""

    name: str
    unreachable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What was found.  `gateway` is the pid of the gateway that was looked at, None when none runs on that folder.

    `cgroup_folder` is the folder in which leaves would be made, None without cgroup v2.  `identity_by` says how certain
    a recorded process is: "handle", "inode" or "start time".  `hides_processes`: /proc shows only our own.
    """

    gateway: int | None
    is_root: bool
    cgroup_folder: str | None
    controllers: tuple[str, ...]
    identity_by: str
    has_children_files: bool
    hides_processes: bool
    has_pid_namespaces: bool
    gateway_is_pid_1: bool
    unit: SystemdUnit | None
    is_booted_with_systemd: bool
    has_no_new_privs: bool
    engines: tuple[ContainerEngine, ...]


def find_host_facts(gateway: int | None) -> HostFacts:
    """Look at the host as it concerns that gateway, or, without one, a gateway that would be started from here.

    Blocks for some seconds at most: it asks systemd and container engines, if there are any.
    """
    subject = gateway or os.getpid()
    folder = cgroup_boundary.delegated_folder()
    return HostFacts(
        gateway=gateway,
        is_root=os.geteuid() == 0,
        cgroup_folder=folder,
        controllers=_controllers(folder),
        identity_by=_identity_by(),
        has_children_files=Path(f"/proc/self/task/{os.getpid()}/children").exists(),
        hides_processes=_hides_processes(),
        has_pid_namespaces=Path("/proc/self/ns/pid_for_children").exists(),
        gateway_is_pid_1=subject == 1,
        unit=_unit_of(subject),
        is_booted_with_systemd=Path("/run/systemd/system").is_dir(),
        has_no_new_privs="NoNewPrivs:\t1" in Path(f"/proc/{subject}/status").read_text(),
        engines=_engines(),
    )


def _controllers(folder: str | None) -> tuple[str, ...]:
    """Those that leaves of ours would get: what the folder hands on."""
    if folder is None:
        return ()
    with suppress(OSError):
        return tuple(Path(folder, "cgroup.subtree_control").read_text().split())
    return ()


def _identity_by() -> str:
    try:
        me = identity.identify(os.getpid())
    except OSError:  # the kernel has no pidfds; the trials say so
        me = None
    if me is None or me.inode is None:
        return "start time"
    return "inode" if me.handle is None else "handle"


def _hides_processes() -> bool:
    """Whether /proc is mounted so that foreign processes are not shown (hidepid, ProtectProc=)."""
    return not Path("/proc/1/stat").exists()


def _unit_of(pid: int) -> SystemdUnit | None:
    """The service or scope in which that process runs; None when systemd runs none, or does not say."""
    name = _unit_name(home_of(pid) or "")
    if name is None or shutil.which("systemctl") is None:
        return None
    manager = ("--user",) if "/user@" in (home_of(pid) or "") else ()
    shown = _ask("systemctl", *manager, "show", "--property", ",".join(_UNIT_PROPERTIES), name)
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    if not all(values.get(name) for name in _UNIT_PROPERTIES):
        return None
    return SystemdUnit(
        name=name, kill_mode=values["KillMode"], delegate=values["Delegate"], oom_policy=values["OOMPolicy"]
    )


def _unit_name(home: str) -> str | None:
    """The innermost unit on that path in the cgroup hierarchy."""
    parts = [part for part in home.split("/") if part.endswith((".service", ".scope"))]
    return parts[-1] if parts else None


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ANSWER_WITHIN, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _engines() -> tuple[ContainerEngine, ...]:
    return tuple(_engine(name) for name in sorted(external.ENGINES) if shutil.which(name))


def _engine(name: str) -> ContainerEngine:
    environment = {variable: os.environ[variable] for variable in external.ENGINE_ENV if variable in os.environ}
    try:
        external.ask_engine((name, "ps", "--quiet"), environment, within=_ANSWER_WITHIN)
    except external.EngineFailed as failure:
        return ContainerEngine(name=name, unreachable=str(failure))
    return ContainerEngine(name=name)
