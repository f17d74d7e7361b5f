"""What a custodian tells the holder of a tree."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict

from sexton.containment import lifeline
from sexton.containment.ledger import Stuck


def test_a_crowd_that_does_not_die_fits_into_a_report() -> None:
    """Seen with 10,000 processes on a loaded machine: the report was cut off, and the wait for the end raised."""
    crowd = [Stuck(pid=4_000_000 + number, why="it was killed and does not end " * 5) for number in range(10_000)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        lifeline.report_stuck(theirs, [asdict(one) for one in crowd])
        packet = lifeline.receive(ours)
    assert packet is not None
    told = json.loads(packet)
    assert told["event"] == "stuck"
    assert [Stuck(**one) for one in told["stuck"]] == crowd[: len(told["stuck"])]
    assert len(told["stuck"]) >= 10
