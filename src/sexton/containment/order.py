"""What the gateway asks the warden for, on the wire: one packet per tree, with the descriptors that belong to it.

Each packet is a JSON object; a large order is put into a memfd.  Text is UTF-8 with surrogateescape, so that any bytes
of argv and environment come through.  Standard library only.

Sources: unix(7) for SOCK_SEQPACKET and SCM_RIGHTS, memfd_create(2).
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sexton.containment.identity import ProcessIdentity
from sexton.containment.ledger import External, decode_external
from sexton.containment.stop_ladder import StopTimes
from sexton.containment.tree_state import Boundary

_LARGEST_PACKET = 64 * 1024
_MOST_DESCRIPTORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One tree, as its keeper has to know it.  For a probe all is done but the execution.

    `ledger_folder` is where its record goes, `leaf` the path of its future cgroup, `log` the path of its stderr log.
    `started_at` is in seconds since 1970, `ttl` in seconds from now on.
    """

    tree: str
    instance: str
    boot_id: str
    cookie: str
    name: str
    owner: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None
    stop: StopTimes
    ttl: float | None
    started_at: float
    memory_bytes: int | None
    processes: int | None
    cpu: float | None
    open_files: int | None
    no_new_privs: bool
    boundary: Boundary
    leaf: str | None
    ledger_folder: str
    log: str | None
    gateway: ProcessIdentity
    externals: tuple[External, ...]
    is_probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """What belongs to a tree: its end of the lifeline, the server's ends of its pipes, the tail of its stderr.

    `stderr` is None when its keeper is to drain it.
    """

    lifeline: int
    stdin: int
    stdout: int
    tail: int
    stderr: int | None = None

    def all(self) -> tuple[int, ...]:
        """In the order in which they travel: the lifeline first, so that it arrives if anything does."""
        required = (self.lifeline, self.stdin, self.stdout, self.tail)
        return required if self.stderr is None else (*required, self.stderr)


def send_order(control: socket.socket, order: Order, descriptors: Descriptors) -> None:
    """Ask for that tree: one packet, never waiting.

    Raises:
        BlockingIOError: the warden does not take its packets (any more).
        OSError: the warden is no more (EPIPE, ECONNRESET), or there is no descriptor left for a large order.
    """
    body = _encode(order)
    if len(body) <= _LARGEST_PACKET:
        _send(control, b"o" + body, descriptors.all())
        return
    memory = os.memfd_create("sexton-order", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(body)
        _send(control, b"O", (*descriptors.all(), memory))
    finally:
        os.close(memory)


def send_kill_keeper(control: socket.socket, tree: str) -> None:
    """Ask the warden to kill a keeper that does not answer; it sweeps that keeper's tree then."""
    _send(control, b"k" + tree.encode("ascii"), ())


def send_keep_until(control: socket.socket, until: float | None) -> None:
    """Say until which boot time (see `dead_mans_switch`) all trees may go on; None: as long as we live."""
    _send(control, b"u" + (b"" if until is None else repr(until).encode("ascii")), ())


@dataclass(frozen=True, slots=True)
class KillKeeper:
    tree: str


@dataclass(frozen=True, slots=True)
class KeepUntil:
    until: float | None


class OrderLost(Exception):
    """The packet came, but not all of its descriptors: we are out of them.  `lifeline` is there to say so."""

    def __init__(self, lifeline: int | None) -> None:
        super().__init__("too many open files")
        self.lifeline = lifeline


def receive(control: socket.socket) -> tuple[Order, Descriptors] | KillKeeper | KeepUntil | None:
    """The next packet; None when the gateway has closed its end.

    Raises:
        BlockingIOError: there is none.
        OrderLost: see there.
    """
    data, received, truncated = _receive(control)
    kind, body = data[:1], data[1:]
    if kind == b"":
        return None
    if kind == b"k":
        return KillKeeper(body.decode("ascii"))
    if kind == b"u":
        return KeepUntil(float(body) if body else None)
    if truncated or len(received) < len(Descriptors.__slots__) - 1:
        _close_all(received[1:])
        raise OrderLost(received[0] if received else None)
    if kind == b"O":
        with open(received.pop(), "rb") as file:
            file.seek(0)
            body = file.read()
    return _decode(json.loads(body)), Descriptors(**dict(zip(Descriptors.__slots__, received, strict=False)))


def encode_text(text: str) -> str:
    """Text as the operating system means it here, in the one form that travels."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """What has travelled, as the bytes that the operating system takes."""
    return text.encode("utf-8", "surrogateescape")


def _encode(order: Order) -> bytes:
    """As JSON.  Only what is nested is taken apart by `asdict`, which copies all it meets."""
    return json.dumps({name: getattr(order, name) for name in order.__slots__}, default=asdict).encode("ascii")


def _decode(raw: dict[str, Any]) -> Order:
    return Order(
        **raw
        | {
            "argv": tuple(raw["argv"]),
            "stop": StopTimes(**raw["stop"]),
            "boundary": Boundary(raw["boundary"]),
            "gateway": ProcessIdentity(**raw["gateway"]),
            "externals": tuple(decode_external(item) for item in raw["externals"]),
        }
    )


def _send(control: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    control.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _receive(control: socket.socket) -> tuple[bytes, list[int], bool]:
    space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    data, messages, flags, _ = control.recvmsg(
        _LARGEST_PACKET + 1, space, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    )
    received = array.array("i")
    for level, kind, content in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    return data, list(received), bool(flags & socket.MSG_CTRUNC)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
