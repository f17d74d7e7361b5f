"""Two gateways on one PostgreSQL, seen in a real Chromium through one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from peers.watched_page import PATIENCE, Site, WatchedPage, chromium, watched
from postgres_server import PostgresServer
from system.gateway_process import GatewayProcess, wait_for

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=PATIENCE)

JOBS = """
[jobs.long]
command = ["sh", "-c", "echo going on; exec sleep 1000"]
node = "attic"
"""


def settings(name: str) -> str:
    return f'drain_timeout = "100ms"\n[node]\nname = "{name}"\nlabels = ["{name}s"]\ncapacity = 4\n{JOBS}'


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def nodes(browser: Browser, tmp_path: Path, postgres: PostgresServer) -> Iterator[dict[str, GatewayProcess]]:
    """Started after the browser, which takes every process that starts with it for its own."""
    url = postgres.url(postgres.new_database()).text
    with ExitStack() as stack:
        found = {}
        for name in ("attic", "cellar"):
            (tmp_path / name).mkdir()
            found[name] = stack.enter_context(closing(GatewayProcess(tmp_path / name)))
            found[name].database = url
            found[name].write(settings(name)).up()
        yield found


def see_both(seen: WatchedPage, run: str) -> None:
    page = seen.open("/nodes")
    attic = page.get_by_role("row").filter(has=page.get_by_role("link", name="attic", exact=True))
    expect(attic).to_contain_text("up")
    expect(page.locator(f"#run-{run}")).to_contain_text("long")
    seen.open("/processes")
    expect(page.get_by_role("heading", name="On attic")).to_be_visible()
    seen.open("/runs")
    expect(page.locator(f"#run-{run}")).to_contain_text("attic")
    seen.open("/journal?node=attic")
    expect(page.locator(".events")).to_contain_text("starts, pid")


def act(seen: WatchedPage, nodes: dict[str, GatewayProcess]) -> None:
    """Drain the other node; stop it; forget it."""
    page = seen.open("/nodes")
    page.get_by_role("button", name="Drain attic", exact=True).click()
    page.locator("#confirm-yes").click()
    expect(page.get_by_role("button", name="Undrain attic")).to_be_visible()
    page.get_by_role("button", name="Undrain attic").click()
    expect(page.get_by_role("button", name="Drain attic", exact=True)).to_be_visible()
    nodes["attic"].stop()
    page.get_by_role("button", name="Forget attic").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("tbody tr").filter(has_text="attic")).to_have_count(0)


def test_one_gateway_shows_and_drains_and_forgets_the_other(browser: Browser, nodes: dict[str, GatewayProcess]) -> None:
    with closing(Site(nodes["cellar"])) as site:
        run = site.ask("POST", "jobs/long/run")["id"]
        site.wait_run(run, "running")

        def trees() -> Any:
            return next(node["trees"] for node in site.ask("GET", "nodes") if node["name"] == "attic")

        wait_for(trees, within=PATIENCE / 1000, what="the beat of the other node tells the tree of the run")
        with watched(browser, site, color_scheme="dark", viewport={"width": 390, "height": 800}) as seen:
            for path in ("/nodes", "/processes", "/journal?node=*", "/"):
                seen.open(path)
                assert seen.width_beyond() <= 0, path
        with watched(browser, site) as seen:
            see_both(seen, run)
            act(seen, nodes)
        kinds = [event["kind"] for event in site.ask("GET", "journal/all?node=attic&limit=1000")]
        assert (kinds[0], "gateway.starting" in kinds) == ("gateway.stopped", True)
    nodes["cellar"].stop()
