"""Figures as people read them: Markdown tables, CSV files, medians with their spread."""

import csv
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

RESULTS = Path(".bench")


def say(text: str = "") -> None:
    """Print at once, so that a long run shows how far it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table that reads well on a terminal and can stand in `docs/benchmarks.md` as it is."""
    cells = [list(headers), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write_csv(name: str, headers: Iterable[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write `.bench/NAME.csv` and give its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headers)
        writer.writerows(rows)
    return path


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie: nearest rank, so that it is one that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], *, digits: int = 2) -> str:
    """`median (lowest-highest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def times(value: float, baseline: float) -> str:
    """How many times `baseline` a value is, e.g. `3.2x`."""
    ratio = value / baseline
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2g}x"
