"""The soak, for seconds in `make test` and for hours with `make soak HOURS=72`.

`SEXTON_SOAK_SECONDS` is its length, `SEXTON_SOAK_SEED` repeats the decisions of an earlier one (when they strike
is up to the machine).
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from process.conftest import boundaries_here
from soak.soak import Soak

SECONDS = float(os.environ.get("SEXTON_SOAK_SECONDS", "15"))


@pytest.mark.timeout(SECONDS + 600)
def test_whatever_goes_wrong_nothing_is_left_and_nobody_else_is_touched(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEXTON_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEXTON_SOAK_SEED={seed}", file=sys.stderr)
    with Soak(tmp_path, boundaries_here(), seed=seed) as soak:
        soak.run(SECONDS)
        soak.finish()
        print(soak.table(), file=sys.stderr)
