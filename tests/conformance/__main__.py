"""`make conformance`: the official suite against the SDK directly and through the gateway, for both revisions.

Prints a table of checks passed/failed; ends with status 1 if anything that
passes directly does not pass through the gateway.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from conformance.comparison import BAD, score, table, worse
from conformance.suite import REVISIONS, Finding, extensions, run_suite
from conformance.token_proxy import TokenProxy
from system.gateway_process import GatewayProcess
from waiting import PATIENCE

SERVER: Final = Path(__file__).with_name("everything_server.py")
BEHIND: Final = {"stdio": "a server of both eras", "legacy": "a server of 2025-11-25"}
"""The servers behind the gateway, by the argument of `everything_server.py`."""

UNNAMED: Final = {
    "sep-2322-elicitation-incomplete": "the suite wants the question to be called user_name",
    "sep-2322-elicitation-complete": "so it does not go on",
    "sep-2322-ignore-unexpected-params": "it answers user_name before it was asked",
}
"""What fails for a 2026-07-28 client of an older server: the questions of such a server have no names."""

Runs = dict[str, tuple[Finding, ...]]
"""The findings by revision."""


async def run_direct(results: Path) -> Runs:
    """The suite and the SDK, with nothing between them."""
    async with serving_directly() as url:
        return await run_revisions(url, results / "direct")


async def run_through_gateway(results: Path) -> dict[str, Runs]:
    """The suite, the gateway, and each of the servers behind it."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = GatewayProcess(Path(folder))
        try:
            return await run_through(gateway.write(settings()).up(), results)
        finally:
            gateway.close()


async def run_through(gateway: GatewayProcess, results: Path) -> dict[str, Runs]:
    address = re.sub("^ready http://", "", gateway.wait_line("^ready "))
    token = (gateway.data / "token").read_text().strip()
    runs = {}
    async with TokenProxy.to(address, token) as proxy:
        for name in BEHIND:
            known = UNNAMED if name == "legacy" else ()
            runs[name] = await run_revisions(f"http://{proxy.own}/mcp/{name}", results / name, known=known)
    gateway.stop()
    return runs


async def run_revisions(url: str, results: Path, *, known: Collection[str] = ()) -> Runs:
    return {revision: await run_revision(url, revision, results / revision, known) for revision in REVISIONS}


async def run_revision(url: str, revision: str, results: Path, known: Collection[str]) -> tuple[Finding, ...]:
    """Run it once more if something required fails, and keep the better: scenarios have time limits, machines are busy.

    What fails both times is no accident; directly and through the gateway are treated alike.  `known` failures are
    not tried again.
    """
    runs = [await run_suite(url, revision, results / "first")]
    if any(each.status in BAD and each.check not in known for each in required(revision, runs[0])):
        runs.append(await run_suite(url, revision, results / "second"))
    return min(runs, key=lambda run: score(required(revision, run)).failed)


def required(revision: str, findings: Iterable[Finding]) -> list[Finding]:
    return [each for each in findings if each.scenario not in extensions(revision)]


@asynccontextmanager
async def serving_directly() -> AsyncIterator[str]:
    async with await anyio.open_process([sys.executable, str(SERVER), "http"], stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(PATIENCE):
            url = (await process.stdout.receive()).decode().strip()
        yield url
        process.terminate()


def settings() -> str:
    """A server on stdio cannot close the stream of a call, as a scenario wants to see it; the gateway can."""
    return '[endpoint]\nclose_streams_after = "2s"\n' + "\n".join(
        f"[servers.{name}]\ncommand = {json.dumps(sys.executable)}\nargs = {json.dumps([str(SERVER), name])}"
        for name in BEHIND
    )


def cells(runs: Runs) -> list[str]:
    main = [required(revision, runs[revision]) for revision in REVISIONS]
    optional = [each for revision in REVISIONS for each in runs[revision] if each.scenario in extensions(revision)]
    return [str(score(findings)) for findings in (*main, optional)]


def spoiled(name: str, direct: Runs, through: Runs) -> Iterable[str]:
    """What is worse through the gateway, in a line each."""
    for revision in REVISIONS:
        for finding in worse(direct[revision], through[revision]):
            named = name != "legacy" or finding.check not in UNNAMED
            if named and finding.scenario not in extensions(revision):
                yield f"{revision} {finding.scenario}: {finding.check} {finding.status} {finding.words}"


async def main(results: Path) -> int:
    direct = await run_direct(results)
    through = await run_through_gateway(results)
    rows = [["checks passed/failed", *REVISIONS, "tasks extension (optional)"], ["the SDK directly", *cells(direct)]]
    rows += [[f"through the gateway, {BEHIND[name]}", *cells(runs)] for name, runs in through.items()]
    print(table(rows))
    complaints = [f"{BEHIND[name]}: {line}" for name, runs in through.items() for line in spoiled(name, direct, runs)]
    print("".join(f"\nworse through the gateway with {line}" for line in complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(anyio.run(main, Path(sys.argv[1] if len(sys.argv) > 1 else folder)))
