"""What is a secret, and that it leaves no text."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fake_clock import FakeClock
from sexton.journal import Journal
from sexton.redaction import HIDDEN, Redactor


@given(st.text(min_size=6), st.text(max_size=10), st.text(max_size=10))
@example("000000", "Ð", "")  # after the escape \u00d0 the digits go on
@example("abcdef\\", "", '"')
@example('"}, "b"', "", "")
@example("12345678", "", "")
def test_a_known_secret_leaves_every_text_and_every_json(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])
    if secret.startswith(("/", "~", "./", "../")) or secret in before or secret in after:
        return
    assert secret not in redactor.known(f"{before}{secret}{after}").replace(HIDDEN, "")
    for ascii_only in (True, False):
        written = json.dumps({"a": f"{before}{secret}{after}", "n": 12345678}, ensure_ascii=ascii_only)
        answered = json.loads(redactor.json(written))
        assert secret not in answered["a"].replace(HIDDEN, "")
        assert answered["n"] == 12345678


def test_the_longest_secret_goes_first_and_what_was_learnt_stays() -> None:
    redactor = Redactor(["secret"])
    redactor.learn(["secret-and-more"])
    assert redactor.known("a secret-and-more, a secret") == f"a {HIDDEN}, a {HIDDEN}"


def test_what_is_short_or_a_path_is_no_secret() -> None:
    redactor = Redactor(["/home/ada", "~/notes", "8080", ""])
    assert redactor.text("8080 /home/ada ~/notes") == "8080 /home/ada ~/notes"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdef1234567890abcd", "Authorization: Bearer •••"),
        ("'authorization': 'Basic dXNlcjpwYXNz'", "'authorization': 'Basic •••'"),
        ("got bearer abcdefghijklmnopqrstuvwx.yz", "got bearer •••"),
        ("postgresql://me:hunter2@host/db", "postgresql://me:•••@host/db"),
        ("key sk-proj-abcdefghijklmnopqrstuvwx!", "key •••!"),
        ("ghp_" + "a1" * 18, "•••"),
        ("github_pat_" + "a1" * 18, "•••"),
        ("xoxb-1234567890-abcdef", "•••"),
        ("AKIAABCDEFGHIJKLMNOP", "•••"),
        ("https://api.telegram.org/bot123456789:AA" + "x" * 33 + "/getMe", None),
        ("bot 123456789:AA" + "x" * 33, "bot •••"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abcdefgh-_1", "•••"),
        ("sxt_abcdefgh_" + "x" * 43, "•••"),
        ("GET /login?code=abc-def_1 HTTP/1.1", "GET /login?code=••• HTTP/1.1"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", None),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, left: str | None) -> None:
    hidden = Redactor().text(text)
    assert HIDDEN in hidden
    assert left is None or hidden == left
    assert "MIIE" not in hidden
    assert "x" * 33 not in hidden
    assert Redactor().text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "a bearer of bad news",
        "basic understanding of authorization",
        "http://127.0.0.1:7390/login",
        "user@example.com, see http://host/@me",
        "task-force, ask-me, desk-lamp",
        "12:AA",
    ],
)
def test_innocent_text_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_a_member_whose_name_says_secret_is_hidden_whole() -> None:
    document = {"api_key": "x", "tokens": 12, "list": [{"Password": "y", "note": "sk-" + "a" * 24}], "token": ""}
    assert Redactor().document(document) == {
        "api_key": HIDDEN,
        "tokens": 12,
        "list": [{"Password": HIDDEN, "note": HIDDEN}],
        "token": "",
    }


def test_no_event_holds_a_secret() -> None:
    journal = Journal.open(clock=FakeClock(), redactor=Redactor(["hunter2"]))
    journal.append("server.failed", subject="time", what="it said hunter2", more={"deep": ["Bearer " + "a" * 30]})
    [event] = journal.since(0)
    assert event.data == {"what": f"it said {HIDDEN}", "more": {"deep": [f"Bearer {HIDDEN}"]}}
