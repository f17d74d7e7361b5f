"""What a holder and a custodian (keeper or warden) tell each other over a tree's lifeline.

A lifeline is a pair of SOCK_SEQPACKET sockets.  The holder's end is the claim on the tree: when it closes, for whatever
reason, the tree ends.  Requests of the holder are plain text, reports of the custodian JSON objects with an "event".
Standard library only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

RELEASE = b"release"
KILL = b"kill"
RENEW = b"renew "
_LARGEST_PACKET = 16 * 1024
_MOST_STUCK = 50
"""As many are named in a report, so that it fits into a packet; the record has all."""


def report(lifeline: socket.socket, event: str, **details: Any) -> None:
    """Tell the holder, if it listens: a custodian never waits for one."""
    try:
        lifeline.send(
            json.dumps({"event": event, **details}).encode("ascii"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        )
    except OSError:
        return  # the holder is no more, or has let its buffer fill: it loses the message, not the tree


def report_stuck(lifeline: socket.socket, stuck: Sequence[Mapping[str, Any]]) -> None:
    """Tell the holder which members do not end although they were killed; of a crowd only the first."""
    report(lifeline, "stuck", stuck=list(stuck[:_MOST_STUCK]))


def receive(lifeline: socket.socket) -> bytes | None:
    """The next packet: empty when the other end is closed, None when there is none yet.

    A peer that closes while a packet of ours is unread resets the connection: that is reported once, before the packets
    that it sent (unix(7), seen on Linux 6.18), so we look again.
    """
    for _ in range(2):
        try:
            return lifeline.recv(_LARGEST_PACKET, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            continue
    return b""
