"""A small MCP server whose every word would be markup, if anybody took it for that; standard library only.

`add` adds two numbers, `choose` takes arguments of every kind and tells them back, `wait` answers when it is cancelled,
`shout` says what would run as a script in a careless page, and writes the same to stderr.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

MARKUP = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script></pre>\"'`{{7*7}}"
TOOLS: list[dict[str, Any]] = [
    {
        "name": "add",
        "description": "Add two numbers.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": "integer", "default": 2}},
            "required": ["a"],
        },
    },
    {
        "name": "choose",
        "title": MARKUP,
        "description": MARKUP,
        "inputSchema": {
            "type": "object",
            "properties": {
                MARKUP: {"type": "string", "description": MARKUP},
                "order": {"enum": ["up", "down"]},
                "names": {"type": "array", "items": {"type": "string"}},
                "where": {"type": "object", "properties": {"city": {"type": "string"}}},
                "deep": {"type": "boolean"},
                "free": {},
            },
        },
    },
    {"name": "wait", "inputSchema": {"type": "object"}},
    {"name": "shout", "inputSchema": {"type": "object"}},
]
LOCK = threading.Lock()


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            reply = answer(message["method"], message.get("params") or {})
            if reply is not None:
                with LOCK:
                    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}), flush=True)


def answer(method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            told = {"name": "talkative", "version": "1"}
            return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": told}}
        case "ping":
            return {"result": {}}
        case "tools/list":
            return {"result": {"tools": TOOLS}}
        case "tools/call":
            return call(parameters["name"], parameters.get("arguments") or {})
        case _:
            return {"error": {"code": -32601, "message": f"no method {method}"}}


def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    match tool:
        case "wait":
            return None
        case "add":
            text = str(arguments["a"] + arguments.get("b", 2))
        case "choose":
            text = json.dumps(arguments, sort_keys=True)
        case _:
            print(MARKUP, file=sys.stderr, flush=True)
            return {"result": {"content": [{"type": "text", "text": MARKUP}], "isError": True}}
    return {"result": {"content": [{"type": "text", "text": text}]}}


if __name__ == "__main__":
    main()
