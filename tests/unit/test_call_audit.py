"""What the journal tells of calls through the MCP endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import MCPError

from fake_clock import FakeClock
from sexton.gateway.mcp_endpoint import call_audit
from sexton.gateway.mcp_endpoint.call_audit import TOGETHER, CallAudit
from sexton.journal import Journal

pytestmark = pytest.mark.anyio


async def answer(**result: Any) -> dict[str, Any]:
    return result


async def refusal() -> dict[str, Any]:
    raise MCPError(-32602, "no")


@pytest.fixture
def journal() -> Journal:
    return Journal.open(None)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def audit(journal: Journal, clock: FakeClock) -> CallAudit:
    return CallAudit(journal, clock=clock, changes=lambda server, tool: tool != "look")


def told(journal: Journal) -> list[tuple[Any, ...]]:
    return [
        (event.subject, event.data["caller"], event.data["outcome"], event.data["times"]) for event in journal.since(0)
    ]


async def call(audit: CallAudit, caller: str = "ada", tool: str = "write", **result: Any) -> None:
    params = {"name": tool, "arguments": {"text": "a secret"}}
    await audit.of(caller, "files", "tools/call", params, answer(**result))


async def test_each_kind_of_call_is_told_once_at_once(audit: CallAudit, journal: Journal) -> None:
    await call(audit)
    await call(audit, caller="bob")
    await call(audit, isError=True)
    await call(audit, resultType="input_required")
    with pytest.raises(MCPError):
        await audit.of("ada", "files", "tools/call", {"name": "delete"}, refusal())
    assert told(journal) == [
        ("files.write", "ada", "done", 1),
        ("files.write", "bob", "done", 1),
        ("files.write", "ada", "failed", 1),
        ("files.write", "ada", "asked", 1),
        ("files.delete", "ada", "failed", 1),
    ]
    assert {event.kind for event in journal.since(0)} == {"audit.call_tool"}
    assert "a secret" not in str([event.as_json() for event in journal.since(0)])


async def test_what_changes_nothing_is_not_told(audit: CallAudit, journal: Journal) -> None:
    await call(audit, tool="look")
    await call(audit, tool="look")
    await audit.of("ada", "files", "prompts/get", {"name": "write"}, answer())
    audit.tell_all()
    assert told(journal) == []


async def test_the_calls_of_a_minute_are_counted(audit: CallAudit, journal: Journal, clock: FakeClock) -> None:
    for _ in range(5):
        await call(audit)
    await clock.advance(TOGETHER - 1)
    audit.tell_due()
    assert told(journal) == [("files.write", "ada", "done", 1)]
    await clock.advance(1)
    audit.tell_due()
    assert told(journal)[1:] == [("files.write", "ada", "done", 4)]
    await call(audit)
    audit.tell_all()
    assert told(journal)[2:] == [("files.write", "ada", "done", 1)]


async def test_no_call_is_lost_when_there_are_many_kinds(
    audit: CallAudit, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_audit, "MOST_KINDS", 10)
    for _ in range(2):
        await call(audit)
    for number in range(10):
        await call(audit, tool=f"tool-{number}")
    assert sum(times for subject, _, _, times in told(journal) if subject == "files.write") == 2
    assert len(audit._more) <= 10


async def test_it_can_be_switched_off(audit: CallAudit, journal: Journal) -> None:
    audit.is_on = False
    await call(audit)
    assert told(journal) == []
