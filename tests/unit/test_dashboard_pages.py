"""The pages as the application answers them, without a browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from gateway_bench import HEADERS, TOKEN, FakeTree, GatewayBench, gateway_bench
from sexton.gateway.dashboard import create_pages
from sexton.gateway.dashboard.pages import PAGES
from sexton.gateway.http import Gate, create_app
from sexton.gateway.journal_archive import JournalArchive
from sexton.journal import JSON
from sexton.scheduler import Job, Origin, RunStore
from sexton.scheduler.gateways import this_gateway

pytestmark = pytest.mark.anyio

PLAIN = [page.path for page in PAGES if "{" not in page.path]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        yield bench


@pytest.fixture
async def client(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(bench.gateway, gate=Gate(token=TOKEN), pages=create_pages(bench.gateway))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7390") as client:
        yield client


@pytest.mark.parametrize("path", [*PLAIN, "/servers/time", "/servers/notes"])
async def test_a_page_is_for_callers_only_and_is_kept_by_nobody(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"accept": "text/html"})).status_code == 401
    page = await client.get(path, headers=HEADERS)
    assert page.status_code == 200, page.text
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in page.headers["content-security-policy"]


async def test_what_pages_are_made_of_is_for_everybody_and_kept_as_long_as_it_does_not_change(
    client: httpx2.AsyncClient,
) -> None:
    page = (await client.get("/", headers=HEADERS)).text
    (url,) = (part.split('"')[0] for part in page.split('href="') if part.startswith("/static/sexton.css"))
    style = await client.get(url)
    assert style.headers["content-type"].startswith("text/css")
    assert "immutable" in style.headers["cache-control"]
    unmarked = await client.get("/static/sexton.css")
    assert unmarked.headers["cache-control"] == "no-cache"
    again = await client.get("/static/sexton.css", headers={"if-none-match": unmarked.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("nothing.css", "../pages.py", "%2e%2e/pages.py", "vendor/../../pages.py", "vendor"):
        assert (await client.get(f"/static/{path}")).status_code in {401, 404}, path


async def test_a_secret_that_a_server_tells_is_not_on_its_page(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    secret = 'hunter2-<&"-hunter2'
    bench.gateway.redactor.learn([secret])
    bench.gateway.journal.append("server.died", subject="notes", error=f"cannot log in with {secret}")
    for path in ("/servers/notes", "/journal", "/"):
        page = (await client.get(path, headers=HEADERS)).text
        assert "cannot log in with •••" in page, path
        assert "hunter2" not in page, path


async def test_a_job_that_a_chat_made_is_the_persons_who_saves_its_form(
    client: httpx2.AsyncClient, bench: GatewayBench
) -> None:
    """The API takes an action from a person without the mark of the chat, and no other."""
    action: dict[str, JSON] = {"kind": "prompt", "prompt": "Look at it.", "servers": [], "chat": "conversation-1"}
    for path in ("/jobs/look/edit", "/new-job?from=look"):
        await bench.gateway.scheduler.put_job(Job(name="look", schedule=None, action=action, origin=Origin.RUNTIME))
        page = (await client.get(path, headers=HEADERS)).text
        (more,) = re.findall(r'name="prompt_more" value="([^"]*)"', page)
        given = json.loads(html.unescape(more))
        assert given == {"kind": "prompt", "prompt": "Look at it.", "servers": []}
        saved = await client.put("/api/v1/jobs/look", json={"name": "look", "action": given}, headers=HEADERS)
        assert saved.status_code == 200, saved.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/servers/tmie", 404),
        ("/jobs/none", 404),
        ("/runs/none", 404),
        ("/runs?state=odd", 400),
        ("/runs?job=none", 404),
    ],
)
async def test_what_is_not_there_is_told_as_a_page(client: httpx2.AsyncClient, path: str, status: int) -> None:
    page = await client.get(path, headers=HEADERS)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert "<h1>" in page.text


@pytest.mark.parametrize("cookie", ["../../etc/passwd", "Mars/Olympus", "x" * 9000, "%00", "UTC\u00e9"])
async def test_a_time_zone_that_there_is_not_is_no_harm(client: httpx2.AsyncClient, cookie: str) -> None:
    headers = HEADERS | {"cookie": f"sexton_zone={cookie}; sexton_theme={cookie}"}
    page = await client.get("/", headers={name.encode(): value.encode() for name, value in headers.items()})
    assert page.status_code == 200
    assert "data-theme" not in page.text


async def test_the_server_of_a_local_model_is_shown_as_that_even_if_it_has_the_name_of_a_server(
    client: httpx2.AsyncClient, bench: GatewayBench
) -> None:
    model = FakeTree(id="t-2", name="time", owner="model:time", leader_pid=51, started_at=bench.clock.now())
    bench.containment.trees().append(model)
    page = (await client.get("/processes", headers=HEADERS)).text
    row = page.split('id="tree-t-2"')[1].split("</th>")[0]
    assert '<span class="tag">model</span>' in row
    assert "/servers/" not in row


@pytest.fixture
async def several(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    """The pages where two more nodes, one of them dead, and the events of all are in the database."""
    archive = JournalArchive(bench.scheduling.database, bench.gateway.journal, node="here", clock=bench.clock)
    gateway = replace(bench.gateway, archive=archive)
    now, store = bench.clock.now(), RunStore(bench.scheduling.database)
    tree: dict[str, JSON] = {"name": "browser", "owner": "server:browser", "state": "running", "processes": 7}
    tree["memory"] = 9_000_000
    other = replace(
        this_gateway("other"), offers={"labels": ["gpu"], "capacity": 4, "version": "0.1.0", "trees": [tree]}
    )
    dead = this_gateway("<dead>")
    for one in (other, dead):
        await store.register(one, now=now)
    [seen] = [one for one in await store.gateways() if one.id == dead.id]
    assert await store.settle_dead(seen, now=now, by="here") == ()
    bench.gateway.journal.append("gateway.dead", subject=dead.id, node="<dead>", runs=0)
    await archive.write_news()
    app = create_app(gateway, gate=Gate(token=TOKEN), pages=create_pages(gateway))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7390", headers=HEADERS) as client:
        yield client


async def test_the_nodes_are_shown_with_what_each_does(several: httpx2.AsyncClient) -> None:
    page = (await several.get("/nodes")).text
    assert ">other</a></th>" in page
    assert "Drain other" in page
    assert "Forget &lt;dead&gt;" in page
    assert "died" in page
    assert "here settled 0 runs" in " ".join(page.replace('<span class="dim">', "").replace("; ", " ").split())
    assert "browser" in (await several.get("/processes")).text
    assert "of 2 up" in (await several.get("/")).text
    assert ">Node</th>" not in (await several.get("/")).text
    assert '<a href="/nodes" data-key="n"' in page


async def test_the_journal_of_all_nodes_is_a_choice_of_the_page(several: httpx2.AsyncClient) -> None:
    for query in ("node=*", "node=here", "node=*&text=%3CDEAD%3E", "node=*&kind=gateway."):
        page = (await several.get(f"/journal?{query}")).text
        assert "node &lt;dead&gt; had died" in page, query
        assert '<span class="tag">here</span>' in page, query
    for query in ("node=other", "node=*&text=nothing", "node=*&before=1"):
        assert "had died" not in (await several.get(f"/journal?{query}")).text, query
    api = (await several.get("/api/v1/journal/all?text=dead&after=0")).json()
    assert [event["node"] for event in api] == ["here"]
    assert (await several.get(f"/api/v1/journal/all?after={api[0]['id']}")).json() == []


async def test_a_gateway_that_is_alone_has_its_page_of_nodes_but_not_in_the_navigation(
    client: httpx2.AsyncClient,
) -> None:
    page = (await client.get("/nodes", headers=HEADERS)).text
    assert "this gateway is alone" in page
    assert 'href="/nodes"' not in page
