"""Matrix, over a real homeserver (Synapse)."""

from __future__ import annotations

import fcntl
import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chatting import PNG, ScriptedChats
from fake_clock import FakeClock
from peers.channel_runs import SECONDS, pass_time, running_channel, show_progress
from peers.real_server import accepts, free_port, real_server
from sexton.agent import Attachment
from sexton.gateway.channels.matrix import MatrixOptions
from sexton.gateway.deliveries import Part
from waiting import wait_until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]

SETTINGS = """\
server_name: example.org
listeners:
  - {{port: {port}, type: http, bind_addresses: ["127.0.0.1"], resources: [{{names: [client, media]}}]}}
database: {{name: sqlite3, args: {{database: {folder}/homeserver.db}}}}
pid_file: {folder}/pid
media_store_path: {folder}/media
signing_key_path: {folder}/signing.key
log_config: {folder}/log.yaml
enable_registration: true
enable_registration_without_verification: true
macaroon_secret_key: quiet
form_secret: quiet
report_stats: false
trusted_key_servers: []
rc_message: {{per_second: 1000, burst_count: 1000}}
rc_registration: {{per_second: 1000, burst_count: 1000}}
rc_joins: {{local: {{per_second: 1000, burst_count: 1000}}}}
rc_invites:
  per_room: {{per_second: 1000, burst_count: 1000}}
  per_user: {{per_second: 1000, burst_count: 1000}}
  per_issuer: {{per_second: 1000, burst_count: 1000}}
rc_login:
  address: {{per_second: 1000, burst_count: 1000}}
  account: {{per_second: 1000, burst_count: 1000}}
"""
LOGGING = "version: 1\ndisable_existing_loggers: false\nroot: {level: WARNING}\n"


@pytest.fixture(scope="module")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Synapse that runs while the module's tests do."""
    with (ROOT / ".venv" / "synapse.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", ".servers/synapse/.installed"], cwd=ROOT, check=True, timeout=600)
    folder, port = tmp_path_factory.mktemp("synapse"), free_port()
    (folder / "settings.yaml").write_text(SETTINGS.format(port=port, folder=folder))
    (folder / "log.yaml").write_text(LOGGING)
    synapse = [str(ROOT / ".servers/synapse/bin/python"), "-m", "synapse.app.homeserver", "-c", "settings.yaml"]
    subprocess.run([*synapse, "--generate-keys"], cwd=folder, check=True, timeout=120, capture_output=True)
    with real_server(synapse, folder=folder, is_up=lambda: accepts(port)):
        yield f"http://127.0.0.1:{port}"


@dataclass
class Member:
    """Somebody with an account, by the client-server API itself."""

    http: httpx2.AsyncClient
    id: str
    heard: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    since: str | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self.http.request(method, f"/_matrix/client/v3/{path}", json=body or {})
        assert answer.is_success, answer.text
        return answer.json()

    async def room(self, *invited: str, direct: bool = True) -> str:
        body = {"preset": "private_chat", "invite": list(invited), "is_direct": direct}
        return str((await self.ask("POST", "createRoom", body))["room_id"])

    async def say(self, room: str, text: str, **content: Any) -> str:
        body = {"msgtype": "m.text", "body": text, **content}
        path = f"rooms/{room}/send/m.room.message/{next(self.numbers)}"
        return str((await self.ask("PUT", path, body))["event_id"])

    async def listen(self) -> None:
        after = f"&since={self.since}" if self.since else ""
        answer = await self.ask("GET", f"sync?timeout=0{after}")
        self.since = answer["next_batch"]
        for room in answer.get("rooms", {}).get("invite", {}):
            await self.ask("POST", f"join/{room}")
        for room, news in answer.get("rooms", {}).get("join", {}).items():
            events = [event for event in news["timeline"]["events"] if event["type"] == "m.room.message"]
            self.heard.setdefault(room, []).extend(event for event in events if event["sender"] != self.id)

    def texts(self, room: str) -> list[str]:
        return [event["content"]["body"] for event in self.heard.get(room, [])]

    async def hear(self, room: str, text: str) -> None:
        """Wait until that was said in the room by somebody else."""

        async def has_come() -> bool:
            await self.listen()
            return text in self.texts(room)

        await wait_until(has_come, seconds=SECONDS)

    async def wait_member(self, room: str, who: str) -> None:
        async def is_there() -> bool:
            return who in (await self.ask("GET", f"rooms/{room}/joined_members"))["joined"]

        await wait_until(is_there, seconds=SECONDS)


_names = itertools.count()


async def register(homeserver: str, name: str) -> Member:
    """A new account; its name is made unique."""
    unique = f"{name}{next(_names)}"
    http = httpx2.AsyncClient(base_url=homeserver, timeout=SECONDS)
    body = {"username": unique, "password": "secret", "auth": {"type": "m.login.dummy"}}
    answer = await http.post("/_matrix/client/v3/register", json=body)
    assert answer.is_success, answer.text
    http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    return Member(http, answer.json()["user_id"])


@pytest.fixture
async def ada(homeserver: str) -> AsyncIterator[Member]:
    member = await register(homeserver, "ada")
    yield member
    await member.http.aclose()


@pytest.fixture
async def options(homeserver: str) -> MatrixOptions:
    ours = await register(homeserver, "sexton")
    await ours.http.aclose()
    return MatrixOptions(server=homeserver, user=ours.id, password="secret")


async def test_a_message_is_answered(tmp_path: Path, ada: Member, options: MatrixOptions) -> None:
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,)) as bench:
        room = await ada.room(options.user)
        await ada.wait_member(room, options.user)
        await ada.say(room, "hello")
        await ada.hear(room, "you said hello")
        (answer,) = ada.heard[room]
        assert answer["content"]["msgtype"] == "m.text"
        root = await ada.say(
            room, "and this?", **{"m.relates_to": {"rel_type": "m.thread", "event_id": answer["event_id"]}}
        )
        await ada.hear(room, "you said and this?")
        threaded = ada.heard[room][-1]["content"]["m.relates_to"]
        assert threaded == {"rel_type": "m.thread", "event_id": answer["event_id"]}
        assert root
        assert len(set(bench.chats.places.values())) == 2


async def test_a_long_turn_is_shown_in_one_message_that_is_changed(
    tmp_path: Path, ada: Member, options: MatrixOptions
) -> None:
    chats, clock = ScriptedChats(echo=False), FakeClock()
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,), chats=chats, clock=clock) as bench:
        room = await ada.room(options.user)
        await ada.wait_member(room, options.user)
        await ada.say(room, "hello")

        async def says(text: str) -> bool:
            await ada.listen()
            return any(text in one for one in ada.texts(room))

        await show_progress(bench, clock, f"matrix:{room}", lambda: says("Working: "), lambda: says("`notes.search`"))
        chats.turns[0].end("done")
        await pass_time(bench, clock, lambda: says("Worked for "))
        first, *changes = [event for event in ada.heard[room] if event["content"]["body"] != "done"]
        assert first["content"]["msgtype"] == "m.notice"
        relation = {"rel_type": "m.replace", "event_id": first["event_id"]}
        assert [event["content"]["m.relates_to"] for event in changes] == [relation] * len(changes)
        shown = (await ada.ask("GET", f"rooms/{room}/event/{first['event_id']}"))["unsigned"]["m.relations"]
        assert shown["m.replace"]["content"]["m.new_content"]["body"].startswith("Worked for ")
        assert await bench.inbox.progress.left("matrix") == ()


async def test_what_was_said_while_we_were_down_is_answered_and_nothing_twice(
    tmp_path: Path, ada: Member, options: MatrixOptions
) -> None:
    chats = ScriptedChats()
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,), chats=chats):
        room = await ada.room(options.user)
        await ada.wait_member(room, options.user)
        await ada.say(room, "first")
        await ada.hear(room, "you said first")
    for number in range(30):  # More than one sync tells.
        await ada.say(room, f"missed {number}")
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,), chats=chats) as bench:
        await bench.wait_sent("you said missed 29")
    assert chats.said == ["first", *(f"missed {number}" for number in range(30))]


async def test_a_repeat_with_the_same_key_arrives_once(tmp_path: Path, ada: Member, options: MatrixOptions) -> None:
    """As after a crash between the homeserver's answer and our note of it."""
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,)) as bench:
        room = await ada.room(options.user)
        await ada.wait_member(room, options.user)
        target = bench.deliveries.targets["matrix"]
        first, again = [await target.send(Part(key="k", to=room, text="once")) for _ in range(2)]
        assert first == again
        await bench.deliveries.send(f"matrix:{room}", "after", key="after")
        await ada.hear(room, "after")
        assert ada.texts(room) == ["once", "after"]


async def test_in_a_room_only_what_is_said_to_us_is_answered_and_strangers_never(
    tmp_path: Path, homeserver: str, ada: Member, options: MatrixOptions
) -> None:
    eve = await register(homeserver, "eve")
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,)) as bench:
        room = await ada.room(options.user, eve.id, direct=False)
        await ada.wait_member(room, options.user)
        await eve.listen()
        mention = {"m.mentions": {"user_ids": [options.user]}}
        await eve.say(room, "do something", **mention)
        await ada.say(room, "just talking", **{"m.mentions": {}})
        await ada.say(room, "are you there?", **mention)
        await ada.hear(room, "you said are you there?")
        assert bench.chats.said == ["are you there?"]
        elsewhere = await eve.room(options.user)
        await eve.wait_member(elsewhere, options.user)
        await eve.say(elsewhere, "let me in")
        await bench.wait_sent("I talk only to people")
        assert bench.chats.said == ["are you there?"]
    await eve.http.aclose()


async def test_outputs_go_to_rooms_and_people_and_big_ones_as_files(
    tmp_path: Path, ada: Member, options: MatrixOptions
) -> None:
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,)) as bench:
        await bench.deliveries.send(f"matrix:{ada.id}", "word " * 100_000, key="k", title="backup ran")
        await bench.wait_sent("word")

        async def has_file() -> bool:
            await ada.listen()
            return any(event["content"]["msgtype"] == "m.file" for events in ada.heard.values() for event in events)

        await wait_until(has_file, seconds=SECONDS)
        (events,) = ada.heard.values()
        assert events[0]["content"]["info"]["size"] == 500_000
        assert events[1]["content"]["body"].startswith("backup ran\n\nword")
        await bench.deliveries.send("matrix:!nowhere:example.org", "hello", key="k2")
        await bench.wait(lambda: bench.has("delivery.failed"))


async def test_pictures_and_files_go_both_ways(tmp_path: Path, ada: Member, options: MatrixOptions) -> None:
    chats = ScriptedChats(made={"t1": [Attachment("image/png", PNG)]})
    async with running_channel(tmp_path, "matrix", options, allow=(ada.id,), chats=chats) as bench:
        room = await ada.room(options.user)
        await ada.wait_member(room, options.user)
        sent = await ada.http.post(
            "/_matrix/media/v3/upload?filename=cat.png", content=PNG, headers={"content-type": "image/png"}
        )
        info = {"mimetype": "image/png", "size": len(PNG)}
        content = {"msgtype": "m.image", "body": "what is it?", "filename": "cat.png", "info": info}
        content["url"] = sent.json()["content_uri"]
        await ada.ask("PUT", f"rooms/{room}/send/m.room.message/1", content)
        await bench.wait_sent("you said what is it?")
        (said,) = chats.given
        assert [(one.name, one.data) for one in said.pictures] == [("cat.png", PNG)]
        await ada.hear(room, "picture-1.png")
        assert ada.heard[room][-1]["content"]["msgtype"] == "m.image"


async def test_a_wrong_password_is_told(tmp_path: Path, options: MatrixOptions) -> None:
    wrong = options.model_copy(update={"password": "wr0ng"})
    async with running_channel(tmp_path, "matrix", wrong, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert "refused the login" in str(status.error)
        assert "wr0ng" not in repr(wrong)
