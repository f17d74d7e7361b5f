"""The pages in a real Chromium, on a real gateway with real processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from peers.talkative_server import MARKUP
from peers.watched_page import PATIENCE, Site, WatchedPage, chromium, small_server, watched
from system.gateway_process import GatewayProcess, wait_for

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=PATIENCE)

TALKATIVE = Path(__file__).with_name("talkative_server.py")
SETTINGS = f"""
[servers.talk]
{small_server(TALKATIVE)}

[servers.broken]
command = "sh"
args = ["-c", "echo 'no key, <b>no</b> entry' >&2; exit 3"]

[jobs.hello]
command = ["echo", "hello there"]

[jobs.long]
command = ["sh", "-c", "echo going on; exec sleep 1000"]

[jobs.fails]
call = "broken.anything"

[jobs.shouts]
command = ["printf", "%s", {json.dumps(MARKUP)}]

[jobs.asks]
call = "talk.add"
arguments = {{ a = 40 }}

[jobs.daily]
cron = "0 7 * * *"
timezone = "Europe/Amsterdam"
command = ["true"]
"""


def up(gateway: GatewayProcess) -> GatewayProcess:
    gateway.start().wait_line(r"^ready http://127\.0\.0\.1:\d+$", within=PATIENCE / 1000)
    return gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One gateway for all tests here, with something of every kind in its history."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway")).write(SETTINGS)
    try:
        with closing(Site(up(gateway))) as site:
            for job in ("hello", "fails", "shouts", "asks"):
                run = site.ask("POST", f"jobs/{job}/run")
                site.wait_run(run["id"], "ran", "failed")
            site.ask("POST", "calls", {"server": "talk", "tool": "shout"})
            yield site
        gateway.stop()
    finally:
        gateway.close()


@pytest.fixture
def seen(browser: Browser, site: Site) -> Iterator[WatchedPage]:
    with watched(browser, site) as page:
        yield page


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody tr").filter(has=page.get_by_role("rowheader").get_by_role("link", name=name, exact=True))


def runs_of(site: Site, job: str) -> Any:
    return site.ask("GET", f"runs?job={job}")


def pages(site: Site) -> list[str]:
    run = {job: runs_of(site, job)[0]["id"] for job in ("asks", "fails", "shouts")}
    return [
        *("/", "/processes", "/runs", "/runs?span=7d&state=failed", "/jobs", "/jobs/daily", "/new-job"),
        *("/servers", "/servers/talk", "/servers/broken", "/journal", "/journal?kind=server.&text=talk", "/doctor"),
        *(f"/runs/{one}" for one in run.values()),
    ]


@pytest.mark.parametrize(
    ("scheme", "width", "paper"), [("light", 1280, "rgb(244, 245, 247)"), ("dark", 390, "rgb(14, 17, 21)")]
)
def test_every_page_is_whole_in_light_and_dark_on_wide_and_narrow_screens(
    browser: Browser, site: Site, scheme: str, width: int, paper: str
) -> None:
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with watched(browser, site, **options) as seen:
        for path in pages(site):
            page = seen.open(path)
            assert page.locator("h1").count() == 1, path
            assert seen.width_beyond() == 0, path
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
            assert nameless(page) == [], path
            assert page.title().endswith(" · Sexton"), path


def nameless(page: Page) -> list[str]:
    """Everything that can be used and of which a screen reader could not say what it is."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], input:not([type=hidden]), select, textarea, summary")]
        .filter((one) => one.checkVisibility() && one.tabIndex >= 0)
        .filter((one) => !(one.ariaLabel || one.title || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
        .map((one) => one.outerHTML)"""
    )
    return found


def test_what_happens_is_seen_without_loading_the_page_again(seen: WatchedPage) -> None:
    page = seen.open("/jobs")
    page.evaluate("window.sameDocument = true")
    page.get_by_placeholder("Find a job").fill("long")
    page.get_by_role("link", name="long", exact=True).focus()
    run = seen.site.ask("POST", "jobs/long/run")
    expect(row(page, "long")).to_contain_text("running")
    seen.site.ask("POST", f"runs/{run['id']}/cancel")
    expect(row(page, "long")).to_contain_text("cancelled")
    expect(page.get_by_role("link", name="long", exact=True)).to_be_focused()
    expect(page.get_by_placeholder("Find a job")).to_have_value("long")
    expect(row(page, "long")).to_be_visible()
    expect(row(page, "asks")).to_be_hidden()
    assert page.evaluate("window.sameDocument") is True


def test_a_run_is_started_watched_and_cancelled_from_the_pages(seen: WatchedPage) -> None:
    page = seen.open("/jobs/long")
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("long is queued.")).to_be_visible()
    page.locator(".runs tbody tr", has_text="running").get_by_role("link").first.click()
    expect(page.locator("pre.text")).to_have_text("going on\n")
    seen.wait_live()
    page.goto(seen.site.url + "/processes")
    seen.wait_live()
    expect(row(page, "long")).to_contain_text("running")
    page.get_by_role("button", name="Cancel the run of long").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(row(page, "long")).to_have_count(0)
    assert runs_of(seen.site, "long")[0]["state"] == "cancelled"


def test_no_is_an_answer(seen: WatchedPage) -> None:
    run = seen.site.ask("POST", "jobs/long/run")
    seen.site.wait_run(run["id"], "running")
    page = seen.open(f"/runs/{run['id']}")
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert seen.site.wait_run(run["id"], "running")
    seen.site.ask("POST", f"runs/{run['id']}/cancel")


def test_a_job_is_paused_and_resumed(seen: WatchedPage) -> None:
    page = seen.open("/jobs")
    page.get_by_role("button", name="Pause daily").click()
    expect(row(page, "daily")).to_contain_text("paused")
    assert seen.site.ask("GET", "jobs/daily")["paused"] is True
    page.get_by_role("button", name="Resume daily").click()
    expect(row(page, "daily")).not_to_contain_text("paused")
    assert seen.site.ask("GET", "jobs/daily")["paused"] is False


def test_a_job_is_added_changed_and_removed(seen: WatchedPage) -> None:
    seen.expected = {400}
    page = seen.open("/new-job")
    page.get_by_label("Name", exact=True).fill("sum up")
    page.get_by_label("Server").select_option("talk")
    page.get_by_label("Tool", exact=True).fill("add")
    page.get_by_label("Arguments", exact=True).fill('{"a": 1')
    page.get_by_role("button", name="Add the job").click()
    expect(page.locator(".field .error")).to_contain_text("This is not JSON")
    expect(page.get_by_label("Arguments", exact=True)).to_be_focused()
    page.get_by_label("Arguments", exact=True).fill('{"a": 1}')
    page.get_by_role("button", name="Add the job").click()
    expect(page.locator("#form-problem")).to_contain_text("no usable name")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.get_by_label("Name", exact=True).fill("sum-up")
    page.get_by_role("radio", name="by cron").check()
    page.get_by_label("Cron", exact=True).fill("30 6 * * mon")
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    expect(page.locator("#preview li")).to_have_count(5)
    expect(page.locator("#preview li").first).to_contain_text("22:30:00")
    page.get_by_role("button", name="Add the job").click()
    page.wait_for_url("**/jobs/sum-up")
    made = seen.site.ask("GET", "jobs/sum-up")
    assert (made["schedule"], made["timezone"]) == ({"cron": "30 6 * * mon"}, "Asia/Tokyo")
    assert made["action"] == {"kind": "call", "server": "talk", "tool": "add", "arguments": {"a": 1}}
    page.get_by_role("link", name="Edit").click()
    page.get_by_role("radio", name="every so often").check()
    page.get_by_label("Every", exact=True).fill("2")
    page.get_by_label("Unit").select_option("hours")
    page.get_by_label("Retries").fill("3")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/jobs/sum-up")
    changed = seen.site.ask("GET", "jobs/sum-up")
    assert (changed["schedule"], changed["retries"], changed["action"]) == ({"every": 7200}, 3, made["action"])
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove the job").click()
    page.wait_for_url("**/jobs")
    expect(row(page, "sum-up")).to_have_count(0)


def test_a_job_that_asks_a_model_keeps_what_its_form_does_not_show(seen: WatchedPage) -> None:
    action = {"kind": "prompt", "prompt": "Count the notes.", "servers": ["talk"], "max_steps": 3}
    more = {"labels": ["gpu"], "deliver_on": "failure"}
    made = seen.site.ask("POST", "jobs", {"name": "counts", "action": action} | more)
    page = seen.open("/jobs/counts/edit")
    page.get_by_label("Prompt", exact=True).fill("Count the notes twice.")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/jobs/counts")
    expect(page.locator("dl.facts")).to_contain_text("Count the notes twice.")
    changed = seen.site.ask("GET", "jobs/counts")
    assert changed["action"] == made["action"] | {"prompt": "Count the notes twice."}
    assert {key: changed[key] for key in more} == more
    seen.site.ask("DELETE", "jobs/counts")


def test_a_job_of_the_config_file_says_why_it_is_not_changed_here(seen: WatchedPage) -> None:
    page = seen.open("/jobs/hello")
    expect(page.locator(".note-line")).to_contain_text("[jobs.hello]")
    expect(page.get_by_role("link", name="Edit")).to_have_count(0)
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)
    seen.expected = {409}
    expect(seen.open("/jobs/hello/edit").locator("h1")).to_contain_text("what is written there decides")


def test_a_server_is_restarted(seen: WatchedPage) -> None:
    page = seen.open("/servers/talk")
    (before,) = seen.site.server("talk")["pids"]
    expect(page.locator(".trees .pids")).to_have_text(str(before))
    page.get_by_role("button", name="Restart", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    expect(page.get_by_text("talk is restarted.")).to_be_visible()
    expect(page.get_by_text("It does not run.")).to_be_visible()
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("talk was asked for its tools. It has 4 tools")).to_be_visible()
    expect(page.locator(".trees .pids")).not_to_have_text(str(before))


def test_a_server_is_stopped_and_starts_again_on_its_next_use(seen: WatchedPage) -> None:
    seen.site.ask("POST", "servers/talk/check", {})
    page = seen.open("/servers")
    expect(row(page, "talk")).to_contain_text("running")
    page.get_by_role("button", name="Stop talk").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(row(page, "talk")).to_contain_text("stopped")
    assert seen.site.server("talk")["pids"] == []
    seen.site.ask("POST", "servers/talk/check", {})
    expect(row(page, "talk")).to_contain_text("running")


def test_the_log_of_a_server_is_followed(seen: WatchedPage) -> None:
    page = seen.open("/servers/talk")
    expect(page.locator("#log")).to_contain_text(MARKUP)
    lines = (page.locator("#log").text_content() or "").count(MARKUP)
    seen.site.ask("POST", "calls", {"server": "talk", "tool": "shout"})
    wait_for(
        lambda: (page.locator("#log").text_content() or "").count(MARKUP) == lines + 1,
        within=PATIENCE / 1000,
        what="a line more",
    )


def test_a_tool_is_tried_from_a_form_that_its_schema_makes(seen: WatchedPage) -> None:
    page = seen.open("/servers/talk")
    add = page.locator("details.tool").nth(0)
    add.locator("summary").first.click()
    add.get_by_role("button", name="Call add").click()
    expect(add.locator(".error")).to_have_text("This is needed.")
    add.get_by_label("a", exact=True).fill("40")
    add.get_by_role("button", name="Call add").click()
    expect(add.locator(".result pre").first).to_have_text("42")
    choose = page.locator("details.tool").nth(1)
    choose.locator("summary").first.click()
    choose.get_by_label(MARKUP[:20]).fill("&amp;")
    choose.get_by_label("order").select_option("down")
    choose.get_by_label("names").fill("one\ntwo")
    choose.get_by_label("city").fill("Delft")
    choose.get_by_label("deep").select_option("true")
    choose.get_by_role("button", name="Call choose").click()
    expect(choose.locator(".result pre").first).to_contain_text(
        '"deep": true, "names": ["one", "two"], "order": "down"'
    )
    expect(choose.locator(".result pre").first).to_contain_text('"where": {"city": "Delft"}')


def test_a_tool_that_takes_too_long_is_cancelled(seen: WatchedPage) -> None:
    page = seen.open("/servers/talk")
    wait = page.locator("details.tool").nth(2)
    wait.locator("summary").first.click()
    wait.get_by_role("button", name="Call wait").click()
    wait.get_by_role("button", name="Cancel").click()
    expect(wait.locator(".took")).to_have_text("cancelled")
    wait_for(lambda: not seen.site.server("talk")["holders"], within=PATIENCE / 1000, what="nobody holds it")


def test_what_servers_and_programs_say_is_text_and_never_markup(seen: WatchedPage) -> None:
    (run, *_) = runs_of(seen.site, "shouts")
    expect(seen.open(f"/runs/{run['id']}").locator("pre.text").first).to_have_text(MARKUP)
    for path in ("/", "/runs", "/journal", "/journal?text=<script>alert(1)</script>", "/servers/talk", "/jobs/shouts"):
        page = seen.open(path)
        assert page.locator("main img, main script").count() == 0, path
        assert "pwned" not in page.title(), path
    page = seen.open("/servers/talk")
    shout = page.locator("details.tool").nth(3)
    shout.locator("summary").first.click()
    shout.get_by_role("button", name="Call shout").click()
    expect(shout.locator(".result pre").first).to_have_text(MARKUP)
    expect(shout.locator(".took")).to_contain_text("the tool says that it failed")
    expect(page.locator("details.tool").nth(1)).to_contain_text(MARKUP)
    seen.expected = {404}
    expect(seen.open("/jobs/%3Cimg%20src=x%3E").locator("h1")).to_contain_text("<img src=x>")


def test_the_page_of_a_run_that_failed_says_what_went_wrong(seen: WatchedPage) -> None:
    (run, *_) = runs_of(seen.site, "fails")
    page = seen.open(f"/runs/{run['id']}")
    expect(page.locator(".wrong pre")).to_contain_text("no key, <b>no</b> entry")
    expect(seen.open("/").locator(".concerns")).to_contain_text("no key, <b>no</b> entry")


def test_the_tool_calls_of_a_run_stand_on_its_page(seen: WatchedPage) -> None:
    (run, *_) = runs_of(seen.site, "asks")
    page = seen.open(f"/runs/{run['id']}")
    call = page.locator("details.call")
    call.locator("summary").click()
    expect(call.locator("pre").nth(0)).to_have_text('{\n  "a": 40\n}')
    expect(call.locator("pre").nth(1)).to_have_text("42")


def test_everything_can_be_reached_by_keyboard_alone(seen: WatchedPage) -> None:
    page = seen.open("/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.wait_for_url("**/jobs")
    seen.wait_live()
    page.keyboard.press("/")
    page.keyboard.type("hel")
    page.keyboard.press("Tab")  # New job
    page.keyboard.press("Tab")  # the first job that is left
    expect(page.get_by_role("link", name="hello", exact=True)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/hello")
    seen.wait_live()
    before = len(runs_of(seen.site, "hello"))
    page.get_by_role("button", name="Run now").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("hello is queued.")).to_be_visible()
    assert len(runs_of(seen.site, "hello")) == before + 1


def test_arrow_keys_walk_along_a_list(seen: WatchedPage) -> None:
    page = seen.open("/jobs")
    names = [job["name"] for job in seen.site.ask("GET", "jobs")]
    page.get_by_role("link", name=names[0], exact=True).first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("rowheader").get_by_role("link", name=names[1], exact=True)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("rowheader").get_by_role("link", name=names[0], exact=True)).to_be_focused()


def test_the_journal_is_filtered_and_goes_on_by_itself(seen: WatchedPage) -> None:
    page = seen.open("/journal")
    page.get_by_label("Kind").select_option("run.")
    page.wait_for_url(re.compile(r"kind=run\."))
    page.get_by_label("About").fill("hello")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(re.compile("subject=hello"))
    seen.wait_live()
    assert set(page.locator(".events .who").all_inner_texts()) == {"hello"}
    first = page.locator(".events li").first.get_attribute("id")
    seen.site.ask("POST", "jobs/hello/run")
    expect(page.locator(".events li").first).not_to_have_attribute("id", first or "")
    expect(page.locator(".events li").first).to_contain_text("hello there")


def test_a_page_that_is_held_still_waits_with_what_is_new(seen: WatchedPage) -> None:
    page = seen.open("/journal?kind=run.")
    page.keyboard.press(".")
    expect(page.locator("#live")).to_have_attribute("data-state", "held")
    first = page.locator(".events li").first.get_attribute("id") or ""
    run = seen.site.ask("POST", "jobs/hello/run")
    seen.site.wait_run(run["id"], "ran")
    expect(page.locator(".events li").first).to_have_attribute("id", first)
    page.keyboard.press(".")
    expect(page.locator(".events li").first).not_to_have_attribute("id", first)


def test_light_and_dark_can_be_chosen_and_stay_chosen(seen: WatchedPage) -> None:
    page = seen.open("/jobs")
    theme = page.get_by_role("button", name="Light or dark")
    theme.click()
    theme.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 21)"
    seen.open("/runs")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_times_are_told_in_the_zone_of_the_reader(browser: Browser, site: Site) -> None:
    (run, *_) = runs_of(site, "asks")
    told = set()
    for zone in ("Europe/Amsterdam", "Asia/Tokyo"):
        with watched(browser, site, timezone_id=zone) as seen:
            page = seen.open(f"/runs/{run['id']}")
            expect(page.locator("#zone")).to_have_text(zone)
            told.add(page.locator("dl.facts time").first.get_attribute("title"))
    assert len(told) == 2


def test_who_may_only_read_is_offered_nothing_to_change(browser: Browser, site: Site) -> None:
    with watched(browser, site, link=site.link_of("read")) as seen:
        for path in ("/processes", "/jobs", "/jobs/hello", "/servers", "/servers/talk"):
            page = seen.open(path)
            assert page.locator("main button").count() == 0, path
            assert page.get_by_role("link", name="New job").count() == 0


def test_a_gateway_that_goes_away_is_told_of_and_a_new_one_asks_for_a_login(browser: Browser, tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path).write('[jobs.hello]\ncommand = ["echo", "hello"]\n')
    try:
        with closing(Site(up(gateway))) as site, watched(browser, site) as seen:
            port = site.url.rpartition(":")[2]
            gateway.stop()
            expect(seen.page.locator("#stale")).to_contain_text("The gateway does not answer.")
            expect(seen.page.locator("#live")).to_have_attribute("data-state", "lost")
            gateway.settings.write_text(gateway.settings.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
            up(gateway)
            expect(seen.page.get_by_text("sexton open")).to_be_visible()
            seen.wrong.clear()  # what a browser tells of connections that fail
            gateway.stop()
    finally:
        gateway.close()
