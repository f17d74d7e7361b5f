"""The chat page in a real Chromium, on a real gateway with a scripted model and a real server."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from peers.test_dashboard import nameless
from peers.watched_page import PATIENCE, Site, WatchedPage, chromium, watched
from scripted_model import ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess, wait_for

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=PATIENCE)

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"
retries = 1

[agent]
approvals = "{approvals}"

[servers.small]
@SERVER@
"""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EVIL = '<img src=x onerror="window.caught=1"><script>window.caught=1</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


def up(gateway: GatewayProcess, settings: str) -> GatewayProcess:
    gateway.write(settings).start().wait_line("^ready ", within=PATIENCE / 1000)
    return gateway


@pytest.fixture(scope="module")
def site(scripted: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    try:
        with closing(Site(up(gateway, SETTINGS.format(url=scripted.url, approvals="always")))) as site:
            yield site
        gateway.stop()
    finally:
        gateway.close()


@pytest.fixture
def model(scripted: ScriptedModel) -> Iterator[ScriptedModel]:
    scripted.start_again()
    yield scripted
    left, scripted.script = scripted.script, []
    assert left == []


@pytest.fixture
def seen(browser: Browser, site: Site) -> Iterator[WatchedPage]:
    with watched(browser, site) as page:
        yield page


def picture(page: Page, name: str) -> None:
    """Kept where `SEXTON_SCREENSHOTS` says, for a person to look at."""
    if folder := os.environ.get("SEXTON_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"chat-{name}.png", full_page=True)


def words(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def begin(seen: WatchedPage, text: str) -> Page:
    """A new conversation, by keyboard."""
    page = seen.open("/chat")
    words(page).fill(text)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/chat/\w+"))
    seen.wait_live()
    return page


def test_an_answer_streams_and_stands_there_with_its_form(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(say("Two **things**:\n\n1. `one`\n", f"2. {EVIL} [x](javascript:alert(1)) ![p](/logout)\n", hold=1))
    page = begin(seen, f"what changed? {EVIL}")
    expect(page.locator("#now")).to_contain_text("Two **things**")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    picture(page, "streaming")
    model.let_go()
    answer = page.locator(".said-by.assistant")
    expect(answer.locator("strong")).to_have_text("things")
    expect(answer.locator("li")).to_have_count(2)
    expect(page.locator("#now")).to_be_empty()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(answer).to_contain_text(EVIL)
    assert answer.locator("img, script").count() == 0
    assert [one.get_attribute("href") for one in answer.locator("a").all()] == ["/logout"]
    assert page.evaluate("window.caught") is None
    expect(words(page)).to_have_value("")
    picture(page, "answer")


def test_a_call_waits_for_yes_and_is_seen_with_arguments_result_and_time(
    seen: WatchedPage, model: ScriptedModel
) -> None:
    model.will(call("small__echo", text="from the tool"), say("It said so.", hold=0))
    page = begin(seen, "ask the tool")
    asked = page.locator(".approval")
    expect(asked).to_contain_text("May small.echo be called?")
    expect(asked).to_contain_text('"text": "from the tool"')
    picture(page, "approval")
    asked.get_by_role("button", name="Yes").click()
    box = page.locator("#now .made")
    expect(box).to_contain_text("done")
    expect(box.locator(".took")).to_have_text(re.compile(r"\d\.\d\d s"))
    box.locator("summary").click()
    expect(box.locator(".result")).to_contain_text("from the tool")
    model.let_go()
    kept = page.locator(".said-by .made")
    expect(kept).to_contain_text("small.echo")
    kept.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(kept.locator("pre").last).to_contain_text("from the tool")
    expect(page.locator(".prose").last).to_have_text("It said so.")
    picture(page, "call")


def test_no_is_an_answer_and_an_open_question_outlives_a_reload(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="x"), say("Then not."))
    page = begin(seen, "ask the tool")
    expect(page.locator(".approval")).to_be_visible()
    page.reload()
    page.locator(".approval").get_by_role("button", name="No").click()
    expect(page.locator(".prose").last).to_have_text("Then not.")
    expect(page.locator(".said-by .made")).to_contain_text("denied")


def test_a_turn_is_stopped_edited_and_sent_again(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(say("on and ", "on", hold=1))
    cut_off = model.cut_off
    page = begin(seen, "talk")
    expect(page.locator("#now")).to_contain_text("on and")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".ending.stopped")).to_be_visible()
    wait_for(lambda: model.cut_off == cut_off + 1, within=PATIENCE / 1000, what="the request to the model aborted")
    model.let_go()
    model.will(say("as you say"))
    page.get_by_role("button", name=re.compile("^Edit message")).click()
    expect(words(page)).to_have_value("talk")
    words(page).fill("talk less")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".prose")).to_have_text("as you say")
    expect(page.locator(".said-by.user .plain-text")).to_have_text("talk less")
    model.will(say("again"))
    page.get_by_role("button", name=re.compile("again$")).click()
    expect(page.locator(".prose")).to_have_text("again")
    assert model.told("user") == ["talk less"]


def test_an_answer_that_breaks_off_is_taken_back(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(say("half of ", "it", breaks=True), say("all ", "of it", hold=1))
    page = begin(seen, "tell me")
    expect(page.locator("#now")).to_contain_text("it is asked again")
    expect(page.locator("#now")).to_contain_text("all ")
    expect(page.locator("#now")).not_to_contain_text("half of")
    picture(page, "taken-back")
    model.let_go()
    expect(page.locator(".prose")).to_have_text("all of it")


def test_pictures_and_texts_go_along(seen: WatchedPage, model: ScriptedModel, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PIXEL)
    (tmp_path / "notes.txt").write_text("remember the milk")
    (tmp_path / "blob.bin").write_bytes(b"\0\1")
    model.will(say("A dot."))
    page = seen.open("/chat")
    page.set_input_files("#attach", [tmp_path / "dot.png", tmp_path / "notes.txt", tmp_path / "blob.bin"])
    expect(page.locator(".toast")).to_contain_text("blob.bin is neither a picture nor text")
    expect(page.locator("#files li")).to_have_count(2)
    words(page).fill("what is it?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".prose")).to_have_text("A dot.")
    assert page.locator(".said-by.user img").evaluate("(one) => one.decode().then(() => one.naturalWidth)") == 1
    expect(page.locator(".said-by.user .plain-text")).to_contain_text("remember the milk")
    assert base64.b64encode(PIXEL).decode() in str(model.requests[-1])


def test_the_pictures_of_a_message_that_is_edited_are_kept_left_out_and_added_to(
    seen: WatchedPage, model: ScriptedModel, tmp_path: Path
) -> None:
    (tmp_path / "dot.png").write_bytes(PIXEL)
    model.will(say("A dot."))
    page = seen.open("/chat")
    page.set_input_files("#attach", [tmp_path / "dot.png"])
    words(page).fill("what is it?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".prose")).to_have_text("A dot.")
    page.get_by_role("button", name=re.compile("^Edit message")).click()
    expect(page.locator("#files li")).to_have_text(re.compile("Picture 1"))
    page.set_input_files("#attach", [tmp_path / "dot.png"])
    expect(page.locator("#files li")).to_have_count(2)
    picture(page, "edit-pictures")
    model.will(say("Two dots."))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".prose")).to_have_text("Two dots.")
    expect(page.locator(".said-by.user img")).to_have_count(2)
    page.get_by_role("button", name=re.compile("^Edit message")).click()
    page.get_by_role("button", name="Leave Picture 2 out").click()
    model.will(say("One dot."))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".prose")).to_have_text("One dot.")
    expect(page.locator(".said-by.user img")).to_have_count(1)
    assert str(model.requests[-1]).count(base64.b64encode(PIXEL).decode()) == 1
    page.get_by_role("button", name=re.compile("^Edit message")).click()
    page.get_by_role("button", name="Leave it", exact=True).click()
    expect(page.locator("#files li")).to_have_count(0)


def test_conversations_are_listed_searched_and_deleted(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(say("The heron stood still."))
    page = begin(seen, "a bird story")
    expect(page.locator(".prose")).to_have_text("The heron stood still.")
    page.get_by_label("Search what was said").fill("heron")
    page.keyboard.press("Enter")
    page.locator(".found a").first.click()
    expect(page.locator("h1")).to_have_text("a bird story")
    expect(page.locator(".chats [aria-current]")).to_have_text("a bird story")
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("h1")).to_have_text("New chat")
    expect(page.locator(".chats")).not_to_contain_text("a bird story")


def test_a_failure_is_told_with_what_helps(seen: WatchedPage, model: ScriptedModel) -> None:
    model.will(say(status=401))
    page = begin(seen, "hello?")
    expect(page.locator(".ending.failed")).to_contain_text("check api_key under [models.main]")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_whole_in_light_and_dark_on_wide_and_narrow_screens(
    browser: Browser, site: Site, model: ScriptedModel, scheme: str, width: int
) -> None:
    rows = "| a | b |\n|---|---|\n| " + "long " * 30 + "| x |\n\n```\n" + "wide " * 60 + "\n```\n"
    model.will(say(rows))
    with watched(browser, site, color_scheme=scheme, viewport={"width": width, "height": 800}) as seen:
        page = begin(seen, "w" * 300)
        expect(page.locator(".prose table")).to_be_visible()
        assert seen.width_beyond() == 0
        assert nameless(page) == []
        picture(page, scheme)


def test_who_may_only_read_is_offered_nothing_to_say(browser: Browser, site: Site) -> None:
    with watched(browser, site, link=site.link_of("read")) as seen:
        page = seen.open("/chat")
        assert page.locator("#composer, [data-edit], [data-retry]").count() == 0


def test_without_a_model_it_says_what_to_put_where_and_calls_tools(browser: Browser, tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path)
    try:
        with (
            closing(Site(up(gateway, '[agent]\napprovals = "never"\n[servers.small]\n@SERVER@'))) as site,
            watched(browser, site) as seen,
        ):
            page = seen.open("/chat")
            expect(page.locator("#no-model")).to_contain_text("[models.main]")
            picture(page, "no-model")
            page = begin(seen, '/call small.echo {"text": "no model needed"}')
            expect(page.locator(".prose").last).to_contain_text("no model needed")
            expect(page.locator(".said-by .made")).to_contain_text("small.echo")
            words(page).fill("and now?")
            page.keyboard.press("Enter")
            expect(page.locator(".ending.failed")).to_contain_text("No model is configured")
        gateway.stop()
    finally:
        gateway.close()
