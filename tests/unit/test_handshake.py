"""Which era a server is taken to be of, whatever it answers."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest
from mcp import ClientSession, MCPError
from mcp_types import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION

from sexton.mcp_servers import handshake
from sexton.mcp_servers.handshake import shake_hands
from waiting import PATIENCE

pytestmark = pytest.mark.anyio

UNKNOWN = MCPError(METHOD_NOT_FOUND, "unknown method")
SILENCE = None
MODERN = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete", "ttlMs": 0}
OLD_ONLY = {**MODERN, "supportedVersions": ["2025-11-25"]}
WORDS = {"hello": "world"}


def offers(*versions: str) -> MCPError:
    data = {"supported": list(versions), "requested": "x"}
    return MCPError(UNSUPPORTED_PROTOCOL_VERSION, "unsupported", data)


class FakeSession:
    """Answers from two lists; tells which era was adopted."""

    def __init__(self, discover: list[Any], initialize: list[Any]) -> None:
        self.discover_answers, self.initialize_answers = discover, initialize
        self.asked: list[str] = []
        self.era = ""

    async def send_discover(self, version: str) -> dict[str, Any]:
        self.asked.append(version)
        answer = self.discover_answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await anyio.sleep_forever()
        return cast("dict[str, Any]", answer)

    async def initialize(self) -> None:
        answer = self.initialize_answers.pop(0)
        if answer is not None:
            raise answer
        self.era = "old"

    def adopt(self, result: Any) -> None:
        self.era = "new"


@pytest.mark.parametrize(
    ("discover", "initialize", "era"),
    [
        ([MODERN], [], "new"),
        ([UNKNOWN], [None], "old"),
        ([OLD_ONLY], [None], "old"),
        ([WORDS], [None], "old"),
        ([SILENCE], [None], "old"),
        ([offers("2026-07-28"), MODERN], [], "new"),
        ([offers("2025-11-25")], [None], "old"),
        ([offers()], [None], "old"),
        ([SILENCE, MODERN], [offers("2026-07-28")], "new"),  # a slow start
        ([SILENCE, MODERN], [UNKNOWN], "new"),  # a slow start of a server that knows the new era only
        ([offers("2026-07-28"), UNKNOWN], [None], "old"),
    ],
)
async def test_what_a_server_answers_settles_its_era(
    monkeypatch: pytest.MonkeyPatch, discover: list[Any], initialize: list[Any], era: str
) -> None:
    monkeypatch.setattr(handshake, "PROBE_PATIENCE", 0.02)
    session = FakeSession(list(discover), list(initialize))
    with anyio.fail_after(PATIENCE):
        await shake_hands(cast("ClientSession", session), "auto")
    assert session.era == era
    assert session.discover_answers == session.initialize_answers == []


@pytest.mark.parametrize(
    ("discover", "initialize"),
    [
        ([offers("2099-01-01")], []),
        ([UNKNOWN], [UNKNOWN]),
        ([SILENCE, SILENCE], [UNKNOWN, UNKNOWN]),
        ([offers("2026-07-28"), offers("2026-07-28")], []),
    ],
)
async def test_a_server_that_nobody_can_talk_to_is_refused_and_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch, discover: list[Any], initialize: list[Any]
) -> None:
    monkeypatch.setattr(handshake, "PROBE_PATIENCE", 0.02)
    session = FakeSession(list(discover), list(initialize))
    with anyio.fail_after(PATIENCE), pytest.raises(MCPError):
        await shake_hands(cast("ClientSession", session), "auto")
