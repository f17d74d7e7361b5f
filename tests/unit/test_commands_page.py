"""The page of commands names what there is: every command and option, every key of the JSON, every route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sexton.cli.main import app
from sexton.gateway import documents
from sexton.gateway.http.app import ENDPOINTS

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        yield (*names, name), command


@pytest.mark.parametrize(("names", "command"), list(commands(typer.main.get_command(app))))
def test_every_command_and_option_stands_in_the_page(names: tuple[str, ...], command: Any) -> None:
    group = names[0]
    section = PAGE.split(f"## sexton {group}")[1].split("\n## ")[0]
    if len(names) == 2 and names[1] != "list":
        assert f"sexton {' '.join(names)}" in f"## sexton {group}{section}"
    for parameter in command.params:
        for option in [option for option in parameter.opts if option.startswith("--")]:
            assert option in section or option in PAGE.split("\n## ")[1], (names, option)


@pytest.mark.parametrize("name", [name for name in dir(documents) if name.endswith("Document")])
def test_every_key_of_the_json_stands_in_the_page(name: str) -> None:
    assert set(getattr(documents, name).__annotations__) - set(re.findall(r"`([a-z_]+)`", PAGE)) == set()


def test_every_route_stands_in_the_page() -> None:
    for endpoint in ENDPOINTS:
        assert f"`{endpoint.method} {endpoint.path}`" in PAGE
