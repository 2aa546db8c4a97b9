"""Line charts as SVG text, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from rich.table import Table

from daclip.errors import DaclipError

# Okabe and Ito's, which colour-blind readers can tell apart, and three more; dashes tell further series apart.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255", "#7f7f7f",
)  # fmt: skip
DASHES = ("", "6 3", "2 3")
WIDTH, HEIGHT = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 12, 30, 44
LEGEND, LETTER = 48, 6.4  # width of the legend's column without its names, and of one of their letters
MARKED = 30  # points of a line above which they are not marked one by one


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: Above the chart.
        x_label: Below the horizontal axis.
        y_label: Beside the vertical axis, which is linear.
        series: Name to points (x, y), x positive on a logarithmic axis; series of one name look alike in all panels.
        depth: How far from the best point the vertical axis reaches at most; lines that go further leave the chart
            at its bottom. None shows all.
        logarithmic: Kind of the horizontal axis.
        lower_is_better: The vertical axis grows downwards, so that up is better.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    depth: float | None = None
    logarithmic: bool = True
    lower_is_better: bool = False


def line_charts(panels: Sequence[Panel], legend_below: bool = False) -> str:
    """Charts side by side with one legend.

    Args:
        panels: The charts.
        legend_below: Put the legend below the charts, for narrow pages, instead of to their right.

    >>> line_charts([Panel("gain", "NFE", "dB", {"ddim": [(1, 2.0), (10, 2.5)]})]).startswith("<svg")
    True
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    looks = {name: _look(index) for index, name in enumerate(names)}
    legend = LEGEND + round(LETTER * max(map(len, names), default=0))
    width = WIDTH * len(panels) + (0 if legend_below else legend)
    height = HEIGHT + 18 * len(names) if legend_below else max(HEIGHT, TOP + 18 * len(names) + 10)
    left, top = (LEFT, HEIGHT + 6) if legend_below else (WIDTH * len(panels) + 8, TOP + 9)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        parts += [f'<g transform="translate({index * WIDTH} 0)">', *_panel(panel, looks), "</g>"]
    for row, name in enumerate(names):
        x, y = left, top + 18 * row
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" {looks[name]}/>')
        parts.append(_text(x + 32, y + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _look(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{COLOURS[index % len(COLOURS)]}" fill="none" stroke-width="1.8"{dashed}'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _panel(panel: Panel, looks: Mapping[str, str]) -> list[str]:
    up = -1 if panel.lower_is_better else 1
    series = {name: [(x, up * y) for x, y in line if math.isfinite(y)] for name, line in panel.series.items()}
    points = [point for line in series.values() for point in line]
    if not points or (panel.logarithmic and min(x for x, _ in points) <= 0):
        raise DaclipError(f"the chart '{panel.title}' needs finite points with x > 0")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    high_y = max(y for _, y in points)
    low_y = min(y for _, y in points)
    if panel.depth is not None:
        low_y = max(low_y, high_y - panel.depth)
    room = 0.05 * (high_y - low_y) or 0.5
    low_y, high_y = low_y - room, high_y + room

    def along(x: float) -> float:
        return math.log(x) if panel.logarithmic else x

    span_x = along(high_x) - along(low_x) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (along(x) - along(low_x)) / span_x,
            TOP + (HEIGHT - TOP - BOTTOM) * (high_y - y) / (high_y - low_y),
        )

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = (TOP + bottom) / 2
    frame = f'x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"'
    parts = [
        _text((LEFT + right) / 2, 18, panel.title, 'text-anchor="middle" font-weight="bold"'),
        _text((LEFT + right) / 2, HEIGHT - 8, panel.x_label, 'text-anchor="middle"'),
        _text(14, middle, panel.y_label, f'text-anchor="middle" transform="rotate(-90 14 {middle})"'),
    ]
    for value in _log_ticks(low_x, high_x) if panel.logarithmic or low_x == high_x else _linear_ticks(low_x, high_x):
        x, _ = place(value, low_y)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 14, f"{value:g}", 'text-anchor="middle"'))
    for value in _linear_ticks(low_y, high_y):
        _, y = place(low_x, value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 5, y + 4, f"{up * value:g}", 'text-anchor="end"'))
    parts.append(f'<rect {frame} fill="none" stroke="#666"/>')
    for name, line in series.items():
        placed = [place(x, y) for x, y in line]
        parts.append(f'<path d="{_path_above(placed, bottom)}" {looks[name]}/>')
        if len(placed) <= MARKED:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" {looks[name]}/>' for x, y in placed if y <= bottom]
    return parts


def _path_above(points: Sequence[tuple[float, float]], bottom: float) -> str:
    """The line through the points as SVG path data, without what lies below the chart.

    >>> _path_above([(0, 0), (2, 4), (4, 0)], 2)
    'M0.0,0.0 L1.0,2.0 M3.0,2.0 L4.0,0.0'
    """
    parts = [f"M{x:.1f},{y:.1f}" for x, y in points[:1] if y <= bottom]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 > bottom and y1 > bottom:
            continue
        edge = x0 + (x1 - x0) * (bottom - y0) / (y1 - y0) if max(y0, y1) > bottom else x1
        if y0 > bottom:
            parts.append(f"M{edge:.1f},{bottom:.1f}")
        parts.append(f"L{x1:.1f},{y1:.1f}" if y1 <= bottom else f"L{edge:.1f},{bottom:.1f}")
    return " ".join(parts)


def _linear_ticks(low: float, high: float) -> list[float]:
    """About five round values between two numbers.

    >>> _linear_ticks(-0.2, 2.6)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda candidate: abs(candidate - rough))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive numbers, at most about eight.

    >>> _log_ticks(1, 100)
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    found = [round(10.0**power * factor, 10) for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


LABELS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "dists": "DISTS"}


def metric_label(name: str) -> str:
    """How tables write a metric's name.

    >>> metric_label("ms_ssim"), metric_label("fid")
    ('MS-SSIM', 'FID')
    """
    return LABELS.get(name, name.upper())


def metric_names(row: Mapping[str, Any]) -> list[str]:
    """Metrics of a row of scores.

    >>> metric_names({"psnr_lq": 1.0, "psnr": 2.0, "count": 3})
    ['psnr']
    """
    return [name for name in row if name != "count" and not name.endswith("_lq")]


def score_text(name: str, value: float) -> str:
    """A score with as many digits as its differences are worth.

    >>> score_text("psnr", 23.456), score_text("ssim", 0.98765)
    ('23.46', '0.988')
    """
    return f"{value:.2f}" if name in ("psnr", "fid") else f"{value:.3f}"


def score_tables(metrics: Mapping[str, Any], width: int) -> list[Table]:
    """Scores of `metrics.json`: one line a degradation, then their mean; as many tables as the width asks for.

    Args:
        metrics: Content of `metrics.json`.
        width: Characters of the console.
    """
    room = max(1, (width - 30) // 24)  # metrics that fit beside the words, the accuracy and the count
    names = metric_names(metrics["mean"])
    return [_table(metrics, names[i : i + room]) for i in range(0, len(names), room)]


def _table(metrics: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = Table(title=f"{'degraded → restored' if 'nfe' in metrics else 'photos'}, {metrics['protocol']['text']}")
    table.add_column("degradation", no_wrap=True)
    named: dict[str, float] = {}
    if "degradation_accuracy" in metrics:
        named = {**metrics["per_degradation_accuracy"], "mean": metrics["degradation_accuracy"]}
    headings: list[str] = []
    for name in names:
        if f"{name}_lq" in metrics["mean"]:
            headings.append(f"{metric_label(name)} in")
        headings.append(metric_label(name))
        if name == "psnr" and "psnr_lq" in metrics["mean"]:
            headings.append("gain")
    for heading in [*headings, *(["named"] if named else []), "n"]:
        table.add_column(heading, justify="right")
    for class_name, row in [*metrics["per_degradation"].items(), ("mean", metrics["mean"])]:
        if class_name == "mean":
            table.add_section()
        cells: list[str] = []
        for name in names:
            if f"{name}_lq" in row:
                cells.append(score_text(name, row[f"{name}_lq"]))
            cells.append(score_text(name, row[name]))
            if name == "psnr" and "psnr_lq" in row:
                cells.append(f"{row['psnr'] - row['psnr_lq']:+.2f}")
        table.add_row(class_name, *cells, *([f"{named[class_name]:.0%}"] if named else []), str(row["count"]))
    return table
