"""The systemd unit that keeps the gateway running, and that is the outermost boundary around every server.

With `Delegate=yes` and `KillMode=mixed` the unit's cgroup ends everything that
the gateway ever started, also when gateway, warden and keepers are killed at
once (systemd.kill(5), systemd.resource-control(5)).  We write the unit and
name the commands that enable it; we never run them.
"""

from __future__ import annotations

import math
import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sexton.errors import SextonError, UsageError

UNIT_NAME = "sexton.service"
_ENVIRONMENT_FILE = "sexton.env"
_LONGEST_STOP = 50
"""Seconds beyond `drain_timeout`: runs that do not end (16), writes that fail (5), calls (6), a stuck tree (20)."""
_SYSTEM_DATA = Path("/var/lib/sexton")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnit:
    """One unit: where it belongs, its text, and the commands that bring it into force."""

    path: Path
    text: str
    next_commands: tuple[str, ...]


def service_unit(
    *,
    user: bool,
    settings: Path,
    data: Path | None = None,
    drain_timeout: float = 20.0,
    environment: Mapping[str, str] | None = None,
) -> ServiceUnit:
    """The unit for `settings`; `user` chooses between a unit of this user and one of the system.

    Without `data` a system unit keeps its state in /var/lib/sexton, which
    systemd makes for it, and a user unit in the XDG state folder.
    """
    environment = os.environ if environment is None else environment
    path = _unit_folder(user=user, environment=environment) / UNIT_NAME
    account = None if user else _account(environment)
    data_option = ("--data", str(data or _SYSTEM_DATA)) if data or not user else ()
    text = _text(
        user=user,
        account=account,
        makes_state_folder=not user and data is None,
        command=(sys.executable, "-m", "sexton", "up", "--config", str(settings), *data_option),
        environment_file=settings.parent / _ENVIRONMENT_FILE,
        search_path=environment.get("PATH", os.defpath),
        stop_seconds=math.ceil(drain_timeout) + _LONGEST_STOP,
    )
    return ServiceUnit(path=path, text=text, next_commands=_next_commands(user=user))


def install_service(unit: ServiceUnit, *, booted: Path = Path("/run/systemd/system")) -> bool:
    """Write `unit` and say whether its file changed.

    Raises UsageError where systemd does not run this machine (`booted` is how
    sd_booted(3) tells), SextonError where the file cannot be written.
    """
    if not booted.is_dir():
        raise UsageError(
            "This machine is not run by systemd, so no unit was written.",
            hint="look at the unit with: sexton service install --dry-run; or start `sexton up` with the service"
            " manager that you have, so that SIGTERM stops it and a crash restarts it.",
        )
    try:
        if unit.path.is_file() and unit.path.read_text() == unit.text:
            return False
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text)
    except OSError as problem:
        raise SextonError(
            f"{unit.path} cannot be written: {problem.strerror}.",
            hint="a system unit needs root: sudo sexton service install --system; one of your own: --user.",
        ) from problem
    return True


def _unit_folder(*, user: bool, environment: Mapping[str, str]) -> Path:
    if not user:
        return Path("/etc/systemd/system")
    named = Path(environment.get("XDG_CONFIG_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".config") / "systemd" / "user"


def _account(environment: Mapping[str, str]) -> str:
    """Who a system unit runs as: the person behind sudo, so that servers do not run as root by accident."""
    return environment.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name


def _next_commands(*, user: bool) -> tuple[str, ...]:
    if user:
        return (
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {UNIT_NAME}",
            "loginctl enable-linger   # keeps it running when you are logged out",
            f"journalctl --user -u {UNIT_NAME} -f",
        )
    return ("systemctl daemon-reload", f"systemctl enable --now {UNIT_NAME}", f"journalctl -u {UNIT_NAME} -f")


def _text(
    *,
    user: bool,
    account: str | None,
    makes_state_folder: bool,
    command: tuple[str, ...],
    environment_file: Path,
    search_path: str,
    stop_seconds: int,
) -> str:
    own_lines = [f"User={account}"] if account else []
    own_lines += ["StateDirectory=sexton", "StateDirectoryMode=0700"] if makes_state_folder else []
    # A user's manager may not lower the score.
    own_lines += [] if user else ["OOMScoreAdjust=-100"]
    own_text = "".join(f"{line}\n" for line in own_lines)
    return f"""\
# Written by `sexton service install`.
[Unit]
Description=Sexton: scheduled jobs and chats on MCP servers
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(_quoted(word, command=True) for word in command)}
ExecReload=/bin/kill -HUP $MAINPID
{own_text}# Servers are looked up in the PATH of the terminal in which this was installed.
Environment={_quoted(f"PATH={search_path}")}
# Values for ${{env:NAME}}, one NAME=value a line; chmod 600.
EnvironmentFile=-{_specifiers(str(environment_file))}
Restart=on-failure
RestartSec=2
# TERM goes to the gateway alone, which drains; then KILL goes to everything, delegated leaves included.
# Never process or none: they leave servers behind.
KillMode=mixed
SendSIGKILL=yes
# Longer than drain_timeout and all that a stop may need beyond it (docs/reliability.md).
TimeoutStopSec={stop_seconds}
# The gateway says that it lives from its event loop itself.
WatchdogSec=30
# One cgroup leaf per server.
Delegate=yes
DelegateSubgroup=gateway
# A server that is killed for its memory must not take the gateway with it.
OOMPolicy=continue
# Take this out if a server needs sudo.
NoNewPrivileges=yes

[Install]
WantedBy={"default.target" if user else "multi-user.target"}
"""


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str, *, command: bool = False) -> str:
    """A word of a unit file (systemd.syntax(7)); in ExecStart a dollar sign is doubled too (systemd.service(5))."""
    word = _specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    word = word.replace("$", "$$") if command else word
    return f'"{word}"' if not command or any(character in word for character in " \t;'\"\\") else word
