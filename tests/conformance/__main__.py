"""`make conformance`: the official suite against a server made with the SDK, for both revisions of the protocol.

Prints a table of checks passed/failed; ends with status 1 if a required one fails.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from conformance.comparison import score, table
from conformance.suite import REVISIONS, Finding, extensions, run_suite

SERVER: Final = Path(__file__).with_name("everything_server.py")

Runs = dict[str, tuple[Finding, ...]]
"""The findings by revision."""


async def run_direct(results: Path) -> Runs:
    """The suite and the SDK, with nothing between them."""
    async with serving_directly() as url:
        return await run_revisions(url, results / "direct")


async def run_revisions(url: str, results: Path) -> Runs:
    return {revision: await run_suite(url, revision, results / revision) for revision in REVISIONS}


@asynccontextmanager
async def serving_directly() -> AsyncIterator[str]:
    async with await anyio.open_process([sys.executable, str(SERVER), "http"], stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(30):
            url = (await process.stdout.receive()).decode().strip()
        yield url
        process.terminate()


def cells(runs: Runs) -> list[str]:
    required = [
        [each for each in runs[revision] if each.scenario not in extensions(revision)] for revision in REVISIONS
    ]
    optional = [each for revision in REVISIONS for each in runs[revision] if each.scenario in extensions(revision)]
    return [str(score(findings)) for findings in (*required, optional)]


async def main(results: Path) -> int:
    direct = await run_direct(results)
    print(
        table(
            [["checks passed/failed", *REVISIONS, "tasks extension (optional)"], ["the SDK directly", *cells(direct)]]
        )
    )
    required = [
        each for revision in REVISIONS for each in direct[revision] if each.scenario not in extensions(revision)
    ]
    return 1 if score(required).failed else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(anyio.run(main, Path(sys.argv[1] if len(sys.argv) > 1 else folder)))
