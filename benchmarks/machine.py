"""The machine that a figure was measured on, in words that name no host."""

import os
import platform

from benchmarks.truth import cgroup2_folder


def describe_machine() -> str:
    """Cores, memory, kernel, Python and kind of cgroup: what a reader needs to compare a figure with their own."""
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    folder = cgroup2_folder()
    cgroup = "cgroup2" if folder is None else f"cgroup2 (controllers: {_controllers(folder) or 'none'})"
    return (
        f"{os.cpu_count()} cores, {gibibytes:.0f} GiB, Linux {kernel}, Python {platform.python_version()}, "
        f"{cgroup if folder else 'no writable cgroup2'}, load {os.getloadavg()[0]:.1f}"
    )


def _controllers(folder: os.PathLike[str]) -> str:
    with open(os.path.join(folder, "cgroup.controllers")) as file:  # noqa: PTH118, PTH123
        return file.read().strip()
