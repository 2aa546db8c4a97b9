"""Charts of a report as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from daclip.line_chart import COLOURS

__all__ = ["heat", "radar"]

WIDTH, HEIGHT, RADIUS = 530, 350, 140


def _rings(low: float, high: float) -> list[float]:
    """Three to six round values, the first below all others that are to be shown.

    >>> _rings(9.1, 28.6)
    [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """
    span = high - low or 1.0
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(unit * factor for factor in (0.2, 0.5, 1, 2, 5) if span / (unit * factor) <= 5)
    first, last = math.ceil(low / step) - 1, math.ceil(high / step)
    return [round(step * index, 10) for index in range(first, max(last, first + 2) + 1)]


def radar(series: Mapping[str, Mapping[str, float]], axes: Sequence[str], unit: str) -> str:
    """A radar plot: one axis a degradation, one outline a run, one scale for all axes.

    Args:
        series: Name to value by axis; an axis that a series lacks is left out of its outline.
        axes: At least three.
        unit: Written at the scale.
    """
    finite = [value for row in series.values() for value in row.values() if math.isfinite(value)]
    rings = _rings(min(finite), max(finite))
    low, high = rings[0], rings[-1]
    middle, centre = WIDTH / 2, HEIGHT / 2

    def place(index: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        distance = RADIUS * (min(value, high) - low) / (high - low)
        return middle + distance * math.cos(angle), centre + distance * math.sin(angle)

    def outline(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    height = HEIGHT + 18 * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" class="radar" role="img" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for value in rings[1:]:
        circle = outline([place(index, value) for index in range(len(axes))])
        parts.append(f'<polygon points="{circle}" fill="none" stroke="#ddd"/>')
    for index, axis in enumerate(axes):
        x, y = place(index, high)
        parts.append(f'<line x1="{middle}" y1="{centre}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        x, y = middle + (RADIUS + 14) * math.cos(angle), centre + (RADIUS + 14) * math.sin(angle)
        anchor = "middle" if abs(math.cos(angle)) < 0.2 else "start" if math.cos(angle) > 0 else "end"
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(axis)}</text>')
    for number, (name, row) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(index, row[axis]) for index, axis in enumerate(axes) if axis in row]
        parts.append(
            f'<polygon points="{outline(points)}" fill="{colour}" fill-opacity="0.08" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        y = HEIGHT + 18 * number
        parts.append(f'<line x1="12" y1="{y}" x2="40" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="46" y="{y + 4}">{escape(name)}</text>')
    for value in rings:
        _, y = place(0, value)
        text = f"{value:g} {unit}" if value == high else f"{value:g}"
        parts.append(f'<text x="{middle + 4}" y="{y + 4:.1f}" fill="#666" font-size="10">{escape(text)}</text>')
    return "\n".join([*parts, "</svg>"])


def heat(share: float) -> str:
    """Colours of a cell of the confusion matrix, as CSS.

    >>> heat(0.0)
    'background:#ffffff;color:#222'
    """
    # From white to the first colour of the charts.
    red, green, blue = (round(255 + (end - 255) * share) for end in (0x00, 0x72, 0xB2))
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{'#fff' if share > 0.5 else '#222'}"
