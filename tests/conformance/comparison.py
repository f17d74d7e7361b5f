"""Two runs of the suite side by side (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from conformance.suite import Finding

PASSED: Final = "SUCCESS"
BAD: Final = frozenset({"FAILURE", "WARNING"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How many checks passed, and failed (a warning stands for a "should" that is not kept)."""

    passed: int
    failed: int

    def __str__(self) -> str:
        return f"{self.passed}/{self.failed}"


def score(findings: Iterable[Finding]) -> Score:
    """Count what the suite counts."""
    statuses = [finding.status for finding in findings]
    return Score(passed=statuses.count(PASSED), failed=sum(status in BAD for status in statuses))


def worse(direct: Iterable[Finding], through: Iterable[Finding], *, optional: Collection[str] = ()) -> list[Finding]:
    """Return the checks that the gateway spoils: they pass directly and do not through it, or only fail through it.

    Those in `optional` need not be made through it, and must not fail.
    """
    passes_directly = _verdicts(direct)
    passes_through = _verdicts(through)
    spoiled = [
        found
        for key, finding in passes_directly.items()
        if finding.status == PASSED
        if (found := passes_through.get(key, _missing(key))).status != PASSED
        if found.check not in optional or found.status in BAD
    ]
    new = [finding for key, finding in passes_through.items() if key not in passes_directly and finding.status in BAD]
    return spoiled + new


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows`, the first of which are the headings, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _verdicts(findings: Iterable[Finding]) -> dict[tuple[str, str], Finding]:
    """One finding for each check, the worst where it was made several times."""
    verdicts: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.scenario, finding.check)
        if key not in verdicts or _badness(finding) > _badness(verdicts[key]):
            verdicts[key] = finding
    return verdicts


def _badness(finding: Finding) -> int:
    return (PASSED, "INFO", "SKIPPED", "WARNING", "FAILURE").index(finding.status)


def _missing(key: tuple[str, str]) -> Finding:
    return Finding(scenario=key[0], check=key[1], status="MISSING")
