"""`[models.NAME]` of a model on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sexton.daemon import Settings, SettingsError, load_settings, settings_models
from sexton.local_models import LocalModel


def settings_of(folder: Path, text: str) -> Settings:
    file = folder / "sexton.toml"
    file.write_text(text)
    return load_settings(file, environment={})


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as found:
        settings_of(folder, text)
    return [problem.text("") for problem in found.value.problems]


def test_a_model_by_name_has_what_suits_a_small_machine(tmp_path: Path) -> None:
    text = '[models.here]\nprovider = "local"\nmodel = "qwen2.5-coder-1.5b"\n'
    model = settings_of(tmp_path, text).agent.models["here"]
    assert model.local == LocalModel(name="here", file="qwen2.5-coder-1.5b")
    assert (model.context_window, model.timeout, model.retries) == (8_192, 600.0, 2)
    assert model.price is not None
    assert model.price.of(input_tokens=1, cached_tokens=0, output_tokens=1) == 0


def test_a_model_by_path_is_found_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    text = """
[models.here]
provider = "local"
model = "own.gguf"
context_window = 4096
threads = 3
idle_timeout = "1m"
start_timeout = "2m"
"""
    model = settings_of(tmp_path, text).agent.models["here"]
    assert model.local == LocalModel(
        name="here",
        file=tmp_path.resolve() / "own.gguf",
        context=4_096,
        threads=3,
        idle_timeout=60.0,
        start_timeout=120.0,
    )


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    text = """
[models.slip]
provider = "local"
model = "qwen2.5-coder-1.5"

[models.lost]
provider = "local"
model = "models/lost.gguf"
api_key = "x"

[models.far]
provider = "ollama"
model = "m"
threads = 2
"""
    assert problems_of(tmp_path, text) == [
        (
            ":4: models.slip.model names 'qwen2.5-coder-1.5', which is neither a path of a .gguf file nor a "
            "known model; did you mean 'qwen2.5-coder-1.5b'?"
        ),
        f":8: models.lost.model is 'models/lost.gguf', and there is no file {tmp_path.resolve()}/models/lost.gguf",
        ":9: models.lost.api_key is not for a model on this machine; take it away",
        ':14: models.far.threads is only for a model on this machine: provider = "local"',
    ]


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_models, "is_installed", lambda: False)
    text = '[models.here]\nprovider = "local"\nmodel = "qwen2.5-coder-1.5b"\n'
    assert problems_of(tmp_path, text) == [
        (
            ':2: models.here.provider is "local", which needs xllamacpp, which is not installed; '
            "run: pip install 'sexton[local]'"
        )
    ]
