"""An MCP server in plain Python, so that it starts at once, with tools that misbehave in every way we must survive.

Speaks protocol 2025-06-18.  Options: `dies-on-discover`, `ignores-discover`, `never-answers`, `dies-at-start`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OPTIONS = set(sys.argv[1:])
_out = threading.Lock()
_cancelled: dict[Any, threading.Event] = {}
_cancelled_ids: list[Any] = []
_answers: dict[Any, tuple[threading.Event, list[dict[str, Any]]]] = {}
_seen: list[str] = []


def write(line: bytes) -> None:
    with _out:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def send(message: dict[str, Any]) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}).encode())


def notify(method: str, params: dict[str, Any]) -> None:
    send({"method": method, "params": params})


def ask_client(method: str, params: dict[str, Any], own_id: Any) -> dict[str, Any]:
    arrived: tuple[threading.Event, list[dict[str, Any]]] = (threading.Event(), [])
    _answers[own_id] = arrived
    send({"id": own_id, "method": method, "params": params})
    arrived[0].wait(300)
    return arrived[1][0]


def text(value: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


@dataclass
class Call:
    request_id: Any
    arguments: dict[str, Any]
    meta: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, otherwise: Any) -> Any:
        return self.arguments.get(name, otherwise)


Tool = Callable[[Call], "dict[str, Any] | None"]
TOOLS: dict[str, Tool] = {}
"""Each returns its result, or None when it will not be answered here."""


def tool(function: Tool) -> Tool:
    TOOLS[function.__name__] = function
    return function


@tool
def echo(call: Call) -> dict[str, Any]:
    return text(call["text"])


@tool
def sleep(call: Call) -> dict[str, Any]:
    """Until it is cancelled, that file is there, or the time is over; `mark` is a file that it makes when it begins."""
    if mark := call.get("mark", ""):
        open(mark, "w").close()  # noqa: PTH123 - starts sooner without pathlib
    end = time.monotonic() + call.get("seconds", 300)
    is_cancelled, until = _cancelled[call.request_id], call.get("until", "")
    while not (until and os.path.exists(until)) and (left := end - time.monotonic()) > 0:  # noqa: PTH110 - as above
        if is_cancelled.wait(min(left, 0.01) if until else left):
            return text("too late")  # an answer to a cancelled request: must be dropped
    return text(call.get("text", ""))


@tool
def cancelled(call: Call) -> dict[str, Any]:
    return text(_cancelled_ids)


@tool
def seen(call: Call) -> dict[str, Any]:
    return text(_seen)


@tool
def environ(call: Call) -> dict[str, Any]:
    return text(dict(os.environ))


@tool
def pid(call: Call) -> dict[str, Any]:
    return text(os.getpid())


@tool
def say(call: Call) -> dict[str, Any]:
    sys.stderr.write(call["words"])
    sys.stderr.flush()
    return text("said")


@tool
def hang(call: Call) -> None:
    return None


@tool
def huge(call: Call) -> dict[str, Any]:
    return text("x" * call["bytes"])


@tool
def many_blocks(call: Call) -> None:
    """An answer of `bytes` bytes, in blocks of a few words."""
    blocks = b",".join([b'{"type":"text","text":"a block of a few words"}'] * (call["bytes"] // 48))
    write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[%s]}}' % (call.request_id, blocks))


@tool
def many_objects(call: Call) -> None:
    """An answer of `bytes` bytes, in small objects of structured content."""
    rows = b",".join([b'{"id":12345,"name":"a name","tags":["a","b"],"size":1.5}'] * (call["bytes"] // 57))
    write(
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[],"structuredContent":{"rows":[%s]}}}' % (call.request_id, rows)
    )


@tool
def junk(call: Call) -> None:
    for line in (b"plain words", b"", b"\xff\xfe half a character \xc3", b'{"neither": "request nor answer"}', b"42"):
        write(line)
    answer = json.dumps({"jsonrpc": "2.0", "id": call.request_id, "result": text("héllo")}, ensure_ascii=False)
    data = answer.encode() + b"\r\n"
    cut = data.index("é".encode()) + 1  # in the middle of a character
    with _out:
        for part in (data[:cut], data[cut:]):
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            time.sleep(0.02)


@tool
def answer_raw(call: Call) -> None:
    """Write `line`, in which # stands for the id of this call."""
    write(call["line"].replace("#", str(call.request_id)).encode("latin-1"))


@tool
def half_surrogate(call: Call) -> None:
    result = rb'{"content":[{"type":"text","text":"\ud800"}]}'
    write(b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (call.request_id, result))


@tool
def die(call: Call) -> None:
    sys.stderr.write(call.get("words", ""))
    sys.stderr.flush()
    os._exit(call.get("status", 3))


@tool
def answer_and_die(call: Call) -> None:
    send({"id": call.request_id, "result": text("last answer")})
    os._exit(0)


@tool
def close_stdout(call: Call) -> None:
    os.close(1)


@tool
def progress(call: Call) -> dict[str, Any]:
    for step in range(call["steps"]):
        time.sleep(call.get("pause", 0.0))
        token = call.meta.get("progressToken")
        notify("notifications/progress", {"progressToken": token, "progress": step + 1, "total": 3})
    return text(f"{call['steps']} steps")


@tool
def ask(call: Call) -> dict[str, Any]:
    answer = ask_client(call["method"], call.get("params", {}), f"q{call.request_id}")
    return text(answer.get("result", answer.get("error")))


@tool
def log(call: Call) -> dict[str, Any]:
    notify("notifications/message", {"level": call.get("level", "info"), "data": call["data"]})
    return text("logged")


@tool
def tell(call: Call) -> dict[str, Any]:
    notify(call["method"], call.get("params", {}))
    return text("told")


@tool
def flood(call: Call) -> dict[str, Any]:
    for number in range(call["lines"]):
        notify("notifications/message", {"level": "info", "data": number})
    return text("flooded")


def serve_call(request_id: Any, params: dict[str, Any]) -> None:
    call = Call(request_id, params.get("arguments") or {}, params.get("_meta") or {})
    result = TOOLS[params["name"]](call)
    if result is not None:
        send({"id": request_id, "result": result})


CAPABILITIES = {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True}}


def answer(message: dict[str, Any]) -> None:
    request_id, method, params = message["id"], message["method"], message.get("params") or {}
    match method:
        case "server/discover" if "dies-on-discover" in OPTIONS:
            sys.stderr.write("unknown method server/discover\n")
            os._exit(1)
        case "server/discover" if "ignores-discover" in OPTIONS:
            return
        case _ if "never-answers" in OPTIONS:
            return
        case "initialize":
            result: dict[str, Any] = {
                "protocolVersion": "2025-06-18",
                "capabilities": CAPABILITIES,
                "serverInfo": {"name": "raw", "version": "1"},
            }
            send({"id": request_id, "result": result})
        case "tools/list":
            send(
                {
                    "id": request_id,
                    "result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]},
                }
            )
        case "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" | "ping":
            send({"id": request_id, "result": {}})
        case "tools/call":
            _cancelled[request_id] = threading.Event()
            if params["name"] == "stop_reading":
                threading.Event().wait()
            threading.Thread(target=serve_call, args=(request_id, params), daemon=True).start()
        case _:
            send({"id": request_id, "error": {"code": -32601, "message": f"unknown method {method}"}})


def main() -> None:
    if "dies-at-start" in OPTIONS:
        sys.stderr.write("Error: TOKEN is not set\n")
        sys.exit(7)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            arrived = _answers[message["id"]]
            arrived[1].append(message)
            arrived[0].set()
            continue
        _seen.append(
            f"{method} {json.dumps(message.get('params', {}).get('uri'))}" if "resources" in method else method
        )
        if "id" in message:
            answer(message)
        elif method == "notifications/cancelled":
            cancelled = message["params"]["requestId"]
            _cancelled_ids.append(cancelled)
            if cancelled in _cancelled:
                _cancelled[cancelled].set()


main()
