"""A model's server in the way of OpenAI's chat completions that costs next to nothing: what is measured asks it.

The last message of the user says what it does, as JSON: `{"calls": 3}` makes three calls of the tool whose name ends
in `echo`, one after the other, and then answers; with `"holds": true` it begins its answer and says no more. It
always streams, as it is asked to. Prints its port, and serves until its stdin ends.
"""

import asyncio
import json
import sys
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            answer, holds = stream(json.loads(await reader.readexactly(length)))
            writer.write(HEAD + b"%x\r\n%b\r\n" % (len(answer), answer) + (b"" if holds else b"0\r\n\r\n"))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def stream(body: dict[str, Any]) -> tuple[bytes, bool]:
    """The events of one answer, and whether it goes on for ever."""
    messages = body["messages"]
    start = max(place for place, message in enumerate(messages) if message["role"] == "user")
    asked = json.loads(messages[start]["content"])
    made = sum(message["role"] == "tool" for message in messages[start:])
    if made < asked["calls"]:
        name = next(tool["function"]["name"] for tool in body["tools"] if tool["function"]["name"].endswith("echo"))
        function = {"name": name, "arguments": '{"text": "hello"}'}
        call = {"index": 0, "id": f"call_{len(messages)}", "type": "function", "function": function}
        return b"".join([delta({"tool_calls": [call]}), *end("tool_calls")]), False
    if asked.get("holds"):
        return delta({"content": "Now "}), True
    return b"".join([*(delta({"content": word}) for word in ("That ", "is ", "all.")), *end("stop")]), False


def delta(said: dict[str, Any], reason: str | None = None) -> bytes:
    """One event of the stream."""
    return event({"choices": [{"index": 0, "delta": {"role": "assistant", **said}, "finish_reason": reason}]})


def end(reason: str) -> list[bytes]:
    """How each answer ends."""
    return [delta({}, reason), event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return f"data: {json.dumps({**head, **document})}\n\n".encode()


async def main() -> None:
    """Serve until end of file."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096, limit=2**24)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
