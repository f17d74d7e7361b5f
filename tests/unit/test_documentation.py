"""The documentation names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from sexton.daemon.settings_file import JobTable, LimitsTable, RootTable, ServerTable, StopTable, ToolsTable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", [RootTable, ServerTable, JobTable, StopTable, LimitsTable, ToolsTable])
def test_every_key_of_the_settings_stands_in_the_configuration_page(table: type[BaseModel]) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", page)) | {"allow", "deny", "servers", "jobs"}
    assert set(table.model_fields) - named == set()


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        (page.name, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
