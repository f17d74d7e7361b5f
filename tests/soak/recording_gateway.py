"""The gateway of the zoo, with every signal of it, its wardens and its keepers noted in $SEXTON_TEST_SIGNALS.

    python -m soak.recording_gateway STATE_DIR BOUNDARY

A keeper that does not answer is replaced after one second instead of five.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio

from sexton.containment import progress, warden
from soak.signal_log import record_signals
from zoo import gateway


def arm_wardens(log: str, state_dir: str) -> None:
    recording, main = Path(__file__).with_name("recording_warden.py"), warden._MAIN
    popen = subprocess.Popen

    @functools.wraps(popen)
    def starting(argv: list[str], **options: Any) -> Any:
        if str(main) in argv:
            place = argv.index(str(main))
            argv = [*argv[:place], str(recording), log, state_dir, str(main.parent), *argv[place + 1 :]]
        return popen(argv, **options)

    subprocess.Popen = starting  # type: ignore[misc, assignment]


if __name__ == "__main__":
    where, folder = os.environ["SEXTON_TEST_SIGNALS"], sys.argv[1]
    record_signals(where, "gateway", folder)
    arm_wardens(where, folder)
    progress._ANSWER_WITHIN = 1.0
    anyio.run(gateway.main)
