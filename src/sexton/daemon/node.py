"""This gateway as one of several on a database on PostgreSQL: its engine, its place, and its last resort.

On SQLite there is one gateway per database and machine, and none of this is loaded.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Protocol, cast

from sqlalchemy import Connection

from sexton.clock import Clock
from sexton.database import Location, PostgresUrl
from sexton.errors import UsageError
from sexton.gateway import write_private
from sexton.scheduler import GIVE_UP_AFTER, ONE_MACHINE, SEVERAL_MACHINES, Engine, Hold, LeaseTimes, Offer

LOG = logging.getLogger(__name__)
_MACHINE_ID = Path("/etc/machine-id")
STOPPED_FOR = 5.0
"""Seconds between two looks of a thread that looks every second: it did not run, and so the event loop did not."""
GAVE_UP = 70
"""EX_SOFTWARE of sysexits(3): a service manager starts the gateway again."""


class SharedEngine(Engine, Protocol):
    def prepare(self, connection: Connection) -> None:
        """Once, before `work`, in a transaction that writes."""
        ...


def engine_for(location: Location | None, *, capacity: int, offer: Offer, clock: Clock) -> SharedEngine | None:
    """What distributes runs between the nodes; None: nothing has to, there is one.  Raises UsageError."""
    if not isinstance(location, PostgresUrl):
        return None
    try:
        # Only now: who keeps its data in SQLite has neither Procrastinate nor its driver.
        module = importlib.import_module("sexton.scheduler.procrastinate_engine")
    except ImportError as error:
        raise UsageError(
            "Runs on several nodes need Procrastinate, which cannot be loaded.",
            hint=f"install it: pip install 'sexton[postgres]' ({error})",
        ) from error
    engine = module.ProcrastinateEngine(location.text, capacity=capacity, offer=offer, clock=clock)
    return cast("SharedEngine", engine)


def lease_for(location: Location | None) -> LeaseTimes:
    return SEVERAL_MACHINES if isinstance(location, PostgresUrl) else ONE_MACHINE


def uptime() -> float:
    """Seconds on a clock that goes on while the machine is suspended (CLOCK_BOOTTIME of clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def place_of(data_dir: Path) -> str:
    """Names this data folder, which we hold, on this machine: whoever holds it after us knows that we are gone."""
    path = data_dir / "node-id"
    if not (own := _text_of(path)):
        own = uuid.uuid4().hex
        write_private(path, own)
    return f"{_text_of(_MACHINE_ID)}:{own}:{data_dir.resolve()}"


def _text_of(path: Path) -> str:
    """What the file says; empty if that cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@contextmanager
def last_resort(
    hold: Hold,
    *,
    now: Callable[[], float] = uptime,
    every: float = 1.0,
    give_up: Callable[[], None] | None = None,
) -> Iterator[None]:
    """A thread that ends this process when its claims are long over and its event loop has not ended the work.

    Every tree ends with the process: the kernel closes our ends of the lifelines.  After the whole process was
    stopped, the event loop has as much time as after the fence: the trees were ended by their warden meanwhile.
    """
    over = Event()
    watch = partial(_watch, hold, over, now, every, give_up or _end_process)
    thread = Thread(target=watch, name="last-resort", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(hold: Hold, over: Event, now: Callable[[], float], every: float, give_up: Callable[[], None]) -> None:
    looked, went_on_at = now(), -GIVE_UP_AFTER
    while not over.wait(every):
        has_given_up = hold.is_given_up  # looked at first, for whoever is back has renewed the hold before
        before, looked = looked, now()
        if looked - before > STOPPED_FOR and hold.left(before) >= -GIVE_UP_AFTER:  # once: it may also be starved
            went_on_at = looked
        is_due = hold.left(looked) < -GIVE_UP_AFTER and looked - went_on_at >= GIVE_UP_AFTER
        if is_due and not has_given_up:
            give_up()
            return


def _end_process() -> None:
    LOG.critical("the work of this node could not be ended after it lost its claim; the gateway ends itself")
    os._exit(GAVE_UP)
