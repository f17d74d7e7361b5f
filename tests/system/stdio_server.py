"""A small MCP server for these tests: standard library only, so that it starts in a few hundredths of a second.

Speaks the protocol of 2025-06-18 on its standard input and output.  Arguments:
`--die TEXT` writes TEXT to stderr and exits with status 3 before it answers
anything; `--helper` leaves a daemon behind that nobody can reach by process
group or environment; `--stubborn` ignores SIGTERM and the end of its input;
`--mute` never answers.  Any tool writes a line to the file `mark`, if that is
among its arguments, when its call has arrived; `slow` ends sooner when the
file `until` is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

TOOLS = ("echo", "pid", "slow", "die", "secret")
LOCK = threading.Lock()


def main(arguments: list[str]) -> None:
    if "--die" in arguments:
        print(arguments[arguments.index("--die") + 1], file=sys.stderr)
        sys.exit(3)
    if "--helper" in arguments:
        leave_helper()
    if "--stubborn" in arguments:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        if "--mute" in arguments:
            continue
        message = json.loads(line)
        if "id" in message and "method" in message:
            threading.Thread(target=answer, args=(message,), daemon=True).start()
    if "--stubborn" in arguments:
        time.sleep(1000)


def leave_helper() -> None:
    """A double fork, a session of its own, an empty environment, another name."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.execve("/bin/sleep", ["unrelated", "1000"], {})
        os._exit(0)
    os.wait()


def answer(message: dict[str, Any]) -> None:
    try:
        reply = {"result": result_of(message["method"], message.get("params") or {})}
    except LookupError:
        reply = {"error": {"code": -32601, "message": f"no method {message['method']}"}}
    with LOCK:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}), flush=True)


def result_of(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "small", "version": "1"},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": call(parameters["name"], parameters.get("arguments") or {})}]}
    raise LookupError


def call(tool: str, arguments: dict[str, Any]) -> str:
    if "mark" in arguments:
        with open(arguments["mark"], "a") as file:  # noqa: PTH123 - no import for one line
            print(os.getpid(), file=file)
    if tool == "slow":
        wait(arguments["seconds"], until=arguments.get("until"))
    if tool == "die":
        print("I was told to die", file=sys.stderr, flush=True)
        os._exit(7)
    if tool == "pid":
        return str(os.getpid())
    if tool == "secret":
        return f"{len(os.environ.get('SECRET', ''))} characters"
    return str(arguments.get("text", "done"))


def wait(seconds: float, *, until: str | None) -> None:
    """Until the time is over, or that file is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (until and os.path.exists(until)):  # noqa: PTH110 - as above
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
