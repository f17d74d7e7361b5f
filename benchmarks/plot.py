"""Lines over time as SVG, by hand: the plot of `benchmarks.cron_day` needs no library."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 200, 60, 30, 60
COLOURS = ("#0b6e4f", "#c1440e", "#4059ad")


def write_plot(path: Path, panels: Mapping[str, Mapping[str, Points]], *, x_label: str) -> None:
    """One panel under the other, each a title with named lines; every panel begins at 0 on both axes."""
    height = len(panels) * (HEIGHT + GAP) + TOP
    size = f'viewBox="0 0 {WIDTH + LEFT + 20} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts += _panel(title, lines, top=TOP + number * (HEIGHT + GAP), x_label=x_label)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _panel(title: str, lines: Mapping[str, Points], *, top: int, x_label: str) -> list[str]:
    most_x = max(x for points in lines.values() for x, _ in points) or 1
    most_y = max(y for points in lines.values() for _, y in points) or 1
    bottom = top + HEIGHT
    parts = [
        f'<text x="{LEFT}" y="{top - 10}" font-weight="bold">{title}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + WIDTH}" fill="none" stroke="#333"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most_y:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 16}" text-anchor="end">{x_label}: {most_x:.0f}</text>',
    ]
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(
            f"{LEFT + x / most_x * WIDTH:.1f},{bottom - y / most_y * HEIGHT:.1f}" for x, y in _thinned(points)
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{LEFT + 10 + number * 200}" y="{bottom + 16}" fill="{colour}">{name}</text>')
    return parts


def _thinned(points: Points, most: int = 300) -> Points:
    """At most so many points: of each stretch the highest, so that no peak is lost."""
    step = -(-len(points) // most)
    return [max(points[start : start + step], key=lambda point: point[1]) for start in range(0, len(points), step)]
