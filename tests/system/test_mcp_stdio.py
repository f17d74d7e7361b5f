"""`sexton mcp` as an editor starts it: attached to a running gateway, and gone with its client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from system.api_client import holders
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE, wait_until

SETTINGS = """
[servers.small]
@SERVER@

[servers.other]
@SERVER@

[profiles.few]
servers = ["small"]
allow = ["small__echo", "small__pid"]
"""
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


class Bridge:
    """`sexton mcp` and the lines that it answers."""

    def __init__(self, gateway: GatewayProcess, *options: str) -> None:
        self.process = subprocess.Popen(
            gateway.command("mcp", *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def say(self, method: str, params: Any = None, request_id: int | None = None) -> None:
        assert self.process.stdin is not None
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        self.process.stdin.write(json.dumps({**message, "id": request_id} if request_id else message) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: Any = None, request_id: int = 1) -> dict[str, Any]:
        self.say(method, params, request_id)
        return self.read(request_id)

    def read(self, request_id: int) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message: dict[str, Any] = json.loads(line)
            if message.get("id") == request_id:
                return message
        raise AssertionError(
            f"ended with {self.process.wait(PATIENCE)}: {self.process.stderr and self.process.stderr.read()}"
        )

    def greet(self) -> None:
        assert "result" in self.ask("initialize", HELLO)
        self.say("notifications/initialized")

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_clients_that_start_a_program_share_the_servers_of_the_gateway(
    gateway: GatewayProcess, mode: str
) -> None:
    gateway.write(SETTINGS).up()

    def program(*options: str) -> StdioServerParameters:
        command, *arguments = gateway.command("mcp", *options)
        return StdioServerParameters(command=command, args=arguments)

    async with Client(program(), mode=mode) as first, Client(program("--server", "small"), mode=mode) as second:
        assert "small__echo" in [tool.name for tool in (await first.list_tools()).tools]
        assert "echo" in [tool.name for tool in (await second.list_tools()).tools]
        pids = {
            text_of(await first.call_tool("small__pid", {})),
            text_of(await second.call_tool("pid", {})),
        }
        assert len(pids) == 1
        async with Client(program("--profile", "few"), mode=mode) as third:
            assert {tool.name for tool in (await third.list_tools()).tools} == {"small__echo", "small__pid"}
            assert text_of(await third.call_tool("small__echo", {"text": "a\u2028b"})) == "a\u2028b"
    gateway.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_questions_and_progress_come_through(gateway: GatewayProcess, mode: str) -> None:
    server = json.dumps([str(Path(__file__).parents[1] / "process" / "stdio_servers" / "raw_server.py")])
    gateway.write(f"[servers.raw]\ncommand = {json.dumps(sys.executable)}\nargs = {server}\n").up()
    command, *arguments = gateway.command("mcp")
    steps: list[float] = []

    async def elicited(context: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"said": params.message})

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    program = StdioServerParameters(command=command, args=arguments)
    async with Client(program, mode=mode, elicitation_callback=elicited) as client:
        question = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
        asked = {"method": "elicitation/create", "params": question}
        answer = json.loads(text_of(await client.call_tool("raw__ask", asked)))
        assert answer == {"action": "accept", "content": {"said": "who?"}}
        await client.call_tool("raw__progress", {"steps": 2}, progress_callback=progress)
        assert steps == [1, 2]
        mark = gateway.folder / "asleep"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "raw__sleep", {"mark": str(mark)})
            await wait_until(mark.exists)
            tasks.cancel_scope.cancel()
        while not json.loads(text_of(await client.call_tool("raw__cancelled", {}))):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    gateway.stop()


def test_without_a_gateway_it_says_so(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS)
    bridge = Bridge(gateway)
    _, said = bridge.process.communicate(timeout=PATIENCE)
    assert bridge.process.returncode == 1
    assert "No gateway is running" in said
    assert "sexton up" in said


def test_a_server_that_there_is_not_is_told_at_once(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    bridge = Bridge(gateway, "--server", "smal")
    _, said = bridge.process.communicate(timeout=PATIENCE)
    assert bridge.process.returncode == 2
    assert "error: There is no server 'smal'; did you mean 'small'?\nNext: " in said
    gateway.stop()


def test_it_ends_with_its_input_and_its_calls_end_with_it(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    bridge = Bridge(gateway)
    bridge.greet()
    bridge.say("tools/call", {"name": "small__slow", "arguments": {"seconds": 60}}, 2)
    wait_for(lambda: holders(gateway), within=PATIENCE, what="the call has begun")
    assert bridge.end() == 0
    wait_for(lambda: not holders(gateway), within=PATIENCE, what="the server is given back")
    gateway.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_by_a_signal_and_its_calls_end_with_it(gateway: GatewayProcess, number: signal.Signals) -> None:
    gateway.write(SETTINGS).up()
    bridge = Bridge(gateway)
    bridge.greet()
    bridge.say("tools/call", {"name": "small__slow", "arguments": {"seconds": 60}}, 2)
    wait_for(lambda: holders(gateway), within=PATIENCE, what="the call has begun")
    bridge.process.send_signal(number)
    assert bridge.end() == (0 if number == signal.SIGTERM else -number)
    wait_for(lambda: not holders(gateway), within=PATIENCE, what="the server is given back")
    gateway.stop()


def test_a_client_goes_on_with_a_gateway_that_was_started_anew(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    bridge = Bridge(gateway)
    bridge.greet()
    before = bridge.ask("tools/call", {"name": "small__pid"}, 2)["result"]["content"][0]["text"]
    bridge.say("tools/call", {"name": "small__slow", "arguments": {"seconds": 60}}, 3)
    wait_for(lambda: holders(gateway), within=PATIENCE, what="the call has begun")
    gateway.send(signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)
    assert "went away during the call" in bridge.read(3)["error"]["message"]
    gateway.up()
    after = bridge.ask("tools/call", {"name": "small__pid"}, 4)["result"]["content"][0]["text"]
    assert before != after
    assert bridge.end() == 0
    gateway.stop()


def test_it_loads_nothing_heavy(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    probe = (
        "import sys; from sexton.cli.main import run; status = run(sys.argv[1:]);"
        "print([name for name in ('mcp', 'mcp_types', 'pydantic', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    command = gateway.command("mcp")
    done = subprocess.run(
        [sys.executable, "-c", probe, *command[3:]],
        input="",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    gateway.stop()
