"""Charts of a report as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from daclip.line_chart import COLOURS

__all__ = ["heat", "radar"]

SIZE, RADIUS = 420, 140
RINGS = 4


def _nice(low: float, high: float) -> tuple[float, float]:
    """Round ends of an axis.

    >>> _nice(9.1, 28.6)
    (5.0, 30.0)
    """
    span = high - low or 1.0
    unit = 10.0 ** math.floor(math.log10(span))
    step = unit / 2 if span / unit < 5 else unit
    return math.floor((low - 1e-9) / step) * step - (0.0 if low % step else step), math.ceil(high / step) * step


def radar(series: Mapping[str, Mapping[str, float]], axes: Sequence[str], unit: str) -> str:
    """A radar plot: one axis a degradation, one outline a run, one scale for all axes.

    Args:
        series: Name to value by axis; an axis that a series lacks is left out of its outline.
        axes: At least three.
        unit: Written at the scale.
    """
    finite = [value for row in series.values() for value in row.values() if math.isfinite(value)]
    low, high = _nice(min(finite), max(finite))
    middle = SIZE / 2

    def place(index: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        distance = RADIUS * (min(value, high) - low) / (high - low)
        return middle + distance * math.cos(angle), middle + distance * math.sin(angle)

    def outline(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    height = SIZE + 18 * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {height}" class="radar" role="img" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{SIZE}" height="{height}" fill="white"/>',
    ]
    for ring in range(1, RINGS + 1):
        value = low + (high - low) * ring / RINGS
        circle = outline([place(index, value) for index in range(len(axes))])
        parts.append(f'<polygon points="{circle}" fill="none" stroke="#ddd"/>')
    for index, axis in enumerate(axes):
        x, y = place(index, high)
        parts.append(f'<line x1="{middle}" y1="{middle}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        x, y = middle + (RADIUS + 14) * math.cos(angle), middle + (RADIUS + 14) * math.sin(angle)
        anchor = "middle" if abs(math.cos(angle)) < 0.2 else "start" if math.cos(angle) > 0 else "end"
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(axis)}</text>')
    for number, (name, row) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(index, row[axis]) for index, axis in enumerate(axes) if axis in row]
        parts.append(
            f'<polygon points="{outline(points)}" fill="{colour}" fill-opacity="0.08" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        y = SIZE + 18 * number
        parts.append(f'<line x1="12" y1="{y}" x2="40" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="46" y="{y + 4}">{escape(name)}</text>')
    for ring in range(RINGS + 1):
        value = low + (high - low) * ring / RINGS
        _, y = place(0, value)
        text = f"{value:g} {unit}" if ring == RINGS else f"{value:g}"
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
