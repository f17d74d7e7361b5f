"""Wardens and keepers that differ from the real ones in one respect: what tests put in place of `warden_main.py`."""

from __future__ import annotations

from pathlib import Path

from sexton.containment import warden

_STEPPED_CLOCK = """
import time
really = time.time
time.time = lambda: really() + {seconds}
"""
_NO_CHILDREN_FILES = """
from sexton.containment import subreaper_boundary
subreaper_boundary._has_children_files = lambda: False
"""
_PROGRAM = """
import os, sys, types
folder = {folder!r}
for name, path in (("sexton", os.path.dirname(folder)), ("sexton.containment", folder)):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
{change}
from sexton.containment import warden_process
warden_process.main(control=int(sys.argv[1]), gateway=int(sys.argv[2]))
"""


def with_stepped_clock(folder: Path, seconds: float) -> Path:
    """Their clock on the wall differs from ours by so much: what a step between our doing and theirs comes to."""
    return _write(folder, _STEPPED_CLOCK.format(seconds=seconds))


def without_children_files(folder: Path) -> Path:
    """They walk /proc, as on a kernel without CONFIG_PROC_CHILDREN."""
    return _write(folder, _NO_CHILDREN_FILES)


def _write(folder: Path, change: str) -> Path:
    program = folder / "warden_main.py"
    program.write_text(_PROGRAM.format(folder=str(warden._MAIN.parent), change=change))
    return program
