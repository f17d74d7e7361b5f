"""A gateway in a thread of its own, and the command line in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.from_thread

from gateway_bench import GatewayBench, gateway_bench
from scheduling import Work
from sexton.gateway.http import serve_http
from waiting import PATIENCE


@dataclass
class Served:
    """A gateway that serves; `bench` may be read, and changed only through `portal`."""

    url: str
    folder: Path
    bench: GatewayBench
    portal: anyio.from_thread.BlockingPortal


@dataclass
class _Thread:
    folder: Path
    work: Work | None
    is_up: threading.Event = field(default_factory=threading.Event)
    served: Served | None = None
    stop: Callable[[], None] = lambda: None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 told to the thread of the test
            self.error = error
        finally:
            self.is_up.set()

    async def _serve(self) -> None:
        async with (
            anyio.from_thread.BlockingPortal() as portal,
            gateway_bench(self.folder, work=self.work) as bench,
            serve_http(bench.gateway, data_dir=self.folder, patience=0.2) as url,
        ):
            ended = anyio.Event()
            self.stop = lambda: portal.call(ended.set)
            self.served = Served(url, self.folder, bench, portal)
            self.is_up.set()
            await ended.wait()


@contextlib.contextmanager
def serving(folder: Path, *, work: Work | None = None) -> Iterator[Served]:
    thread = _Thread(folder, work)
    runner = threading.Thread(target=thread.run)
    runner.start()
    assert thread.is_up.wait(PATIENCE)
    try:
        assert thread.served is not None, thread.error
        yield thread.served
    finally:
        thread.stop()
        runner.join(PATIENCE)
        assert not runner.is_alive()
    assert thread.error is None, thread.error
