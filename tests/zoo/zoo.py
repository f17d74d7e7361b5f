"""The zoo: MCP servers that misbehave, each of them one kind of this one program.

    python -I -S -E zoo.py KIND [--truth FILE] [--alive FIFO] [--escape DIR] [-- ARGUMENTS]

The first thing any kind does is to join the truth: it writes itself into FILE (the `cgroup.procs` of a cgroup that the
code under test knows nothing of) and opens FIFO for writing, in a way that every descendant inherits.  Then it makes
its mischief, waits until all its descendants are in place, prints one line (a `notifications/message` that says
"ready") and serves: each request on stdin is answered, `tools/call` does what the kind calls its strike.

With `ZOO_BYSTANDER_LOG` in its environment it is a bystander instead, whatever the kind: it makes a child in a session
of its own, and both note every signal that they can catch in that file.  Nobody may ever signal them.

Standard library only; no import that a kind does not need, because hundreds of these are started on two cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

LINUX_CLONE = {"x86_64": 56, "aarch64": 220}
LINUX_EXIT = {"x86_64": 60, "aarch64": 93}
LEAST_THROW_AWAY_USER = 0x70000000
CLONE_PARENT = 0x8000
CLONE_NEWPID = 0x20000000
PR_SET_CHILD_SUBREAPER = 36
CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


class RollCall:
    """Waits until every descendant is in place: end of file on a pipe that each of them closes, or loses by exec."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def here(self) -> None:
        os.close(self._write)

    def wait_all_here(self) -> None:
        os.close(self._write)
        os.read(self._read, 1)
        os.close(self._read)


class Options:
    """What the command line said."""

    def __init__(self, argv: list[str]) -> None:
        self.kind, rest = argv[0], argv[1:]
        self.command = rest[rest.index("--") + 1 :] if "--" in rest else []
        flags = rest[: rest.index("--")] if "--" in rest else rest
        self.named = dict(zip(flags[::2], flags[1::2], strict=True))

    def number(self, name: str, default: int) -> int:
        return int(self.named.get(name, default))


def join_the_truth(options: Options) -> None:
    if truth := options.named.get("--truth"):
        with open(truth, "w") as procs:  # noqa: PTH123  (pathlib costs 10 ms of start-up)
            procs.write("0")
    if alive := options.named.get("--alive"):
        os.set_inheritable(os.open(alive, os.O_WRONLY), True)


def linger() -> NoReturn:
    while True:
        signal.pause()


def ignore_signals() -> None:
    for number in CATCHABLE:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


def child(work: Callable[[], object]) -> int:
    """Fork; the child does `work` and ends without unwinding the parent's frames."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def daemon(work: Callable[[], object]) -> None:
    """The double fork: what it leaves behind has another session and another parent."""

    def first() -> None:
        os.setsid()
        child(work)

    os.waitpid(child(first), 0)


def disguised_sleep() -> NoReturn:
    """Nothing of where it came from is left in its environment or its command line."""
    os.execve("/bin/sleep", ["postgres: idle", "86400"], {})


def say(message: dict[str, object]) -> None:
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def say_ready(**data: object) -> None:
    say({"method": "notifications/message", "params": {"level": "info", "data": {"ready": os.getpid(), **data}}})


def nothing() -> None:
    return


def answer(request: dict[str, object], strike: Callable[[], object]) -> dict[str, object]:
    if request["method"] == "initialize":
        params = request.get("params")
        version = params.get("protocolVersion") if isinstance(params, dict) else "2025-06-18"
        info = {"name": "zoo", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if request["method"] == "tools/list":
        return {"tools": [{"name": "strike", "inputSchema": {"type": "object"}}]}
    if request["method"] == "tools/call":
        strike()
        return {"content": [{"type": "text", "text": "struck"}]}
    return {}


def serve(strike: Callable[[], object] = nothing) -> None:
    """Answer each request until end of file on stdin."""
    pending = b""
    while chunk := os.read(0, 65536):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "id" in request:
                say({"id": request["id"], "result": answer(request, strike)})


def with_company(work: Callable[[RollCall], object], *, strike: Callable[[], object] = nothing) -> None:
    """The common shape of a kind: `work` puts descendants in place, then a server serves until its stdin ends."""
    roll = RollCall()
    work(roll)
    roll.wait_all_here()
    say_ready()
    serve(strike)


def here_and_linger(roll: RollCall) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        roll.here()
        linger()

    return work


# The kinds.  Numbers are those of the reliability benchmark.


def polite(_: Options) -> None:
    """Z01: exits at end of file; notes any signal that it gets on stderr."""
    for number in CATCHABLE:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, lambda got, _frame: os.write(2, b"signal %d\n" % got) and None)
    say_ready()
    serve()


def ignores_eof(_: Options) -> None:
    """Z02: only SIGTERM ends it; each one is noted on stderr."""

    def terminated(_number: int, _frame: object) -> None:
        os.write(2, b"SIGTERM\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, terminated)
    say_ready()
    serve()
    linger()


def stubborn(_: Options) -> None:
    """Z03: ignores end of file and every signal that can be ignored."""
    ignore_signals()
    say_ready()
    serve()
    linger()


def slow_flush(options: Options) -> None:
    """Z04: at end of file it still writes 8 MB, over a while, and exits by itself."""
    say_ready()
    serve()
    part = b"x" * 65535 + b"\n"
    for _number in range(128):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]
        time.sleep(options.number("--flush-ms", 500) / 128 / 1000)


def daemonises(_: Options) -> None:
    """Z05: a daemon by double fork and setsid, beside a server that goes on."""
    with_company(lambda roll: daemon(here_and_linger(roll)))


def daemonises_and_exits(_: Options) -> None:
    """Z06: the same, and the leader is gone at once."""
    roll = RollCall()
    daemon(here_and_linger(roll))
    roll.wait_all_here()
    say_ready()


def scrubs(_: Options) -> None:
    """Z07: a daemon that executes another program with an empty environment and a false name."""
    with_company(lambda _roll: daemon(disguised_sleep))


def scrubs_and_exits(_: Options) -> None:
    """Z07, with the leader gone at once."""
    roll = RollCall()
    daemon(disguised_sleep)
    roll.wait_all_here()
    say_ready()


def daemonises_when_struck(_: Options) -> None:
    """Z05, at a moment of the test's choosing."""
    say_ready()
    serve(lambda: daemon(linger))
    linger()


def scrubs_when_struck(_: Options) -> None:
    """Z07, at a moment of the test's choosing."""
    say_ready()
    serve(lambda: daemon(disguised_sleep))
    linger()


def wipes_environ(_: Options) -> None:
    """Z08: overwrites its environment where /proc/self/environ reads it, then daemonises."""
    import ctypes

    with open("/proc/self/stat") as stat:  # noqa: PTH123
        fields = stat.read().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # proc_pid_stat(5): env_start, env_end are fields 50 and 51
    ctypes.memset(start, 0, end - start)
    with_company(lambda roll: daemon(here_and_linger(roll)))


def holds_stdout(_: Options) -> None:
    """Z09 and Z10: a daemon keeps the write ends of stdout and stderr, and the leader is gone."""
    daemonises_and_exits(_)


def holds_stdin(_: Options) -> None:
    """Z11: a daemon keeps a write end of the server's own stdin, so the server never sees its end."""

    def hold(roll: RollCall) -> Callable[[], NoReturn]:
        def work() -> NoReturn:
            os.open("/proc/self/fd/0", os.O_WRONLY)
            roll.here()
            linger()

        return work

    with_company(lambda roll: daemon(hold(roll)))


def stopped(_: Options) -> None:
    """Z12: stopped children in their own sessions, and it stops itself when struck or at end of file."""

    def sleeper(roll: RollCall) -> Callable[[], None]:
        def work() -> None:
            os.setsid()
            roll.here()
            os.kill(os.getpid(), signal.SIGSTOP)
            linger()

        return work

    def stop_self() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    with_company(lambda roll: [child(sleeper(roll)) for _ in range(3)], strike=stop_self)
    stop_self()


def inner_subreaper(_: Options) -> None:
    """Z13: a descendant makes itself the reaper of three daemons."""
    import ctypes

    def reaper(roll: RollCall) -> Callable[[], None]:
        def work() -> None:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            os.setsid()
            for _ in range(3):
                daemon(here_and_linger(roll))
            roll.here()
            linger()

        return work

    with_company(lambda roll: child(reaper(roll)))


def inner_pid_namespace(_: Options) -> None:
    """Z14: a PID namespace of its own, whose first process ignores everything and has a daemon."""
    import ctypes

    def first(roll: RollCall) -> Callable[[], None]:
        def work() -> None:
            ignore_signals()
            os.setsid()
            daemon(here_and_linger(roll))
            roll.here()
            linger()

        return work

    denied = ctypes.CDLL(None).unshare(CLONE_NEWPID) != 0
    with_company(lambda roll: None if denied else child(first(roll)))


def terminal(_: Options) -> None:
    """Z15: a session on a terminal of its own, with a daemon in a third session."""
    import pty

    def under_terminal(roll: RollCall) -> None:
        pid, _master = pty.fork()
        if pid == 0:
            daemon(here_and_linger(roll))
            roll.here()
            linger()

    with_company(under_terminal)


def hop(pause: float) -> NoReturn:
    """A process that lives for a moment only: its child goes on, in another session each time."""
    while True:
        with contextlib.suppress(OSError):
            if os.fork():
                os._exit(0)
            os.setsid()
        if pause:
            time.sleep(pause)


def hops(count: int, pause: float) -> Callable[[Options], None]:
    def kind(_: Options) -> None:
        def hopper(roll: RollCall) -> Callable[[], NoReturn]:
            def work() -> NoReturn:
                os.setsid()
                roll.here()
                hop(pause)

            return work

        with_company(lambda roll: [child(hopper(roll)) for _ in range(count)])

    return kind


def bomb(options: Options) -> None:
    """Z18: a tree of processes in which each replaces every child that it loses; it grows while it is being killed.

    The depth bounds it: 2 ** (depth + 1) - 2 processes, 126 for a depth of 6.
    """

    def phoenix(depth: int, roll: RollCall | None) -> None:
        if depth % 2:
            os.setsid()
        if depth > 0:
            for _ in range(2):
                child(lambda: phoenix(depth - 1, roll))
        if roll:
            roll.here()
        while depth > 0:
            os.waitpid(-1, 0)
            child(lambda: phoenix(depth - 1, None))
        linger()

    depth = options.number("--depth", 6)
    with_company(lambda roll: [child(lambda: phoenix(depth - 1, roll)) for _ in range(2)])


def wide(options: Options) -> None:
    """Z19: very many children, every second one in a session of its own."""

    def one(number: int, roll: RollCall) -> Callable[[], None]:
        def work() -> None:
            if number % 2:
                os.setsid()
            roll.here()
            linger()

        return work

    with_company(lambda roll: [child(one(number, roll)) for number in range(options.number("--count", 100))])


def deep(options: Options) -> None:
    """Z20: a long chain, each the only child of the one before."""

    def link(left: int, roll: RollCall) -> None:
        if left:
            child(lambda: link(left - 1, roll))
        roll.here()
        linger()

    with_company(lambda roll: child(lambda: link(options.number("--count", 100) - 1, roll)))


def orphans(options: Options) -> None:
    """Very many daemons at once, each an orphan."""

    def many(roll: RollCall) -> None:
        for _ in range(options.number("--count", 50)):
            daemon(here_and_linger(roll))

    with_company(many)


def escapes(options: Options) -> None:
    """Z22: daemons that move themselves into another cgroup, as a process of the same user can."""

    def escapee(roll: RollCall) -> Callable[[], NoReturn]:
        def work() -> NoReturn:
            with open(os.path.join(options.named["--escape"], "cgroup.procs"), "w") as procs:  # noqa: PTH118, PTH123
                procs.write("0")
            roll.here()
            linger()

        return work

    def many(roll: RollCall) -> None:
        for _ in range(2):
            daemon(escapee(roll))

    with_company(many)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return int(stat.read().rpartition(")")[2].split()[1])


def strikes_keeper(number: signal.Signals) -> Callable[[Options], None]:
    """Z24, Z25: when struck, it signals the process that watches over it.  It has a daemon that would survive."""

    def kind(_: Options) -> None:
        keeper = os.getppid()
        with_company(lambda _roll: daemon(disguised_sleep), strike=lambda: os.kill(keeper, number))

    return kind


def strikes_warden(_: Options) -> None:
    """Z26: when struck, it kills the parent of the process that watches over it."""
    warden = parent_of(os.getppid())
    with_company(lambda _roll: daemon(disguised_sleep), strike=lambda: os.kill(warden, signal.SIGKILL))


def kills_everybody(options: Options) -> None:
    """Z27: when struck, a child in its own session signals every process that it may signal, and goes on itself.

    It does so only where nobody else can be meant: as a user of its own (`--user NUMBER`), or in a PID namespace whose
    first process is `own_pid_namespace.py`.
    """
    user = options.number("--user", 0)

    def attack(roll: RollCall) -> Callable[[], NoReturn]:
        def work() -> NoReturn:
            os.setsid()
            if user:
                os.setresuid(user, user, user)
            with open("/proc/1/cmdline", "rb") as first:  # noqa: PTH123
                is_alone = b"own_pid_namespace.py" in first.read()
            if is_alone or (user >= LEAST_THROW_AWAY_USER and os.getresuid() == (user, user, user)):
                os.kill(-1, signal.SIGKILL)
                roll.here()
            linger()

        return work

    def strike() -> None:
        roll = RollCall()
        child(attack(roll))
        roll.wait_all_here()

    with_company(lambda roll: daemon(here_and_linger(roll)), strike=strike)


def eats_memory(options: Options) -> None:
    """Z48: joins the cgroup `--memory PROCS`, and when struck takes memory until the kernel kills somebody in it."""
    with open(options.named["--memory"], "w") as procs:  # noqa: PTH123
        procs.write("0")
    hoard: list[bytearray] = []

    def strike() -> None:
        while True:
            hoard.append(bytearray(b"x" * (1 << 20)))

    with_company(lambda roll: daemon(here_and_linger(roll)), strike=strike)


def delegates(options: Options) -> None:
    """Z44, Z45: has a daemon (`--service SOCKET`) start a process for it, which is none of its descendants."""
    import socket

    with socket.socket(socket.AF_UNIX) as service:
        service.connect(options.named["--service"])
        service.sendall(json.dumps(dict(os.environ)).encode() + b"\n")
        service.recv(64)
    say_ready()
    serve()


def chatty(_: Options) -> None:
    """Z28: two children flood stdout and stderr as fast as these take it."""

    def flood(descriptor: int, roll: RollCall) -> Callable[[], NoReturn]:
        def work() -> NoReturn:
            roll.here()
            line = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"' + b"y" * 3000 + b'"}}\n'
            while True:
                os.write(descriptor, line)

        return work

    with_company(lambda roll: [child(flood(descriptor, roll)) for descriptor in (1, 2)])


def never_reads(_: Options) -> None:
    """Z29: its stdin fills up, and it never looks."""
    say_ready()
    linger()


def closes_everything(_: Options) -> None:
    """Z30: closes all its descriptors and sleeps; no pipe tells of it any more."""
    roll = RollCall()

    def work() -> NoReturn:
        os.setsid()
        os.closerange(0, 4096)
        linger()

    child(work)
    roll.wait_all_here()
    say_ready()
    os.closerange(0, 4096)
    linger()


def parent_clones(_: Options) -> None:
    """Z50: children made with CLONE_PARENT are not its own: they are the children of its keeper."""
    import ctypes

    libc, number = ctypes.CDLL(None), LINUX_CLONE[os.uname().machine]
    roll = RollCall()
    for _number in range(3):
        if libc.syscall(number, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            disguised_sleep()
    roll.wait_all_here()
    say_ready()
    serve()


def another_user(_: Options) -> None:
    """Z23: a daemon that runs as somebody else, where that is allowed to it."""

    def change(roll: RollCall) -> Callable[[], NoReturn]:
        def work() -> NoReturn:
            with contextlib.suppress(PermissionError):
                os.setresuid(65534, 65534, 65534)
            roll.here()
            linger()

        return work

    with_company(lambda roll: daemon(change(roll)))


def vforks(_: Options) -> None:
    """Z49: threads that make children by vfork all the time; and one of many threads executes another program."""
    import threading

    def storm() -> NoReturn:
        while True:
            with contextlib.suppress(OSError):
                os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "0"], {}, setsid=True), 0)

    def in_threads(roll: RollCall, last: Callable[[], NoReturn]) -> Callable[[], None]:
        def work() -> None:
            os.setsid()
            for _number in range(4):
                threading.Thread(target=storm, daemon=True).start()
            threading.Thread(target=last, daemon=True).start()
            roll.here()
            linger()

        return work

    def both(roll: RollCall) -> None:
        child(in_threads(roll, linger_in_thread))
        child(in_threads(roll, disguised_sleep))

    with_company(both)


def linger_in_thread() -> NoReturn:
    while True:
        time.sleep(3600)


def headless(_: Options) -> None:
    """Z51: its first thread ends while another serves on, so that the process reads as a zombie and is none."""
    import ctypes
    import threading

    ignore_signals()
    lock = threading.Lock()

    def go_on() -> None:
        say_ready()
        serve()
        while True:
            time.sleep(3600)

    with lock:
        threading.Thread(target=go_on).start()
    ctypes.CDLL(None).syscall(LINUX_EXIT[os.uname().machine], 0)


def run(options: Options) -> NoReturn:
    """Any other program (npx, uvx, a shell), after it has joined the truth."""
    os.execvp(options.command[0], options.command)


KINDS: dict[str, Callable[[Options], None]] = {
    "polite": polite,
    "ignores_eof": ignores_eof,
    "stubborn": stubborn,
    "slow_flush": slow_flush,
    "daemonises": daemonises,
    "daemonises_and_exits": daemonises_and_exits,
    "scrubs": scrubs,
    "scrubs_and_exits": scrubs_and_exits,
    "daemonises_when_struck": daemonises_when_struck,
    "scrubs_when_struck": scrubs_when_struck,
    "wipes_environ": wipes_environ,
    "holds_stdout": holds_stdout,
    "holds_stdin": holds_stdin,
    "stopped": stopped,
    "inner_subreaper": inner_subreaper,
    "inner_pid_namespace": inner_pid_namespace,
    "terminal": terminal,
    "hopper": hops(1, 0.0),
    "hoppers": hops(8, 0.0),
    "slow_hoppers": hops(8, 0.0005),
    "bomb": bomb,
    "wide": wide,
    "deep": deep,
    "orphans": orphans,
    "escapes": escapes,
    "kills_keeper": strikes_keeper(signal.SIGKILL),
    "stops_keeper": strikes_keeper(signal.SIGSTOP),
    "kills_warden": strikes_warden,
    "kills_everybody": kills_everybody,
    "eats_memory": eats_memory,
    "delegates": delegates,
    "chatty": chatty,
    "never_reads": never_reads,
    "closes_everything": closes_everything,
    "parent_clones": parent_clones,
    "headless": headless,
    "another_user": another_user,
    "vforks": vforks,
    "run": run,
}


def stand_by(log: str) -> NoReturn:
    """A bystander and its child: they note each signal that they can catch, and stay."""

    def note(number: int, _frame: object) -> None:
        with open(log, "a") as signals:  # noqa: PTH123
            signals.write(f"{os.getpid()} {signal.Signals(number).name}\n")

    in_its_own_session = os.fork() == 0
    if in_its_own_session:
        os.setsid()
    for number in CATCHABLE:
        signal.signal(number, note)
    say_ready()
    linger()


def main() -> None:
    if log := os.environ.get("ZOO_BYSTANDER_LOG"):
        stand_by(log)
    options = Options(sys.argv[1:])
    join_the_truth(options)
    KINDS[options.kind](options)


if __name__ == "__main__":
    main()
