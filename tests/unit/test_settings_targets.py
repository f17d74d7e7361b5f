"""The tables `[targets.NAME]`, and what `deliver` may name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sexton.daemon.settings import Settings, load_settings
from sexton.daemon.settings_problems import SettingsError
from sexton.gateway.deliveries import AppriseConfig, FileConfig, WebhookConfig
from sexton.scheduler import DeliverOn

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Settings]:
    def from_text(text: str) -> Settings:
        path = tmp_path / "sexton.toml"
        path.write_text(text)
        return load_settings(path, environment={"TOKEN": "s3cret-value"}, started_at=NOW)

    return from_text


def test_each_kind_of_target(load: Callable[[str], Settings], tmp_path: Path) -> None:
    settings = load(
        """\
[targets.hook]
url = "https://example.org/${env:TOKEN}"
secret = "${env:TOKEN}"
headers = { x = "${env:TOKEN}" }
timeout = "5s"
[targets.log]
path = "out/log.txt"
max_size = "1MiB"
[targets.phone]
type = "apprise"
url = "json://${env:TOKEN}"
give_up_after = "1h"
[jobs.brief]
command = ["true"]
deliver = ["hook", "log"]
deliver_on = "output"
"""
    )
    assert settings.targets == {
        "hook": WebhookConfig(
            url="https://example.org/s3cret-value", secret="s3cret-value", headers={"x": "s3cret-value"}, timeout=5.0
        ),
        "log": FileConfig(path=tmp_path / "out/log.txt", max_bytes=1 << 20),
        "phone": AppriseConfig(url="json://s3cret-value", give_up_after=3600.0),
    }
    assert "s3cret-value" not in repr(settings.targets)
    assert settings.jobs[0].deliver == ("hook", "log")
    assert settings.jobs[0].deliver_on is DeliverOn.OUTPUT


def test_every_problem_is_told_with_its_place(load: Callable[[str], Settings]) -> None:
    with pytest.raises(SettingsError) as raised:
        load(
            """\
[targets.hook]
url = "ftp://example.org"
[targets.none]
secret = "x"
[targets.chat]
type = "telegram"
[targets.slip]
urll = "https://example.org"
[targets.typo]
type = "webhok"
[targets.file]
path = "."
older = -1
[targets.more]
url = "https://example.org"
secrt = "x"
[jobs.brief]
command = ["true"]
deliver = ["hok", "file", 3]
deliver_on = "failures"
"""
        )
    assert [problem.text("f") for problem in raised.value.problems] == [
        "f:2: targets.hook.url must begin with http:// or https:// and name a host",
        'f:3: targets.none has neither url nor path; add url = "https://…" for a webhook, path = "…" for a file',
        (
            "f:6: targets.chat.type is 'telegram'; allowed: 'webhook', 'file', 'apprise'; a chat platform is a table"
            " [channels.NAME]"
        ),
        "f:8: targets.slip.urll is an unknown key; did you mean 'url'?",
        "f:10: targets.typo.type is 'webhok'; allowed: 'webhook', 'file', 'apprise'; did you mean 'webhook'?",
        f"f:12: targets.file.path is '.', and {raised.value.file.parent} is a folder",
        "f:13: targets.file.older is too small; the smallest is 0",
        "f:16: targets.more.secrt is an unknown key; did you mean 'secret'?",
        "f:19: jobs.brief.deliver[0] is 'hok', and there is no target or channel 'hok'; did you mean 'hook'?",
        "f:19: jobs.brief.deliver[2] is a number; it must be text in quotes",
        (
            "f:20: jobs.brief.deliver_on is 'failures'; allowed: 'always', 'output', 'success', 'failure'; did you mean"
            " 'failure'?"
        ),
    ]


def test_whoever_may_send_says_to_whom(load: Callable[[str], Settings]) -> None:
    with pytest.raises(SettingsError) as raised:
        load(
            """\
[targets.log]
path = "log.txt"
[jobs.nobody]
prompt = "x"
may = ["send"]
[jobs.vain]
prompt = "x"
send_to = ["log"]
[jobs.slips]
prompt = "x"
may = ["sent", "jobs"]
[jobs.lost]
prompt = "x"
may = ["send"]
send_to = ["lug"]
[jobs.other]
call = "time.now"
may = ["runs"]
[servers.time]
command = "true"
"""
        )
    assert [problem.text("f") for problem in raised.value.problems] == [
        'f:5: jobs.nobody.may has "send", and nobody is named to send to; add send_to = ["NAME"], or deliver',
        'f:8: jobs.vain.send_to has no effect without may = ["send"]',
        ("f:11: jobs.slips.may[0] is 'sent'; allowed: 'runs', 'jobs', 'memory', 'send'; did you mean 'send'?"),
        "f:15: jobs.lost.send_to[0] is 'lug', and there is no target or channel 'lug'; did you mean 'log'?",
        "f:18: jobs.other.may belongs to prompt and has no meaning for a call",
    ]


def test_a_job_has_none_of_sextons_own_tools_unless_it_is_said(load: Callable[[str], Settings]) -> None:
    told = '[jobs.b]\nprompt = "x"\nmay = ["send", "runs"]\nsend_to = ["log:me"]\n[targets.log]\npath = "l"\n'
    [quiet, able] = load('[jobs.a]\nprompt = "x"\n' + told).jobs
    assert (quiet.action["may"], quiet.action["send_to"]) == ([], [])
    assert (able.action["may"], able.action["send_to"]) == (["send", "runs"], ["log:me"])
