"""A page in a real Chromium that remembers everything that should not have happened in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from system.gateway_process import GatewayProcess, wait_for

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 60_000.0  # milliseconds; the machine may be loaded
_REFUSED = "Failed to load resource: the server responded with a status of "


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that is proven gone at the end, with every process that it started."""
    before = set(psutil.Process().children(recursive=True))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        started = set(psutil.Process().children(recursive=True)) - before
        yield browser
        browser.close()
    _, alive = psutil.wait_procs(started, timeout=PATIENCE / 1000)
    assert alive == []


class Site:
    """The pages of one gateway, for one caller at a time."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        address = json.loads((gateway.data / "gateway.json").read_text())
        self.url: str = address["url"]
        token = (gateway.data / "token").read_text().strip()
        self.api = httpx2.Client(
            base_url=f"{self.url}/api/v1/", headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE / 1000
        )

    def close(self) -> None:
        self.api.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.api.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def link(self) -> str:
        return self.url + str(self.ask("POST", "login-links", {})["path"])

    def link_of(self, scope: str) -> str:
        """A link for a caller who may do no more than that."""
        token = self.ask("POST", "tokens", {"name": f"only-{scope}", "scope": scope})["token"]
        made = httpx2.post(f"{self.url}/api/v1/login-links", json={}, headers={"authorization": f"Bearer {token}"})
        return self.url + str(made.json()["path"])

    def server(self, name: str) -> Any:
        return next(one for one in self.ask("GET", "servers") if one["name"] == name)

    def wait_run(self, run: str, *states: str) -> Any:
        def found() -> Any:
            record = self.ask("GET", f"runs/{run}")
            return record if record["run"]["state"] in states else None

        return wait_for(found, within=PATIENCE / 1000, what=f"run {run} is {states}")


class WatchedPage:
    """`page` is Playwright's; `expected` are the statuses of answers that a test asks for on purpose."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site
        self.expected: set[int] = set()
        self.wrong: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._asked)

    def open(self, path: str) -> Page:
        """Load a page of the gateway and wait until it keeps itself up to date."""
        answer = self.page.goto(self.site.url + path)
        assert answer is not None
        assert answer.status in {200, *self.expected}, (path, answer.status)
        self.wait_live()
        return self.page

    def wait_live(self) -> None:
        expect(self.page.locator("#live")).to_have_attribute("data-state", "live", timeout=PATIENCE)

    def check(self) -> None:
        """Nothing went wrong: no error, nothing that the content security policy forbade, no other host."""
        assert self.wrong == []

    def width_beyond(self) -> int:
        """By how many pixels the page is wider than the window."""
        element = "document.documentElement"
        return int(self.page.evaluate(f"{element}.scrollWidth - {element}.clientWidth"))

    def _heard(self, message: ConsoleMessage) -> None:
        expected = any(message.text.startswith(f"{_REFUSED}{status}") for status in self.expected)
        if message.type in {"error", "warning"} and not expected:
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.site.url, "data:", "blob:")):
            self.wrong.append(f"another host: {request.url}")


@contextmanager
def watched(browser: Browser, site: Site, *, link: str | None = None, **options: Any) -> Iterator[WatchedPage]:
    """A page of a browser that has logged in; nothing may have gone wrong in it by the end."""
    usual: dict[str, Any] = {"timezone_id": "Europe/Amsterdam", "viewport": {"width": 1280, "height": 800}}
    context = browser.new_context(**(usual | options))
    try:
        page = WatchedPage(context.new_page(), site)
        page.page.goto(link or site.link())
        page.page.wait_for_url(site.url + "/")
        page.wait_live()
        yield page
        page.check()
    finally:
        context.close()


def small_server(script: Path) -> str:
    """The TOML of a server that is this Python script."""
    return f'command = {json.dumps(sys.executable)}\nargs = ["-I", "-S", {json.dumps(str(script))}]'
