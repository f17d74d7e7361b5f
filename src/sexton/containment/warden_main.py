"""What runs as the warden: `python -I -S -E warden_main.py CONTROL GATEWAY_PIDFD`.

A process that everything else depends on should hold as little as possible: no site packages, and none of the gateway's
modules but the handful that say "standard library only".  They stand in the packages `sexton` and `sexton.containment`,
whose own `__init__` would load the rest, so both are entered here as bare folders.
"""

from __future__ import annotations

import os
import sys
import types


def _enter_bare_packages() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    for name, folder in (("sexton", os.path.dirname(here)), ("sexton.containment", here)):
        package = types.ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package


if __name__ == "__main__":
    _enter_bare_packages()
    from sexton.containment import warden_process

    warden_process.main(control=int(sys.argv[1]), gateway=int(sys.argv[2]))
