"""From what is asked for to the order that a warden gets."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from sexton.containment import external
from sexton.containment.containment_errors import ContainmentError
from sexton.containment.environment import environment_of
from sexton.containment.instance import Instance
from sexton.containment.ledger import External
from sexton.containment.order import Order, encode_text
from sexton.containment.spec import ProcessSpec
from sexton.containment.tree_state import Boundary


def fill_in(
    spec: ProcessSpec, *, instance: Instance, boundary: Boundary, group: Path | None, is_probe: bool = False
) -> Order:
    """The order for a new tree, with an id and a cookie of its own.  `group` is the cgroup that its leaf will be in.

    Raises:
        ContainmentError: no kernel can execute that.
    """
    _check(spec)
    tree, cookie = f"t{secrets.token_hex(6)}", secrets.token_hex(16)
    env = environment_of(spec, cookie=cookie, ours=os.environ)
    argv, externals = _label_containers(tree, spec.argv, env, instance.cid_folder)
    limits = spec.limits
    return Order(
        tree=tree,
        instance=instance.id,
        boot_id=instance.boot_id,
        cookie=cookie,
        name=spec.name,
        owner=spec.owner,
        argv=tuple(encode_text(word) for word in argv),
        env={encode_text(name): encode_text(value) for name, value in env.items()},
        cwd=None if spec.cwd is None else encode_text(str(spec.cwd)),
        stop=spec.stop,
        ttl=spec.ttl,
        started_at=time.time(),
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        cpu=limits.cpu,
        open_files=limits.open_files,
        no_new_privs=spec.no_new_privs,
        boundary=boundary,
        leaf=str(group / tree) if boundary is Boundary.CGROUP and group is not None else None,
        ledger_folder=str(instance.ledger_folder),
        log=str(spec.stderr.absolute()) if isinstance(spec.stderr, Path) else None,
        gateway=instance.gateway,
        externals=externals,
        is_probe=is_probe,
    )


def _label_containers(
    tree: str, argv: tuple[str, ...], env: Mapping[str, str], folder: Path
) -> tuple[tuple[str, ...], tuple[External, ...]]:
    argv, found = external.labelled(argv, env, tree=tree, folder=str(folder))
    return argv, () if found is None else (found,)


def _check(spec: ProcessSpec) -> None:
    """Refuse what no kernel can execute, while the caller can still be told.

    Raises:
        ContainmentError: there is no program, or a NUL or an = where there can be none.
    """
    if not spec.argv or not spec.argv[0]:
        raise ContainmentError(f"{spec.name!r} has no command.", hint="give the program and its arguments")
    texts = (*spec.argv, *spec.env, *spec.env.values(), str(spec.cwd or ""))
    if any("\0" in text for text in texts) or any(not name or "=" in name for name in spec.env):
        raise ContainmentError(
            f"{spec.name!r} has a NUL character in its command, or a bad name in its environment.",
            hint="correct its command, env and cwd",
        )
