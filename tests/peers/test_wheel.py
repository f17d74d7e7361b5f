"""What a user gets who installs the wheel: the dashboard is in it, whole, with nothing to build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "src" / "sexton" / "gateway" / "dashboard"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, as building leaves its own folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            "out",
            ".",
        ],
        cwd=folder,
        check=True,
        timeout=500,
        capture_output=True,
    )
    (built,) = (folder / "out").glob("*.whl")
    return zipfile.ZipFile(built)


def test_every_file_of_the_dashboard_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    files = [path for path in DASHBOARD.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"sexton/gateway/dashboard/templates/base.html", "sexton/gateway/dashboard/static/sexton.css"} <= wanted
    assert wanted - set(wheel.namelist()) == set()


def test_every_script_of_others_comes_with_its_licence() -> None:
    vendored = {path.name for path in (DASHBOARD / "static" / "vendor").glob("*.js")}
    notice = (DASHBOARD / "static" / "vendor" / "LICENCES.txt").read_text()
    assert vendored
    assert {name for name in vendored if name not in notice} == set()


def test_no_page_script_or_style_names_another_place(wheel: zipfile.ZipFile) -> None:
    """Addresses stand only in notices, and as the names of XML namespaces."""
    for name in wheel.namelist():
        if "/dashboard/" in name and name.endswith((".html", ".js", ".css", ".svg")):
            text = re.sub(r"^\s*(//|\*|/\*).*$", "", wheel.read(name).decode(), flags=re.M)
            assert re.findall(r"https?://(?!www\.w3\.org/)[^\s\"'`]+", text) == [], name


def test_no_page_has_a_script_or_a_style_within(wheel: zipfile.ZipFile) -> None:
    for name in wheel.namelist():
        if name.endswith(".html"):
            text = wheel.read(name).decode()
            assert re.findall(r"<style|\sstyle=|\son[a-z]+=[\"']|<script(?![^>]* src=)|\|\s*safe\b", text) == [], name
