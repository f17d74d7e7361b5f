"""Pulling a model's file, from a server on loopback that misbehaves."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sexton.cli.main import run
from sexton.local_models import MODEL_FILES, ModelFile, PullFailed, list_files, model_files, pull_model, pulled_path
from sexton.local_models import pull as pulling
from small_disk import small_disk

CONTENT = bytes(range(256)) * 12_000  # 3 MB, so that it comes in several pieces


@dataclass
class Place:
    """A server that has the file.  `cuts` are the bytes after which its next answers break off."""

    url: str = ""
    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    status: int | None = None
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", "/file")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            made.ranges.append(self.headers.get("range"))
            answer(made, self)

        def log_message(self, *_said: object) -> None:
            """Nothing: the test sees what was asked."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(30)


def answer(place: Place, request: BaseHTTPRequestHandler) -> None:
    asked = request.headers.get("range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and place.knows_ranges else 0
    body = place.content[start:]
    status = place.status or (206 if asked and place.knows_ranges else 200)
    request.send_response(status)
    if status == 206:
        request.send_header("content-range", f"bytes {start}-{len(place.content) - 1}/{len(place.content)}")
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    cut = place.cuts.pop(0) if place.cuts else None
    request.wfile.write(body[:cut])
    request.close_connection = True


def the_file(place: Place, **changes: Any) -> ModelFile:
    made = ModelFile(
        name="tiny",
        url=place.url,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
        about="a test",
    )
    return replace(made, **changes)


def pulled(place: Place, data: Path, **changes: Any) -> Path:
    return pull_model(the_file(place, **changes), data, pause=lambda _: None)


def left(data: Path) -> list[str]:
    folder = data / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_pulled_file_is_whole_and_private_and_is_not_fetched_again(tmp_path: Path, place: Place) -> None:
    told: list[tuple[int, int]] = []
    path = pull_model(the_file(place), tmp_path / "data", tell=lambda have, whole: told.append((have, whole)))
    assert path == pulled_path(tmp_path / "data", "tiny")
    assert path.read_bytes() == CONTENT
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    pulled(place, tmp_path / "data")
    assert place.ranges == [None]
    assert left(tmp_path / "data") == ["tiny.gguf"]


def test_a_pull_that_breaks_off_goes_on_where_it_was(tmp_path: Path, place: Place) -> None:
    place.cuts = [1_000_000, 500_000]
    assert pulled(place, tmp_path).read_bytes() == CONTENT
    assert place.ranges[0] is None
    starts = [int(str(asked).removeprefix("bytes=").removesuffix("-")) for asked in place.ranges[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] <= 1_000_000
    assert starts[0] < starts[1] <= starts[0] + 500_000


def test_a_pull_that_gave_up_is_resumed_by_the_next(tmp_path: Path, place: Place) -> None:
    place.cuts = [1_000_000] + [0] * (pulling.ATTEMPTS - 1)
    with pytest.raises(PullFailed, match="of 3072000 bytes are here"):
        pulled(place, tmp_path)
    assert left(tmp_path) == ["tiny.gguf.part"]
    place.ranges.clear()
    assert pulled(place, tmp_path).read_bytes() == CONTENT
    assert len(place.ranges) == 1
    assert place.ranges[0] is not None


def test_a_server_that_knows_no_ranges_is_asked_for_all_again(tmp_path: Path, place: Place) -> None:
    place.knows_ranges, place.cuts = False, [1_000_000]
    assert pulled(place, tmp_path).read_bytes() == CONTENT


def test_a_redirect_is_followed(tmp_path: Path, place: Place) -> None:
    place.cuts = [1_000_000]
    moved = place.url.replace("/file", "/moved")
    path = pull_model(the_file(place), tmp_path, url=moved, pause=lambda _: None)
    assert path.read_bytes() == CONTENT


def test_a_file_with_a_wrong_sum_leaves_nothing(tmp_path: Path, place: Place) -> None:
    place.content = CONTENT[:-1] + b"!"
    with pytest.raises(PullFailed, match="its SHA-256 is"):
        pulled(place, tmp_path)
    assert left(tmp_path) == []


def test_a_file_that_is_longer_leaves_nothing(tmp_path: Path, place: Place) -> None:
    place.content = CONTENT + b"more"
    with pytest.raises(PullFailed, match="longer"):
        pulled(place, tmp_path)
    assert left(tmp_path) == []


def test_what_was_left_of_another_file_does_not_survive_its_sum(tmp_path: Path, place: Place) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf.part").write_bytes(b"x" * 1_000)
    with pytest.raises(PullFailed, match="its SHA-256 is"):
        pulled(place, tmp_path)
    assert pulled(place, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 416, 503])
def test_a_refusal_is_told_and_leaves_nothing(tmp_path: Path, place: Place, status: int) -> None:
    place.status = status
    with pytest.raises(PullFailed, match=f"status {status}"):
        pulled(place, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/file", "nothing", "http://[/"])
def test_a_place_that_cannot_be_reached_is_told_and_leaves_nothing(tmp_path: Path, place: Place, url: str) -> None:
    pauses: list[float] = []
    with pytest.raises(PullFailed):
        pull_model(the_file(place), tmp_path, url=url, pause=pauses.append)
    assert left(tmp_path) == []
    assert len(pauses) < pulling.ATTEMPTS


def test_two_pulls_at_once_do_not_meet(tmp_path: Path, place: Place) -> None:
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / "tiny.gguf.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PullFailed, match="Another pull"):
            pulled(place, tmp_path)
    assert place.ranges == []
    assert pulled(place, tmp_path).read_bytes() == CONTENT


def test_a_disk_that_is_too_small_is_told_before_anything_comes(tmp_path: Path, place: Place) -> None:
    with small_disk(tmp_path / "disk", kilobytes=4_096) as disk:
        with pytest.raises(PullFailed, match="GB free"):
            pulled(place, disk)
        assert left(disk) == []
    assert place.ranges == []


def test_a_disk_that_becomes_full_gets_its_room_back(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "_require_space", lambda *_, have: None)
    with small_disk(tmp_path / "disk", kilobytes=2_048) as disk:
        with pytest.raises(PullFailed, match="became full"):
            pulled(place, disk)
        assert left(disk) == []
        filesystem = os.statvfs(disk)
        assert filesystem.f_bfree * filesystem.f_frsize > 1_900_000


def test_the_list_says_how_much_is_here(tmp_path: Path) -> None:
    assert {one.have for one in list_files(tmp_path)} == {0}
    first, second, *_ = MODEL_FILES
    (tmp_path / "models").mkdir()
    pulled_path(tmp_path, first).write_bytes(b"whole")
    model_files.partial_path(tmp_path, second).write_bytes(b"half")
    found = {one.file.name: (one.have, one.is_whole) for one in list_files(tmp_path)}
    assert (found[first], found[second]) == ((5, True), (4, False))


def test_every_file_of_the_table_is_pinned() -> None:
    for name, file in MODEL_FILES.items():
        assert name == file.name
        assert len(bytes.fromhex(file.sha256)) == 32
        revision = file.url.split("/resolve/")[1].split("/")[0]
        assert len(bytes.fromhex(revision)) == 20, "a branch may change under us"
        assert file.url.startswith("https://")
        assert file.licence


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    def invoke(*words: str) -> tuple[int, str, str]:
        status = run(["--data", str(tmp_path / "data"), *words])
        out, err = capsys.readouterr()
        return status, out, err

    return invoke


def test_the_command_pulls_and_lists(tmp_path: Path, place: Place, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sexton.local_models.MODEL_FILES", {"tiny": the_file(place, url="http://127.0.0.1:1/")})
    monkeypatch.setattr(model_files, "MODEL_FILES", {"tiny": the_file(place)})
    status, out, err = say("model", "pull", "tiny", "--url", place.url)
    assert (status, "tiny is here" in out, "(100 %)" in err) == (0, True, True)
    status, out, _ = say("model", "--json")
    assert (status, json.loads(out)[0]["here"]) == (0, True)
    status, out, _ = say("model", "list")
    assert status == 0
    assert out.splitlines()[1].split()[:2] == ["tiny", "here"]


def test_the_command_says_what_there_is_to_pull(say: Say) -> None:
    status, _, err = say("model", "pull", "nothing")
    assert status == 2
    assert all(name in err for name in MODEL_FILES)
