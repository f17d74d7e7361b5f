"""An MCP server over stdio with one bad habit, named by its first argument.

polite      exits at end of file
stubborn    ignores SIGTERM and end of file
daemon      leaves a daemonised helper (double fork, setsid) that holds none of its pipes
helper      leaves a helper in its own process group that holds none of its pipes
bystander   no server at all: writes the name of each signal that it gets to the file in $BENCH_LOG

Tools: `echo` answers with its arguments, `hang` never answers. A `notifications/cancelled` is written to $BENCH_LOG.
Everything ends by itself after LIFETIME seconds (a bystander after BYSTANDER_LIFETIME), so that a benchmark that is
itself killed leaves nothing for long.
"""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

LIFETIME = 900
BYSTANDER_LIFETIME = 6 * 3600  # the longest day of cron and more
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "hang")]


def main() -> None:
    """Take up the habit, then serve until end of file (or, if stubborn, for LIFETIME seconds)."""
    habit = sys.argv[1]
    signal.alarm(BYSTANDER_LIFETIME if habit == "bystander" else LIFETIME)
    if habit == "bystander":
        watch_signals()
    elif habit == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif habit == "daemon":
        start_helper(daemonise=True)
    elif habit == "helper":
        start_helper(daemonise=False)
    serve()
    if habit == "stubborn":
        threading.Event().wait(LIFETIME)


def start_helper(*, daemonise: bool) -> None:
    """A child that outlives us: with `daemonise` in a session of its own, reparented at once."""
    if child := os.fork():
        if daemonise:
            os.waitpid(child, 0)
        return
    if daemonise:
        os.setsid()
        if os.fork():
            os._exit(0)
    nothing = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    signal.alarm(LIFETIME)  # alarm(2): not inherited by a child made with fork
    time.sleep(LIFETIME)
    os._exit(0)


def serve() -> None:
    """Answer one JSON-RPC message a line."""
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "notifications/cancelled":
            note("cancelled")
        elif "id" in message and (reply := answer(message)) is not None:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}) + "\n")
            sys.stdout.flush()


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """The reply without its envelope; None for a call that hangs."""
    method, params = message.get("method"), message.get("params", {})
    if method == "initialize":
        server = {"name": "misbehaving", "version": "1"}
        version = params["protocolVersion"]
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}}
    if method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if method == "ping":
        return {"result": {}}
    if method == "tools/call" and params["name"] == "hang":
        return None
    if method == "tools/call":
        return {"result": {"content": [{"type": "text", "text": json.dumps(params.get("arguments", {}))}]}}
    return {"error": {"code": -32601, "message": f"no method {method}"}}


def watch_signals() -> None:
    """Write down every signal that can be caught, for ever."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM}:
        signal.signal(number, lambda got, _: note(signal.Signals(got).name))
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    while True:
        signal.pause()


def note(word: str) -> None:
    """Add a line to $BENCH_LOG, if it is set."""
    if path := os.environ.get("BENCH_LOG"):
        with open(path, "a") as file:  # noqa: PTH123 - pathlib would double the start-up time
            file.write(f"{word}\n")


if __name__ == "__main__":
    main()
