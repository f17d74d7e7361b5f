"""Waiting for what a process does, always bounded; and a port for it to listen on."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float, *, every: float = 0.02) -> T:
    """Poll until `condition` is true or `seconds` have passed; gives its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(every)
    return value


def free_port() -> int:
    """A loopback port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
