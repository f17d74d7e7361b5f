"""What the gateway asks for is what the warden gets, whatever bytes are in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from sexton.containment import order
from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import External
from sexton.containment.order import Descriptors, KeepUntil, KillKeeper, Order
from sexton.containment.stop_ladder import StopTimes
from sexton.containment.tree_state import Boundary

ORDER = Order(
    tree="t1",
    instance="i1",
    boot_id="b1",
    cookie="c1",
    name="näme",
    owner="",
    argv=("a", "b\udcff"),
    env={"X": "y\udc80"},
    cwd="/",
    stop=StopTimes(stdin_grace=1.5),
    ttl=None,
    started_at=1.0,
    memory_bytes=None,
    processes=None,
    cpu=0.5,
    open_files=3,
    no_new_privs=True,
    boundary=Boundary.CGROUP,
    leaf="/leaf",
    ledger_folder="/ledger",
    log=None,
    gateway=ProcessIdentity(pid=1, start_ticks=2, inode=3, handle="254:00"),
    externals=(External(engine=("docker",), label="a=b", cidfile="/c", environment=(("PATH", "/bin"),)),),
    is_probe=False,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    with ExitStack() as undo:
        opened = [undo.enter_context(open(os.devnull, "rb")).fileno() for _ in range(4)]  # noqa: PTH123
        yield Descriptors(lifeline=opened[0], stdin=opened[1], stdout=opened[2], tail=opened[3])


@pytest.mark.parametrize("large", [0, 5_000_000], ids=["in a packet", "in a memfd"])
def test_an_order_arrives_with_its_descriptors(
    ends: tuple[socket.socket, socket.socket], descriptors: Descriptors, large: int
) -> None:
    sent = replace(ORDER, env={**ORDER.env, "LARGE": "x" * large})
    order.send_order(ends[0], sent, descriptors)
    got = order.receive(ends[1])
    assert isinstance(got, tuple)
    assert got[0] == sent
    assert got[1].stderr is None
    for descriptor in got[1].all():
        os.close(descriptor)


def test_the_end_and_the_silence_of_the_gateway_differ(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        order.receive(ends[1])
    ends[0].close()
    assert order.receive(ends[1]) is None


def test_a_keeper_can_be_asked_to_be_killed(ends: tuple[socket.socket, socket.socket]) -> None:
    order.send_kill_keeper(ends[0], "t7")
    assert order.receive(ends[1]) == KillKeeper("t7")


@pytest.mark.parametrize("until", [None, 0.1, 123456.789])
def test_until_when_all_may_go_on(ends: tuple[socket.socket, socket.socket], until: float | None) -> None:
    order.send_keep_until(ends[0], until)
    assert order.receive(ends[1]) == KeepUntil(until)


def test_bytes_that_are_no_text_come_through() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert order.to_bytes(order.encode_text(name)) == b"caf\xe9"
