"""The tables `[channels.NAME]`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from chatting import FakeChannel
from sexton.agent import Approval, Budget, ChatSettings, ToolRules
from sexton.daemon.settings import Settings, load_settings
from sexton.daemon.settings_problems import SettingsError
from sexton.gateway.channels import AccessRules, ChannelKind, ChannelOptions, kind
from sexton.gateway.channels.email import EmailOptions

Load = Callable[[str], Settings]
MAIL = 'address = "s@example.org"\nimap = "imap.example.org"\nsmtp = "smtp.example.org"\n'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def from_text(text: str) -> Settings:
        path = tmp_path / "sexton.toml"
        path.write_text(text)
        environment = {"TOKEN": "s3cret-value"}
        return load_settings(path, environment=environment, started_at=datetime(2026, 11, 22, tzinfo=UTC))

    return from_text


def test_a_channel(load: Load) -> None:
    settings = load(
        f"""\
[channels.mail]
type = "email"
{MAIL}password = "${{env:TOKEN}}"
authserv = "mx.example.org"
names = {{ me = "ada@example.org" }}
allow = ["me", "bob@example.org"]
home = "me"
when_busy = "steer"
[channels.email]
enabled = false
[jobs.brief]
command = ["true"]
deliver = ["mail", "mail:bob@example.org"]
"""
    )
    (setup,) = settings.channels.values()
    assert isinstance(setup.options, EmailOptions)
    assert setup.options.password == "s3cret-value"
    assert "s3cret-value" not in repr(settings.channels)
    assert setup.rules == AccessRules(allow=frozenset({"ada@example.org", "bob@example.org"}), tell_strangers=False)
    assert (setup.when_busy, setup.chat_of(None), setup.chat_of("x@y")) == ("steer", "ada@example.org", "x@y")
    assert settings.warnings == ()


@pytest.mark.parametrize(("said", "seconds"), [("", 20.0), ('progress = "2m"', 120.0), ('progress = "never"', None)])
def test_after_how_long_work_is_shown(load: Load, said: str, seconds: float | None) -> None:
    (setup,) = load(f"[channels.email]\n{MAIL}{said}\n").channels.values()
    assert setup.progress == seconds


def test_a_sender_that_can_be_forged_is_warned_of(load: Load) -> None:
    (*_, warning) = load(
        f'[channels.email]\n{MAIL}allow = ["a@example.org"]\n'
    ).warnings  # before it: no servers, no jobs
    assert warning.text("f").startswith("f:5: channels.email.allow names senders, and anybody can write under their")


def test_every_problem_is_told_with_its_place(load: Load) -> None:
    with pytest.raises(SettingsError) as raised:
        load(
            """\
[targets.email]
path = "x"
[channels.email]
adress = "s@example.org"
allow = "ada"
[channels.tele]
[channels.chat]
type = "emial"
"""
        )
    assert {problem.text("f") for problem in raised.value.problems} == {
        "f:3: channels.email has the name of [targets.email]; deliver needs one name for each",
        "f:3: channels.email has no address; a channel of type 'email' needs address = \"…\"",
        "f:3: channels.email has no imap; a channel of type 'email' needs imap = \"…\"",
        "f:3: channels.email has no smtp; a channel of type 'email' needs smtp = \"…\"",
        "f:4: channels.email.adress is an unknown key; did you mean 'address'?",
        'f:5: channels.email.allow is text; it must be a list, such as ["a", "b"]',
        'f:6: channels.tele has no type; add type = "…", one of ' + ", ".join(map(repr, kind.kind_names())),
        "f:8: channels.chat.type is 'emial', which is no platform; did you mean 'email'?",
    }


def test_what_a_chat_may_do_is_said_for_each_channel(load: Load) -> None:
    head = '[servers.files]\ncommand = "true"\n[models.main]\nprovider = "ollama"\nmodel = "m"\n'
    settings = load(
        f"""\
{head}[agent]
max_tokens = 9000
[channels.email]
{MAIL}model = "main"
instructions = "Be short."
servers = ["files"]
tools = {{ allow = ["files.*"], deny = ["rm"] }}
approvals = "always"
may = ["memory"]
max_steps = 3
turn_timeout = "1m"
"""
    )
    assert settings.channels["email"].settings == ChatSettings(
        models=("main",),
        servers=("files",),
        tools=ToolRules(allow=("files.*",), deny=("rm",)),
        approvals=Approval.ALWAYS,
        budget=Budget(max_steps=3, max_tokens=9000, timeout=60.0),
        instructions="Be short.",
        may=("memory",),
    )
    assert load(f"[channels.email]\n{MAIL}").channels["email"].settings == ChatSettings()
    with pytest.raises(SettingsError) as raised:
        load(f'{head}[channels.email]\n{MAIL}model = "mian"\nservers = ["fils"]\nmay = ["all"]\nmax_steps = 0\n')
    found = [problem.text("f") for problem in raised.value.problems]
    assert "f:10: channels.email.model names the model 'mian', which is not in this file; did you mean 'main'?" in found
    assert any("channels.email.servers names the server 'fils'" in one or "servers[0]" in one for one in found)
    assert sum(one.startswith(("f:12: channels.email.may", "f:13: channels.email.max_steps")) for one in found) == 2


class PagerOptions(ChannelOptions):
    number: int = 0


PAGER = ChannelKind(name="pager", options=PagerOptions, make=lambda _name, _options, _clock: FakeChannel())


def test_a_package_can_bring_a_platform(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="pager", value=f"{__name__}:PAGER", group=kind.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda _: PAGER)
    monkeypatch.setattr(kind, "entry_points", lambda group: [point])
    (setup,) = load("[channels.pager]\nnumber = 7\n").channels.values()
    assert setup.options == PagerOptions(number=7)


def test_a_library_that_is_not_there_is_named_with_its_extra(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'aioimaplib' ({name})", name="aioimaplib")

    monkeypatch.setattr("importlib.import_module", fails)
    with pytest.raises(SettingsError, match=r"needs aioimaplib, which is not installed; .*sexton\[email\]"):
        load("[channels.email]\n")
