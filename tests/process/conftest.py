"""What every test on real processes may rely on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from process.programs import MARK, Program
from sexton.containment import Boundary, Containment, cgroup_boundary
from sexton.containment.cgroup_boundary import Leaf
from waiting import PATIENCE
from zoo.oracles import all_pids, describe, open_files, unified_mount, wait_until

needs_cgroup = pytest.mark.skipif(unified_mount() is None, reason="no cgroup v2 here")
BOUNDARIES = [
    pytest.param(Boundary.SUBREAPER, id="subreaper"),
    pytest.param(Boundary.CGROUP, id="cgroup", marks=needs_cgroup),
]
"""For tests that say themselves which boundary they mean; the others take the fixture `boundary`."""


def boundaries_here() -> list[Boundary]:
    """Strongest first."""
    folder = cgroup_boundary.delegated_folder()
    has_cgroup = folder is not None and os.access(folder, os.W_OK)
    return [Boundary.CGROUP, Boundary.SUBREAPER] if has_cgroup else [Boundary.SUBREAPER]


@pytest.fixture(params=boundaries_here(), ids=str)
def boundary(request: pytest.FixtureRequest) -> Boundary:
    """Each boundary that this host can have."""
    found: Boundary = request.param
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A cgroup for a test to make leaves in; it has to be empty at the end."""
    delegated = cgroup_boundary.delegated_folder()
    if delegated is None or not os.access(delegated, os.W_OK):
        pytest.skip("no cgroup v2 is delegated to us here")
    made = Path(delegated, f"test-{os.getpid()}")
    made.mkdir()
    yield made
    assert Leaf(str(made)).remove()


@pytest.fixture
def none_left(tmp_path: Path) -> Iterator[None]:
    """Fails a test that leaves a program or one of our helpers behind."""
    yield
    try:
        wait_until(lambda: not left_of(tmp_path), within=PATIENCE)
    except TimeoutError:
        pytest.fail(f"left behind: {[describe(pid) for pid in left_of(tmp_path)]}")


@pytest.fixture
async def containment(
    tmp_path: Path, boundary: Boundary, anyio_backend: object, none_left: None
) -> AsyncIterator[Containment]:
    async with Containment.open(tmp_path / "state", boundary=boundary) as opened:
        yield opened


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def left_of(folder: Path) -> list[int]:
    """The programs that carry that folder's mark, and the helpers that write their tracebacks into it."""
    mark = f"{MARK}={folder}".encode()
    return [pid for pid in all_pids() if mark in _environment(pid) or _writes_into(pid, folder)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _writes_into(pid: int, folder: Path) -> bool:
    return pid != os.getpid() and any(name.startswith(str(folder)) for name in open_files(pid))
