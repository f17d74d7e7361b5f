"""The systemd unit, and the words for the service manager."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from sexton.daemon.service import install_service, service_unit
from sexton.daemon.service_notify import ServiceNotifier
from sexton.errors import SextonError, UsageError
from waiting import PATIENCE

ENVIRONMENT = {"PATH": "/opt/node 20/bin:/usr/bin", "XDG_CONFIG_HOME": "/home/ada/.config", "SUDO_USER": "ada"}


def test_a_user_unit_contains_everything_and_watches_the_event_loop() -> None:
    unit = service_unit(user=True, settings=Path("/home/ada/50% off/sexton.toml"), environment=ENVIRONMENT)
    lines = unit.text.splitlines()
    assert unit.path == Path("/home/ada/.config/systemd/user/sexton.service")
    for line in (
        "Type=notify",
        "KillMode=mixed",
        "Delegate=yes",
        "DelegateSubgroup=gateway",
        "OOMPolicy=continue",
        "WatchdogSec=30",
        "TimeoutStopSec=70",
        "WantedBy=default.target",
        'Environment="PATH=/opt/node 20/bin:/usr/bin"',
        f'ExecStart={sys.executable} -m sexton up --config "/home/ada/50%% off/sexton.toml"',
        "EnvironmentFile=-/home/ada/50%% off/sexton.env",
    ):
        assert line in lines
    assert not any(line.startswith(("User=", "OOMScoreAdjust=", "StateDirectory=")) for line in lines)
    assert "loginctl enable-linger" in "\n".join(unit.next_commands)


def test_a_system_unit_runs_as_the_person_behind_sudo_and_keeps_its_state_in_var_lib() -> None:
    unit = service_unit(user=False, settings=Path("/etc/sexton/sexton.toml"), environment=ENVIRONMENT, drain_timeout=60)
    lines = unit.text.splitlines()
    assert unit.path == Path("/etc/systemd/system/sexton.service")
    assert {
        "User=ada",
        "StateDirectory=sexton",
        "StateDirectoryMode=0700",
        "OOMScoreAdjust=-100",
        "TimeoutStopSec=110",
    } <= set(lines)
    assert any(line.endswith("--data /var/lib/sexton") for line in lines)


def test_without_systemd_nothing_is_written(tmp_path: Path) -> None:
    unit = service_unit(user=True, settings=tmp_path / "sexton.toml", environment={"XDG_CONFIG_HOME": str(tmp_path)})
    with pytest.raises(UsageError, match="not run by systemd"):
        install_service(unit, booted=tmp_path / "missing")
    assert not unit.path.exists()


def test_installing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    unit = service_unit(user=True, settings=tmp_path / "sexton.toml", environment={"XDG_CONFIG_HOME": str(tmp_path)})
    assert install_service(unit, booted=tmp_path) is True
    assert unit.path.read_text() == unit.text
    assert install_service(unit, booted=tmp_path) is False


def test_a_unit_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "systemd").write_text("in the way")
    unit = service_unit(user=True, settings=tmp_path / "sexton.toml", environment={"XDG_CONFIG_HOME": str(tmp_path)})
    with pytest.raises(SextonError, match="cannot be written"):
        install_service(unit, booted=tmp_path)


def test_the_service_manager_is_told_how_we_are(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        notifier = ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        notifier.ready("serving")
        notifier.reloading()
        notifier.alive()
        notifier.stopping("draining")
        received = [manager.recv(4096).decode() for _ in range(4)]
    assert received[0] == "READY=1\nSTATUS=serving"
    assert received[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert received[2:] == ["WATCHDOG=1", "STOPPING=1\nSTATUS=draining"]
    assert notifier.watchdog_interval == 15


def test_without_a_service_manager_nothing_is_sent() -> None:
    notifier = ServiceNotifier({})
    notifier.ready("serving")
    assert notifier.watchdog_interval is None
    assert ServiceNotifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_interval is None


def test_a_manager_that_went_away_does_not_stop_us(tmp_path: Path) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()
