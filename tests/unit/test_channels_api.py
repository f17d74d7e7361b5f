"""Channels over the API and by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatting import RULES, FakeChannel, ScriptedChats, message
from cli_bench import Served, serving
from gateway_bench import GatewayBench
from sexton.cli.main import run
from sexton.gateway.channels import ChannelOptions, Channels, ChannelSetup, Inbox


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("SEXTON_DATA", str(tmp_path))
    monkeypatch.delenv("SEXTON_CONFIG", raising=False)
    with serving(tmp_path) as served:
        served.portal.call(_add_channel, served.bench)
        yield served


async def _add_channel(bench: GatewayBench) -> None:
    """A channel to which two strangers wrote."""
    gateway, inbox = bench.gateway, Inbox(bench.scheduling.database)
    channels = Channels(
        inbox,
        ScriptedChats(),
        gateway.deliveries,
        say_as=lambda said: said.text,
        clock=bench.clock,
        journal=gateway.journal,
    )
    channels.add(ChannelSetup(name="chat", kind="fake", options=ChannelOptions(), rules=RULES), FakeChannel())
    object.__setattr__(gateway, "channels", channels)
    strangers = [message("hi", key=who, sender=who, chat=who) for who in ("eve", "bob")]
    await inbox.take("chat", strangers, cursor=None, rules=RULES, now=bench.clock.now())


def test_by_the_command_line(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def sexton(*arguments: str) -> str:
        assert run(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert [line.split() for line in sexton("channels").splitlines()] == [
        ["CHANNEL", "TYPE", "STATE", "PEOPLE"],
        ["chat", "fake", "connecting", "1"],
    ]
    people = {one["id"]: one for one in json.loads(sexton("channels", "people", "chat", "--json"))}
    assert {one["standing"] for one in people.values()} == {"waiting"}
    assert sexton("channels", "approve", "chat", people["eve"]["code"]) == "Eve (eve) may talk to chat.\n"
    assert sexton("channels", "refuse", "chat", "bob") == "Bob (bob) gets no answer from chat.\n"
    assert "allowed" in sexton("channels", "people", "chat")
    assert sexton("channels", "forget", "chat", "bob") == "Nothing is known of bob any more.\n"
    assert [one["id"] for one in json.loads(sexton("channels", "people", "chat", "--json"))] == ["eve"]
    assert "lets in whoever first sends it to chat" in sexton("channels", "pair", "chat")
    assert run(["channels", "people", "chta"]) == 2
    assert "did you mean 'chat'?" in capsys.readouterr().err
    assert run(["channels", "approve", "chat", "AAAA-AAAA"]) == 2
    assert run(["channels", "forget", "chat", "nobody"]) == 2
