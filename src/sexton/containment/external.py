"""Containers that a tree asks a daemon for: they are no descendants of it, and only their label says whose they are.

`docker run` and its like talk to a daemon, which starts the container elsewhere.  So the command line is given a label
and a file for the container's id before it starts, and when the local tree is gone, every container with that label is
removed, until the engine lists none.  Removal is by label alone: never by name, image or age.

Standard library only: the keeper removes containers too, since the gateway may be dead by then.

Sources: `docker container run`, `docker container rm`, `docker ps --filter label`, podman-run(1), nerdctl's command
reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sexton.containment.ledger import External

LABEL = "dev.sexton.tree"
ENGINES = frozenset({"docker", "podman", "nerdctl"})

# What decides which daemon an engine talks to.  Nothing secret may stand here: it is kept in the ledger.
ENGINE_ENV = (
    "CONTAINERD_ADDRESS",
    "CONTAINERD_NAMESPACE",
    "CONTAINERS_CONF",
    "CONTAINER_CONNECTION",
    "CONTAINER_HOST",
    "DOCKER_API_VERSION",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "HOME",
    "NERDCTL_TOML",
    "PATH",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
)

_GLOBAL_OPTIONS_WITH_VALUE = frozenset(
    {
        *("--config", "-c", "--context", "-H", "--host", "-l", "--log-level", "--tlscacert", "--tlscert", "--tlskey"),
        *(
            "--connection",
            "--url",
            "--identity",
            "--root",
            "--runroot",
            "--tmpdir",
            "--storage-driver",
            "--storage-opt",
        ),
        *("--cgroup-manager", "--conmon", "--events-backend", "--hooks-dir", "--module", "--network-config-dir"),
        *("--network-cmd-path", "--runtime", "--runtime-flag", "--ssh", "--volumepath", "--imagestore", "--out"),
        *("-a", "--address", "-n", "--namespace", "--snapshotter", "--cni-path", "--cni-netconfpath", "--data-root"),
        *("--hosts-dir", "--host-gateway-ip", "--bridge-ip"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What came of removing: `removed` ids in full; `pending` is the reason why some may be left, None when none is."""

    removed: tuple[str, ...] = ()
    pending: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunCommand:
    """Where in an argv the engine's `run` stands."""

    engine: tuple[str, ...]
    options_at: int


class EngineFailed(Exception):
    """The engine did not do what it was asked; the text is its own last line, or that it gave no answer."""


Ask = Callable[[tuple[str, ...], Mapping[str, str]], str]


def labelled(
    argv: tuple[str, ...], env: Mapping[str, str], *, tree: str, folder: str
) -> tuple[tuple[str, ...], External | None]:
    """The argv to start instead, and what to remove later; `argv` itself and None when it starts no container.

    `tree` is the id that the label carries.  `folder` takes the file with the container's id; it must exist.
    """
    command = _find_run(argv)
    if command is None:
        return argv, None
    engine = (_program(command.engine[0], env), *command.engine[1:])
    given, rest = argv[: command.options_at], argv[command.options_at :]
    cidfile = _given_cidfile(rest) or os.path.join(folder, f"{tree}.cid")
    label = f"{LABEL}={tree}"
    added = ["--label", label]
    if _given_cidfile(rest) is None:
        added += ["--cidfile", cidfile]
    if all(name != "--init" for name, _ in _options(rest)) and _can_init(engine[0]):
        added.append("--init")
    external = External(
        engine=engine,
        label=label,
        cidfile=cidfile,
        environment=tuple((name, env[name]) for name in ENGINE_ENV if name in env),
        remove_volumes=any(name == "--rm" and value != "false" for name, value in _options(rest)),
    )
    return (*given, *added, *rest), external


def remove(external: External, *, ask: Ask | None = None, settle: float = 0.25, patience: float = 10.0) -> Removal:
    """Remove every container with that label; done when two looks, `settle` seconds apart, find none.

    A container can still appear after its client was killed, since the daemon finishes what it was asked.  A client
    that was killed while it asked leaves its cidfile empty; then the last look is taken after half of `patience`.
    Blocks for at most `patience` seconds, and as long as the engine takes for one answer.
    """
    ask = ask or ask_engine
    began = time.monotonic()
    unanswered = _was_cut_off(external)
    removed: dict[str, None] = {}
    words = "containers with this label keep appearing"
    clean_looks = 0
    while (passed := time.monotonic() - began) < patience:
        try:
            found = listed(external, ask=ask)
        except EngineFailed as failure:
            return Removal(removed=tuple(removed), pending=str(failure))
        clean_looks = 0 if found else clean_looks + 1
        if clean_looks >= 2 and not (unanswered and not removed and passed < patience / 2):
            _forget_cidfile(external)
            return Removal(removed=tuple(removed))
        if found:
            removed |= dict.fromkeys(found)
            words = _remove_all(external, found, ask) or words
        time.sleep(settle)
    return Removal(removed=tuple(removed), pending=words)


def listed(external: External, *, ask: Ask | None = None) -> tuple[str, ...]:
    """The ids of the containers with that label, running or not.

    Raises:
        EngineFailed: the engine is not there, refuses, or does not answer.
    """
    asked = (*external.engine, "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={external.label}")
    return tuple((ask or ask_engine)(asked, dict(external.environment)).split())


def ask_engine(argv: tuple[str, ...], environment: Mapping[str, str], *, within: float = 20.0) -> str:
    """Run the engine's client once, and give back what it printed.

    Raises:
        EngineFailed: it could not be started, ended with another status than 0, or took longer than `within` seconds.
    """
    try:
        done = subprocess.run(
            argv, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, timeout=within, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"{argv[0]} gave no answer within {within:g} s") from None
    except OSError as error:
        raise EngineFailed(f"{argv[0]} could not be started: {error.strerror}") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineFailed(words[-1] if words else f"{argv[0]} ended with status {done.returncode}")
    return done.stdout.decode(errors="replace")


def _remove_all(external: External, containers: tuple[str, ...], ask: Ask) -> str | None:
    """What the engine said against it; None when it did.  It refuses what it is already removing: look again later."""
    volumes = ("--volumes",) if external.remove_volumes else ()
    try:
        ask((*external.engine, "rm", "--force", *volumes, *containers), dict(external.environment))
    except EngineFailed as failure:
        return str(failure)
    return None


def _was_cut_off(external: External) -> bool:
    """The client makes the file before it asks for the container, and fills it when it has the answer."""
    try:
        return os.stat(external.cidfile).st_size == 0
    except FileNotFoundError:
        return False


def _forget_cidfile(external: External) -> None:
    """Engines leave the file of an id behind; only the one that we asked for is ours."""
    if os.path.basename(external.cidfile) == f"{external.label.partition('=')[2]}.cid":
        try:
            os.unlink(external.cidfile)
        except FileNotFoundError:
            return


def _find_run(argv: tuple[str, ...]) -> _RunCommand | None:
    if os.path.basename(argv[0]) not in ENGINES:
        return None
    at = _after_options(argv, 1)
    engine = argv[:at]
    words = argv[at : at + 2]
    if words[:1] == ("run",):
        return _RunCommand(engine=engine, options_at=at + 1)
    if words == ("container", "run"):
        return _RunCommand(engine=engine, options_at=at + 2)
    return None


def _after_options(argv: tuple[str, ...], at: int) -> int:
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] in _GLOBAL_OPTIONS_WITH_VALUE else 1
    return at


def _options(rest: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Each word that looks like an option, with its value or the word after it.

    Words after the image are the container's own; one there that looks like an option of ours only means that we leave
    that option to the caller, which is harmless.
    """
    for at, word in enumerate(rest):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            yield name, value if equals else (rest[at + 1] if at + 1 < len(rest) else None)


def _given_cidfile(rest: tuple[str, ...]) -> str | None:
    return next((value for name, value in _options(rest) if name == "--cidfile"), None)


def _can_init(program: str) -> bool:
    """Whether `--init` works: docker brings its own; podman needs catatonit and nerdctl tini, and fail without."""
    name = os.path.basename(program)
    if name == "docker":
        return True
    needed = {"podman": "catatonit", "nerdctl": "tini"}[name]
    places = os.pathsep.join(("/usr/libexec/podman", "/usr/lib/podman", "/usr/local/libexec/podman", os.defpath))
    return shutil.which(needed) is not None or shutil.which(needed, path=places) is not None


def _program(word: str, env: Mapping[str, str]) -> str:
    """Where that engine is on the tree's own PATH, so that the same one is asked later."""
    return shutil.which(word, path=env.get("PATH", os.defpath)) or word
