"""Runs the official suite against one address and reads what it found.

Source: the README of `@modelcontextprotocol/conformance`.  `--requirements`
runs exactly what a revision of the protocol requires; what it runs besides,
"not scored", is an extension, or came later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".conformance"
"""Where the Makefile installs the suite, and a node that is new enough for it."""

NODE: Final = FOLDER / "node"
PACKAGE: Final = FOLDER / "npm/node_modules/@modelcontextprotocol/conformance"
REVISIONS: Final = ("2025-11-25", "2026-07-28")
PATIENCE: Final = 120.0
"""Seconds for one run, which takes three on a quiet machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check, e.g. 'SUCCESS'; `words` are the suite's about a failure."""

    scenario: str
    check: str
    status: str
    words: str = ""


async def run_suite(url: str, revision: str, results: Path) -> tuple[Finding, ...]:
    """Run all that `revision` requires of a server at `url`, with the suite's own files put into `results`.

    Raises:
        RuntimeError: it left no findings; its last words are quoted.
    """
    command = [str(NODE), str(PACKAGE / "dist/index.js"), "server", "--url", url, "--requirements", revision]
    with anyio.fail_after(PATIENCE):
        done = await anyio.run_process([*command, "-o", str(results)], check=False)
    findings = tuple(_findings(results))
    if not findings:
        raise RuntimeError(f"the conformance suite found nothing at {url}: {(done.stdout + done.stderr)[-2000:]!r}")
    return findings


def extensions(revision: str) -> frozenset[str]:
    """The scenarios that are run but optional, by the suite's own list."""
    requirements: Mapping[str, Any] = yaml.safe_load((PACKAGE / f"requirements/{revision}.yaml").read_text())
    return frozenset(each["scenario"] for each in requirements["not_scored"] if each["reason"] == "extension")


def _findings(results: Path) -> Iterable[Finding]:
    for file in sorted(results.glob("server-*/checks.json")):
        # The folder is called server-SCENARIO-2026-11-22T20-34-12-037Z.
        scenario = file.parent.name.removeprefix("server-").rsplit("-", 6)[0]
        for check in json.loads(file.read_text()):
            yield Finding(
                scenario=scenario,
                check=check["id"],
                status=check["status"],
                words=check.get("errorMessage") or "",
            )
