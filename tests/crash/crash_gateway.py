"""A gateway in which something goes wrong while it starts or ends the tree "victim".

    python crash_gateway.py STATE BOUNDARY POINT ACTION JSON

JSON: {"neighbour": [argv...], "victim": [argv...]}.  It says "neighbour" when that tree runs, "started" when the victim
does, then "gone REASON", or "failed TEXT" instead of these two; then it waits for end of file, and leaves.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio

from sexton.containment import Boundary, Containment, ContainmentError, ProcessSpec, StopTimes, order, warden

STATE, BOUNDARY, POINT, ACTION, WANTED = sys.argv[1:]
STOP = StopTimes(
    stdin_grace=0.1,
    term_grace=0.1,
    leader_exit_grace=0.05,
    orphaned_stdin_grace=0.1,
    orphaned_term_grace=0.1,
    stuck_after=3.0,
)


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def arm_warden() -> None:
    """The first warden is the faulty one; the one after it, if it dies, is sound."""
    faulty, main = Path(__file__).with_name("faulty_warden.py"), warden._MAIN
    popen = subprocess.Popen
    armed: list[bool] = []

    @functools.wraps(popen)
    def starting(argv: list[str], **options: Any) -> Any:
        place = argv.index(str(main))
        if not armed:
            argv = [*argv[:place], str(faulty), str(main.parent), POINT, ACTION, *argv[place + 1 :]]
        armed.append(True)
        return popen(argv, **options)

    subprocess.Popen = starting  # type: ignore[misc, assignment]


def arm_gateway() -> None:
    """The two points that lie in the gateway itself."""
    send = order.send_order

    def sending(control: Any, wanted: Any, descriptors: Any) -> None:
        if (wanted.name, POINT) == ("victim", "before_sendmsg"):
            os.kill(os.getpid(), signal.SIGKILL)
        send(control, wanted, descriptors)
        if (wanted.name, POINT) == ("victim", "after_sendmsg"):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(order, "send_order", sending)  # noqa: B010 -- mypy keeps the two signatures apart


async def hold() -> None:
    wanted = json.loads(WANTED)
    async with Containment.open(Path(STATE), boundary=Boundary(BOUNDARY)) as containment:
        neighbour = containment.start(ProcessSpec(name="neighbour", argv=tuple(wanted["neighbour"]), stop=STOP))
        await neighbour.wait_started()
        await anyio.wait_readable(neighbour.stdout)
        say("neighbour")
        await start_and_end(containment, tuple(wanted["victim"]))
        await anyio.wait_readable(0)
        neighbour.release()


async def start_and_end(containment: Containment, argv: tuple[str, ...]) -> None:
    try:
        async with containment.start(ProcessSpec(name="victim", argv=argv, stop=STOP)) as tree:
            with anyio.move_on_after(2):  # nothing is owed before the program runs: it may hang in execve(2)
                await tree.wait_started()
                await anyio.wait_readable(tree.stdout)  # its mischief is in place, or it has ended
                say("started")
        say(f"gone {(await tree.wait_gone()).reason}")
    except ContainmentError as error:
        say(f"failed {str(error).splitlines()[0]}")


if __name__ == "__main__":
    if POINT in {"before_sendmsg", "after_sendmsg"}:
        arm_gateway()
    else:
        arm_warden()
    anyio.run(hold)
