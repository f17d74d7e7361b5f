"""The least that speaks MCP over stdio, so that what is measured is what stands before it."""

import json
import sys
from typing import Any

INITIALIZED = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "echo", "version": "1"},
}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = {"tools": [{"name": "echo", "description": "Says what it is told.", "inputSchema": SCHEMA}]}


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """The response to one request."""
    response = {"jsonrpc": "2.0", "id": message["id"]}
    match message["method"]:
        case "tools/call":
            result: Any = {"content": [{"type": "text", "text": message["params"]["arguments"]["text"]}]}
        case "initialize":
            result = INITIALIZED
        case "tools/list":
            result = TOOLS
        case "ping":
            result = {}
        case _:
            return {**response, "error": {"code": -32601, "message": "unknown method"}}
    return {**response, "result": result}


def main() -> None:
    """Serve until end of file."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" in message and "method" in message:
            sys.stdout.buffer.write(json.dumps(answer(message)).encode() + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
