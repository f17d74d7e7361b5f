"""A warden that notes every signal that it and its keepers send: what runs in place of `warden_main.py`.

python -I -S -E recording_warden.py LOG STATE_DIR CONTAINMENT_FOLDER CONTROL GATEWAY_PIDFD
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    log, state_dir, containment = sys.argv[1:4]
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    from crash.faulty_warden import enter_bare_packages
    from soak.signal_log import record_signals

    record_signals(log, "helper", state_dir)
    enter_bare_packages(containment)
    from sexton.containment import warden_process

    warden_process.main(control=int(sys.argv[4]), gateway=int(sys.argv[5]))
