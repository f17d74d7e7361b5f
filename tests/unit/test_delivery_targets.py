"""Webhooks, files and Apprise, each against what it really talks to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from http_peer import HttpPeer, http_peer
from sexton.clock import SystemClock
from sexton.errors import UsageError
from sexton.gateway.deliveries import (
    AppriseConfig,
    AppriseTarget,
    FileConfig,
    FileTarget,
    Part,
    SendDelayed,
    SendFailed,
    WebhookConfig,
    WebhookTarget,
)
from sexton.gateway.deliveries.answers import seconds_of

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PART = Part(
    key="run:0199:hook",
    to=None,
    title="brief ran",
    text="all is wéll",
    job="brief",
    run="0199",
    created_at="2026-11-01T12:00:00+00:00",
    facts={"state": "ran"},
)


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with http_peer() as peer:
        yield peer


@pytest.fixture
async def hook(peer: HttpPeer) -> AsyncIterator[WebhookTarget]:
    config = WebhookConfig(url=f"{peer.url}/in?x=1", secret=SECRET, headers={"x-room": "7"})
    target = WebhookTarget(config, clock=SystemClock())
    yield target
    await target.aclose()


# Webhooks


async def test_a_webhook_is_signed_as_the_specification_has_it(hook: WebhookTarget, peer: HttpPeer) -> None:
    await hook.send(PART)
    (got,) = peer.received
    document = Webhook(SECRET).verify(got.body, dict(got.headers))
    assert document == {
        "type": "run.ended",
        "timestamp": "2026-11-01T12:00:00+00:00",
        "data": {"title": "brief ran", "text": "all is wéll", "job": "brief", "run": "0199", "state": "ran"},
    }
    assert (got.path, got.headers["x-room"], got.headers["webhook-id"]) == ("/in?x=1", "7", "run:0199:hook")
    assert got.headers["content-type"] == "application/json"


async def test_a_repeat_has_the_same_id(hook: WebhookTarget, peer: HttpPeer) -> None:
    await hook.send(PART)
    await hook.send(PART)
    assert len({got.headers["webhook-id"] for got in peer.received}) == 1


async def test_it_can_be_plain_text(peer: HttpPeer) -> None:
    target = WebhookTarget(WebhookConfig(url=peer.url, body="text"), clock=SystemClock())
    await target.send(PART)
    await target.aclose()
    assert peer.received[0].body.decode() == "brief ran\n\nall is wéll"
    assert "webhook-signature" not in peer.received[0].headers


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 500, 503])
async def test_what_time_can_mend_is_tried_again(hook: WebhookTarget, peer: HttpPeer, status: int) -> None:
    peer.answers = [(status, {"retry-after": "17"}, "come  back\nlater")]
    with pytest.raises(SendDelayed, match=f"answered with status {status}: come back later") as caught:
        await hook.send(PART)
    assert caught.value.after == 17.0


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
async def test_a_judgement_of_the_message_is_final(hook: WebhookTarget, peer: HttpPeer, status: int) -> None:
    peer.answers = [(status, {}, "")]
    with pytest.raises(SendFailed):
        await hook.send(PART)


async def test_an_address_that_nobody_serves_is_tried_again_and_never_shown() -> None:
    config = WebhookConfig(url="http://127.0.0.1:1/secret", secret="quiet")
    target = WebhookTarget(config, clock=SystemClock())
    with pytest.raises(SendDelayed) as caught:
        await target.send(PART)
    await target.aclose()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(config)
    assert "quiet" not in repr(config)


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    later = format_datetime(datetime(2026, 11, 1, 12, 2, tzinfo=UTC), usegmt=True)
    said = [None, "", "30", "1.5", later, "-4", "soon", "nan", "99999999"]
    assert [seconds_of(one, now=now) for one in said] == [None, None, 30.0, 1.5, 120.0, 0.0, None, None, 86_400.0]


# Files


def file_target(path: Path, *, max_bytes: int = 1 << 20, older: int = 4) -> FileTarget:
    return FileTarget(FileConfig(path=path, max_bytes=max_bytes, older=older))


async def test_a_file_gets_each_delivery_once(tmp_path: Path) -> None:
    path = tmp_path / "out" / "brief.txt"
    for _ in range(2):
        await file_target(path).send(PART)
    assert path.read_text() == ("--- 2026-11-01T12:00:00+00:00 brief ran\nall is wéll\n--- end of run:0199:hook\n")
    assert path.stat().st_mode & 0o777 == 0o600


async def test_or_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    target = FileTarget(FileConfig(path=path, form="jsonl"))
    for _ in range(2):
        await target.send(PART)
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["key"] == "run:0199:hook"
    assert json.loads(line)["state"] == "ran"


async def test_half_a_delivery_of_a_crash_is_ended_and_the_whole_follows(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("--- 2026-11-01T12:00:00+00:00 brief ran\nall is")
    await file_target(path).send(PART)
    assert path.read_text().splitlines()[1:4] == ["all is", "--- 2026-11-01T12:00:00+00:00 brief ran", "all is wéll"]


async def test_a_full_file_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    target = file_target(path, max_bytes=100, older=2)
    for number in range(4):
        await target.send(Part(key=f"k{number}", to=None, text="x" * 40))
    kept = {file.name: file.read_text().count("--- end of") for file in tmp_path.iterdir()}
    assert kept == {"out.txt": 1, "out.txt.1": 1, "out.txt.2": 1}
    assert "k3" in path.read_text()


async def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SendDelayed, match="cannot be written"):
        await file_target(tmp_path / "file" / "out.txt").send(PART)


# Apprise


async def test_apprise_reaches_a_service(peer: HttpPeer) -> None:
    target = AppriseTarget(AppriseConfig(url=peer.url.replace("http", "json")))
    await target.send(PART)
    assert json.loads(peer.received[0].body) | {"title": "brief ran", "message": "all is wéll"} == json.loads(
        peer.received[0].body
    )


async def test_what_apprise_could_not_send_is_tried_again_in_its_words(peer: HttpPeer) -> None:
    peer.status = 500
    target = AppriseTarget(AppriseConfig(url=peer.url.replace("http", "json")))
    with pytest.raises(SendDelayed) as caught:
        await target.send(PART)
    assert "500" in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_an_address_that_apprise_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="does not know"):
        AppriseTarget(AppriseConfig(url="nonsense://x"))
