"""The documentation names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from sexton.daemon.settings_channels import ChannelTable
from sexton.daemon.settings_endpoint import EndpointTable, ProfileTable
from sexton.daemon.settings_file import JobTable, LimitsTable, RootTable, ServerTable, StopTable, ToolsTable
from sexton.daemon.settings_http import HttpTable, TlsTable
from sexton.daemon.settings_models import AgentTable, ModelTable
from sexton.daemon.settings_targets import AppriseTable, FileTable, WebhookTable
from sexton.daemon.settings_telemetry import TelemetryTable
from sexton.gateway.channels.discord import DiscordOptions
from sexton.gateway.channels.email import EmailOptions
from sexton.gateway.channels.irc import IrcOptions
from sexton.gateway.channels.matrix import MatrixOptions
from sexton.gateway.channels.slack import SlackOptions
from sexton.gateway.channels.telegram import TelegramOptions

ROOT = Path(__file__).parents[2]

TOP = (
    *("allow", "deny", "models", "agent", "servers", "jobs", "targets", "channels", "endpoint", "profiles"),
    "telemetry",
)


@pytest.mark.parametrize(
    "table",
    [
        RootTable,
        ServerTable,
        JobTable,
        StopTable,
        LimitsTable,
        ToolsTable,
        WebhookTable,
        FileTable,
        AppriseTable,
        ChannelTable,
        DiscordOptions,
        EmailOptions,
        IrcOptions,
        MatrixOptions,
        SlackOptions,
        TelegramOptions,
        EndpointTable,
        ProfileTable,
        ModelTable,
        AgentTable,
        HttpTable,
        TlsTable,
        TelemetryTable,
    ],
)
def test_every_key_of_the_settings_stands_in_the_configuration_page(table: type[BaseModel]) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", page)) | set(TOP)
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


def _examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_example_of_contained_programs_runs_as_it_stands(tmp_path: Path) -> None:
    assert "all gone: released" in _output_of(_examples("docs/library.md")[1], tmp_path)


def test_the_example_of_the_drop_in_runs_as_it_stands(tmp_path: Path, real_servers: Path) -> None:
    python = str(real_servers / "python" / "bin" / "python")
    said = _output_of(_examples("docs/library.md")[0].replace("sys.executable", repr(python)), tmp_path)
    assert "['get_current_time', 'convert_time']" in said


def _output_of(program: str, folder: Path) -> str:
    file = folder / "example.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout
