"""A small MCP server that writes down who asked it what: standard library only.

Speaks the protocol of 2025-06-18 on its standard input and output.  Its one
argument is the file it writes to, a JSON line for each call that came and for
each cancellation of one: `{"pid", "what": "called" | "cancelled", "tool", "key"}`.
Every tool takes a `key`, by which its caller knows itself, and answers with
the pid and that key.  `ask` does only that; `wait` answers after the next
cancellation of any call here, so that somebody's call surely was under way
then; `hang` never answers; `slow` answers when the file `until` is there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

TOOLS = ("ask", "wait", "hang", "slow")
SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.01


class Witness:
    """Answers requests; each call on a thread of its own."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: dict[Any, tuple[str, str]] = {}
        self._cancelled = 0
        self._changed = threading.Condition()

    def take(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params") or {}
        if method == "notifications/cancelled":
            self._note_cancelled(parameters["requestId"])
        elif method == "tools/call":
            tool, arguments = parameters["name"], parameters.get("arguments") or {}
            self._note("called", tool, arguments["key"])
            with self._changed:
                self._open[message["id"]] = tool, arguments["key"]
                seen = self._cancelled
            threading.Thread(target=self._call, args=(message["id"], tool, arguments, seen), daemon=True).start()
        elif method and "id" in message:
            self._send({"id": message["id"], "result": described(method)})

    def _call(self, request: Any, tool: str, arguments: dict[str, Any], seen: int) -> None:
        if tool == "hang":
            return
        if tool == "wait":
            with self._changed:
                self._changed.wait_for(lambda: self._cancelled > seen, WAIT_SECONDS)
        if tool == "slow":
            end = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < end and not os.path.exists(arguments["until"]):  # noqa: PTH110 - starts sooner
                time.sleep(POLL_SECONDS)
        with self._changed:
            self._open.pop(request, None)
        text = json.dumps({"pid": os.getpid(), "key": arguments["key"]})
        self._send({"id": request, "result": {"content": [{"type": "text", "text": text}]}})

    def _note_cancelled(self, request: Any) -> None:
        with self._changed:
            tool, key = self._open.pop(request, ("", "unknown"))
            self._note("cancelled", tool, key)
            self._cancelled += 1
            self._changed.notify_all()

    def _note(self, what: str, tool: str, key: str) -> None:
        line = json.dumps({"pid": os.getpid(), "what": what, "tool": tool, "key": key})
        with open(self._file, "a") as file:  # noqa: PTH123 - starts sooner without pathlib
            file.write(f"{line}\n")

    def _send(self, message: dict[str, Any]) -> None:
        with self._changed:
            print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def described(method: str) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "witness", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": SCHEMA} for name in TOOLS]}
    return {}


def main() -> None:
    witness = Witness(sys.argv[1])
    for line in sys.stdin:
        witness.take(json.loads(line))


if __name__ == "__main__":
    main()
