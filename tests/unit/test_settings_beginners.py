"""What a beginner writes into sexton.toml, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sexton.daemon import SettingsError, load_settings


def problems_of(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(SettingsError) as found:
        load_settings(file, environment={})
    return [problem.text("") for problem in found.value.problems]


def test_every_mistake_in_a_model_is_told_with_its_place(tmp_path: Path) -> None:
    text = """
[models.main]
provider = "opneai"
model = 3
apikey = "x"

[models.half]
provider = "openai"

[models.dear]
provider = "ollama"
model = "m"
price = { input = 1 }

[agent]
model = "mian"
"""
    providers = "'openai', 'anthropic', 'ollama', 'openrouter', 'local'"
    assert problems_of(tmp_path / "sexton.toml", text) == [
        f":3: models.main.provider is 'opneai'; allowed: {providers}; did you mean 'openai'?",
        ":4: models.main.model is a number; it must be text in quotes",
        ":5: models.main.apikey is an unknown key; did you mean 'api_key'?",
        ':7: models.half has no model; add model = "gpt-5-mini", the name by which the provider knows it',
        ":13: models.dear.price.output is missing",
        ":16: agent.model names the model 'mian', which is not in this file; did you mean 'main'?",
    ]


def test_a_misspelt_key_of_tls_is_told_beside_the_missing_one(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "sexton.toml", '[tls]\ncert = "c.pem"\nkey = "k.pem"') == [
        ":1: tls needs both certificate and key, each the path of a PEM file",
        ":2: tls.cert is an unknown key; allowed: 'certificate', 'key'",
    ]


def test_a_file_with_nothing_to_do_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "sexton.toml"
    file.write_text('timezone = "UTC"\n')
    assert [warning.text(file.name) for warning in load_settings(file).warnings] == [
        "sexton.toml: has neither servers nor jobs; add [servers.NAME], or: sexton servers import FILE"
    ]
    file.write_text('[jobs.uptime]\ncommand = ["uptime"]\n')
    assert load_settings(file).warnings == ()
