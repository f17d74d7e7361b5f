"""`database` in the settings: a file, or an address on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from sexton.daemon.settings import Settings, load_settings
from sexton.daemon.settings_problems import SettingsError
from sexton.database import PostgresUrl

PASSWORD = "p@ss/w:rd hunter2"


def load(folder: Path, written: str, *, mode: int = 0o600) -> Settings:
    path = folder / "sexton.toml"
    path.write_text(f'listen = "127.0.0.1:0"\ndatabase = "{written}"\n[servers.time]\ncommand = "uvx"\n')
    path.chmod(mode)
    url = "postgresql://ada:whole@db/sexton"
    return load_settings(path, environment={"PGPASSWORD": PASSWORD, "DATABASE_URL": url})


def refused(folder: Path, written: str) -> str:
    with pytest.raises(SettingsError) as raised:
        load(folder, written)
    (problem,) = raised.value.problems
    return problem.text("f")


def test_a_path_starts_at_the_folder_of_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "data/runs.db").database == tmp_path / "data/runs.db"
    assert load(tmp_path, "sqlite:///runs.db").database == tmp_path / "runs.db"


def test_an_address_takes_its_password_from_elsewhere(tmp_path: Path) -> None:
    """Whatever its characters are, and it is shown nowhere."""
    settings = load(tmp_path, "postgresql://ada:${env:PGPASSWORD}@db:5433/sexton?sslmode=verify-full")
    encoded = "p%40ss%2Fw:rd%20hunter2"
    assert settings.database == PostgresUrl(f"postgresql://ada:{encoded}@db:5433/sexton?sslmode=verify-full")
    assert str(settings.database) == "postgresql://ada@db:5433/sexton"
    assert {PASSWORD, encoded} <= settings.secrets
    assert "hunter2" not in repr(settings)
    assert settings.warnings == ()


def test_the_whole_address_may_stand_elsewhere(tmp_path: Path) -> None:
    settings = load(tmp_path, "${env:DATABASE_URL}")
    assert settings.database == PostgresUrl("postgresql://ada:whole@db/sexton")
    assert "whole" in settings.secrets


def test_a_password_in_a_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, "postgresql://ada:hunter2@db/sexton", mode=0o644).warnings
    assert (warning.line, warning.path) == (2, ("database",))
    assert "PGPASSWORD" in warning.what
    assert "hunter2" not in warning.what
    assert load(tmp_path, "postgresql://ada:hunter2@db/sexton", mode=0o600).warnings == ()
    assert load(tmp_path, "postgresql://ada:${env:PGPASSWORD}@db/sexton", mode=0o644).warnings == ()
    assert load(tmp_path, "postgresql://ada@db/sexton", mode=0o644).warnings == ()


def test_what_cannot_be_an_address(tmp_path: Path) -> None:
    assert "f:2: database is a mysql address" in refused(tmp_path, "mysql://ada@db/sexton")
    assert "names no database" in refused(tmp_path, "postgresql://ada@db")
    assert "a port that is no number" in refused(tmp_path, "postgresql://ada:hunter2@db:five/sexton")
    assert "no environment variable NOTHING" in refused(tmp_path, "postgresql://ada:${env:NOTHING}@db/sexton")
