"""Telling the service manager how we are: sd_notify(3) over its datagram socket.

Without `NOTIFY_SOCKET` in the environment nothing is sent and nothing fails,
so that the same code runs in a terminal.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import final


@final
class ServiceNotifier:
    """Where to send, and how often the watchdog wants to hear from us.

    `watchdog_interval` is in seconds, half of what the manager allows (as
    sd_watchdog_enabled(3) advises), or None if it does not ask.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_interval = _watchdog_interval(environment)

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        # systemd ≥ 253 with Type=notify-reload matches the two by this time stamp.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)  # noqa: FBT003 (no keyword there)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            # A manager that does not listen (any more) must not stop the gateway; a missed
            # WATCHDOG=1 is the manager's to act on.
            return


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 2_000_000
