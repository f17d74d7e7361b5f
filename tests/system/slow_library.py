"""`sexton up` on a machine on which every module of the library that talks to models takes long to load.

    python slow_library.py MARK up …

The file MARK appears when the loading begins.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sexton.cli.main import main

EACH = 0.5  # seconds, for some hundred modules


class Slow:
    """Finds nothing, and takes its time for it."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name.partition(".")[0] in {"openai", "pydantic_ai", "anthropic"}:
            self._mark.touch()
            time.sleep(EACH)


if __name__ == "__main__":
    sys.meta_path.insert(0, Slow(Path(sys.argv[1])))
    del sys.argv[1]
    main()
