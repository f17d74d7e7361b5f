"""Approvals and deliveries in a real Chromium: questions of a job, a chat and `/v1`, and what is to be sent."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from http_peer import HttpPeer, http_peer
from peers.test_dashboard import nameless
from peers.watched_page import PATIENCE, Site, WatchedPage, chromium, watched
from scripted_model import Reply, ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE)

RAW = Path(__file__).parents[1] / "process" / "stdio_servers" / "raw_server.py"
SETTINGS = """
[models.main]
provider = "openai"
base_url = "{model}"
model = "scripted"
retries = 0

[agent]
approvals = "always"

[servers.small]
@SERVER@

[servers.raw]
command = {python}
args = ["-I", "-S", {raw}]

[jobs.brief]
prompt = "of the job"
servers = ["small"]
approvals = "always"

[jobs.report]
command = ["echo", "all is well"]
deliver = ["hook"]

[targets.hook]
url = "{hook}/in"
secret = "quiet"
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "title": "Place", "description": "a town"},
        "days": {"type": "integer", "minimum": 1},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["place"],
}
INPUT = {"message": "Where are <b>you</b>?", "requestedSchema": SCHEMA}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


@pytest.fixture(scope="module")
def hook() -> Iterator[HttpPeer]:
    with http_peer() as peer:
        yield peer


@pytest.fixture(scope="module")
def site(scripted: ScriptedModel, hook: HttpPeer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    given = {"model": scripted.url, "hook": hook.url, "python": json.dumps(sys.executable), "raw": json.dumps(str(RAW))}
    try:
        gateway.write(SETTINGS.format(**given)).start().wait_line("^ready ", within=PATIENCE / 1000)
        with closing(Site(gateway)) as site:
            yield site
        gateway.stop()
    finally:
        gateway.close()


def echoes(body: dict[str, Any]) -> Reply:
    """Says what it was told after it has called a tool with it, and so knows by itself where a conversation stands."""
    said = [message for message in body["messages"] if message["role"] in {"user", "tool"}]
    told = str(said[0]["content"])
    if said[-1]["role"] == "tool":
        return say(f"said {told}")
    if told == "ask me":
        return call("raw__ask", method="elicitation/create", params=INPUT)
    return call("small__echo", text=told)


@pytest.fixture
def model(scripted: ScriptedModel) -> ScriptedModel:
    scripted.answer = echoes
    return scripted


@pytest.fixture
def seen(browser: Browser, site: Site) -> Iterator[WatchedPage]:
    with watched(browser, site) as page:
        yield page


def picture(page: Page, name: str) -> None:
    """Kept where `SEXTON_SCREENSHOTS` says, for a person to look at."""
    if folder := os.environ.get("SEXTON_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def question(page: Page, about: str) -> Locator:
    return page.locator("section.approval").filter(has_text=about)


def chat(site: Site, text: str) -> str:
    made = site.ask("POST", "conversations", {"way": "web"})["id"]
    site.ask("POST", f"conversations/{made}/messages", {"text": text})
    return str(made)


@contextmanager
def program_asks(site: Site) -> Iterator[list[httpx2.Response]]:
    """A client of `/v1` that waits for its answer; the list has it when the block is left."""
    answers: list[httpx2.Response] = []
    asked = {"model": "sexton", "messages": [{"role": "user", "content": "of the program"}]}
    url = f"{site.url}/v1/chat/completions"

    def ask() -> None:
        answers.append(httpx2.post(url, json=asked, headers=dict(site.api.headers), timeout=240))

    waiting = threading.Thread(target=ask)
    waiting.start()
    yield answers
    waiting.join(240)


def test_questions_of_a_job_a_chat_and_a_program_come_by_themselves_and_are_answered(
    seen: WatchedPage, site: Site, model: ScriptedModel
) -> None:
    page = seen.open("/")
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/approvals")
    seen.wait_live()
    expect(page.locator(".empty")).to_contain_text("Nothing waits for a person")
    run = site.ask("POST", "jobs/brief/run")["id"]
    of_job = question(page, "of the job")
    expect(of_job).to_contain_text("May small.echo be called?")
    expect(of_job.get_by_role("link", name="job brief")).to_have_attribute("href", f"/runs/{run}")
    made = chat(site, "of the chat")
    expect(question(page, "of the chat").get_by_role("link", name="chat")).to_have_attribute("href", f"/chat/{made}")
    with program_asks(site) as answers:
        expect(question(page, "of the program")).to_contain_text("a program that uses /v1")
        picture(page, "approvals")
        overview = page.context.new_page()
        overview.goto(site.url + "/")
        expect(overview.locator(".concerns")).to_contain_text("waits for a yes or no, for job brief")
        overview.goto(f"{site.url}/chat/{made}")
        expect(overview.locator("#elsewhere")).to_have_text("2 questions elsewhere wait for a person")
        overview.close()
        assert len(site.gateway.cli("approvals")) == 3
        question(page, "of the program").get_by_role("button", name="Yes").click()
    assert answers[0].json()["choices"][0]["message"]["content"] == "said of the program"
    expect(question(page, "of the program")).to_have_count(0)
    of_job.get_by_role("button", name="Yes").click()
    assert site.wait_run(run, "ran", "failed")["output"] == "said of the job"
    question(page, "of the chat").get_by_role("button", name="No").click()
    expect(page.locator(".empty")).to_be_visible()
    rows = page.locator("table.approvals tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="denied")).to_contain_text("of the chat")
    picture(page, "approvals-answered")


def test_what_a_server_asks_for_has_to_be_filled_in_on_both_pages(
    seen: WatchedPage, site: Site, model: ScriptedModel
) -> None:
    for path, told in (("/approvals", "Graz"), ("/chat/", "Linz")):
        made = chat(site, "ask me")
        page = seen.open("/approvals" if path == "/approvals" else path + made)
        box = page.locator(".approval").filter(has_text="May raw.ask be called?")
        box.get_by_role("button", name="Yes").click()
        form = page.locator("form.answer")
        expect(page.locator(".approval").filter(has=form)).to_contain_text("Where are <b>you</b>?")
        form.get_by_role("button", name="Send").click()
        expect(form.locator(".error")).to_have_text("This is needed.")
        picture(page, f"input{path.strip('/')}")
        form.get_by_label("place").fill(told)
        form.get_by_label("days").fill("0")
        form.get_by_role("button", name="Send").click()
        expect(form.locator(".error")).to_have_text("At least 1.")
        form.get_by_label("days").fill("3")
        form.get_by_role("button", name="Send").click()
        expect(form).to_have_count(0)
        site.gateway.wait_event("turn.ended", conversation=made)
        assert f'"place": "{told}"' in str(model.told("tool")[-1])
        assert '"days": 3' in str(model.told("tool")[-1])


def test_a_delivery_that_fails_is_seen_tried_again_and_cancelled(seen: WatchedPage, site: Site, hook: HttpPeer) -> None:
    page = seen.open("/approvals")
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.wait_for_url("**/deliveries")
    seen.wait_live()
    hook.status = 503
    run = site.ask("POST", "jobs/report/run")["id"]
    row = page.locator("table.deliveries tbody tr").filter(has_text="report").first
    expect(row).to_contain_text("waiting")
    expect(row.locator(".said.wrong")).to_contain_text("503")
    expect(row.get_by_role("link", name="report")).to_have_attribute("href", f"/runs/{run}")
    picture(page, "deliveries")
    hook.status = 200
    row.get_by_role("button", name="Try the delivery").click()
    expect(row).to_contain_text("sent")
    hook.status = 503
    site.ask("POST", "jobs/report/run")
    expect(row).to_contain_text("waiting")
    row.get_by_role("rowheader").get_by_role("link").click()
    expect(page.locator("h1")).to_contain_text("To hook")
    expect(page.locator("pre").last).to_contain_text("all is well")
    seen.wait_live()
    page.get_by_role("button", name="Cancel the delivery").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("h1")).to_contain_text("cancelled")
    picture(page, "delivery")
    page.goto(site.url + "/deliveries?state=cancelled")
    expect(page.locator("table.deliveries tbody tr")).to_have_count(1)
    hook.status = 400
    site.ask("POST", "jobs/report/run")
    site.gateway.wait_event("delivery.failed")
    page.goto(site.url + "/")
    expect(page.locator(".concerns")).to_contain_text("1 delivery failed in the last 24 hours")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_they_are_whole_in_light_and_dark_on_wide_and_narrow_screens(
    browser: Browser, site: Site, model: ScriptedModel, scheme: str, width: int
) -> None:
    made = chat(site, "wide " * 60 + "w" * 200)
    with watched(browser, site, color_scheme=scheme, viewport={"width": width, "height": 800}) as seen:
        for path in ("/approvals", "/deliveries", "/deliveries/1", f"/chat/{made}", "/"):
            page = seen.open(path)
            if path == "/approvals":
                expect(page.locator("section.approval")).to_be_visible()
            assert page.locator("h1").count() == 1, path
            assert seen.width_beyond() == 0, path
            assert nameless(page) == [], path
            picture(page, f"{scheme}{path.replace('/', '-').replace(made, '')}")
        page = seen.open("/approvals")
        page.locator("section.approval").get_by_role("button", name="No").click()
        expect(page.locator("section.approval")).to_have_count(0)
    site.gateway.wait_event("turn.ended", conversation=made)


def test_who_may_only_read_sees_what_waits_and_has_no_say(browser: Browser, site: Site, model: ScriptedModel) -> None:
    made = chat(site, "use it")
    with watched(browser, site, link=site.link_of("read")) as seen:
        page = seen.open("/approvals")
        expect(page.locator("section.approval")).to_contain_text("Who has the scope admin can answer")
        assert page.locator("section.approval button").count() == 0
        assert seen.open("/deliveries").locator("main table button").count() == 0
    [asked] = site.ask("GET", "approvals")
    site.ask("POST", f"approvals/{asked['id']}", {"yes": False})
    site.gateway.wait_event("turn.ended", conversation=made)
