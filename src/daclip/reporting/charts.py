"""Charts as matplotlib figures: lines, radar, confusion matrix, reliability diagram; as SVG text or PNG bytes."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from daclip.errors import DaclipError

# Okabe and Ito's, which colour-blind readers can tell apart, and three more; dashes tell further series apart.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255", "#7f7f7f",
)  # fmt: skip
DASHES = ("-", (0, (6, 3)), (0, (2, 3)))
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", COLOURS[0]])
MARKED = 30  # points of a line above which they are not marked one by one
STYLE: Any = {
    "svg.hashsalt": "daclip",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
}


@dataclass(frozen=True)
class Panel:
    """One line chart, with a linear vertical axis."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]  # points (x, y); one name looks alike in all panels
    depth: float | None = None  # how far from the best point the vertical axis reaches at most; None shows all
    logarithmic: bool = True  # horizontal axis; needs x > 0
    lower_is_better: bool = False  # the vertical axis grows downwards, so that up is better


def _saved(figure: Figure, **options: Any) -> bytes:
    content = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, bbox_inches="tight", **options)
    return content.getvalue()


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same bytes for the same figure."""
    return _saved(figure, format="svg", metadata={"Date": None}).decode()


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return _saved(figure, format="png", dpi=144)


def line_charts(panels: Sequence[Panel], legend_below: bool = False) -> Figure:
    """Charts side by side with one legend, below them on narrow pages and else to their right."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    with mpl.rc_context(STYLE):
        rows = math.ceil(len(names) / 2) if legend_below else 0
        size = (3.8 * len(panels) + (0 if legend_below else 1.9), 3.0 + 0.2 * rows)
        figure = Figure(figsize=size, layout="constrained")
        looks = {
            name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
            for i, name in enumerate(names)
        }
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        handles: dict[str, Any] = {}
        for panel, ax in zip(panels, axes, strict=True):
            handles = _draw(panel, ax, looks) | handles
        place = {"loc": "outside lower center", "ncols": 2} if legend_below else {"loc": "outside right upper"}
        figure.legend([handles[name] for name in names], names, frameon=False, **place)
    return figure


def _draw(panel: Panel, ax: Axes, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    series = {name: [(x, y) for x, y in line if math.isfinite(y)] for name, line in panel.series.items()}
    points = [point for line in series.values() for point in line]
    if not points or (panel.logarithmic and min(x for x, _ in points) <= 0):
        raise DaclipError(f"the chart '{panel.title}' needs finite points with x > 0")
    handles: dict[str, Any] = {}
    for name, line in series.items():
        marker = "o" if len(line) <= MARKED else ""
        x, y = [point[0] for point in line], [point[1] for point in line]
        (handles[name],) = ax.plot(x, y, marker=marker, markersize=3, linewidth=1.6, **looks[name])
    low, high = min(y for _, y in points), max(y for _, y in points)
    if panel.depth is not None and panel.lower_is_better:
        high = min(high, low + panel.depth)
    elif panel.depth is not None:
        low = max(low, high - panel.depth)
    room = 0.05 * (high - low) or 0.5
    ends = (low - room, high + room)
    ax.set_ylim(*(ends[::-1] if panel.lower_is_better else ends))
    if panel.logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    ax.grid(color="#dddddd", linewidth=0.6)
    return handles


def radar(series: Mapping[str, Mapping[str, float]], axes: Sequence[str], unit: str) -> Figure:
    """A radar plot: one axis a degradation (three at least), one outline a run, one scale for all axes.

    An axis that a series lacks is left out of its outline; `unit` is written at the scale.
    """
    angles = {axis: 2 * math.pi * i / len(axes) for i, axis in enumerate(axes)}
    values = [value for row in series.values() for value in row.values()]
    rings = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(min(values), max(values))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.4 + 0.2 * len(series)), layout="constrained")
        ax: Any = figure.add_subplot(projection="polar")
        ax.set_theta_offset(math.pi / 2)
        ax.set_theta_direction(-1)
        for i, (name, row) in enumerate(series.items()):
            placed = [(angles[axis], row[axis]) for axis in axes if axis in row]
            around, heights = zip(*placed, placed[0], strict=True)
            ax.plot(around, heights, color=COLOURS[i % len(COLOURS)], linewidth=1.8, label=name)
            ax.fill(around, heights, color=COLOURS[i % len(COLOURS)], alpha=0.08)
        ax.set_ylim(rings[0], rings[-1])
        ax.set_yticks(rings[1:], [f"{ring:g}" for ring in rings[1:-1]] + [f"{rings[-1]:g} {unit}"])
        ax.tick_params(axis="y", labelsize=7, labelcolor="#555555")
        ax.set_xticks(list(angles.values()), list(angles))
        for label, angle in zip(ax.get_xticklabels(), angles.values(), strict=True):
            side = math.sin(angle)
            label.set_horizontalalignment("center" if abs(side) < 0.2 else "left" if side > 0 else "right")
        ax.grid(color="#dddddd", linewidth=0.6)
        figure.legend(loc="outside lower center", frameon=False)
    return figure


def confusion_figure(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Figure:
    """A confusion matrix: true classes down, predicted classes across, each cell its share of the row in percent."""
    table = np.array([[counts.get(truth, {}).get(name, 0) for name in classes] for truth in classes], dtype=float)
    totals = table.sum(1)
    shares = table / np.maximum(totals, 1)[:, None]
    side = 1.9 + 0.36 * len(classes)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side + 0.4, side), layout="constrained")
        ax = figure.add_subplot()
        ax.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(table), strict=True):
            share = shares[row, column]
            ink = "white" if share > 0.5 else "black"
            ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(range(len(classes)), classes, rotation=90)
        ax.set_yticks(range(len(classes)), [f"{n}  ({int(total)})" for n, total in zip(classes, totals, strict=True)])
        ax.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="#dddddd", linewidth=0.6)
        ax.tick_params(which="both", length=0)
        ax.set(xlabel="recognised as, % of row", ylabel="true degradation (photos)")
    return figure


def reliability_figure(bins: Sequence[Mapping[str, float]], error: float, count: int) -> Figure:
    """Accuracy over stated confidence; on the dashed diagonal both are the same (Guo et al. 2017, figure 1).

    `bins` are those of `CalibrationError.bins`, `count` is their number over [0, 1], `error` the calibration error.
    """
    total = sum(row["count"] for row in bins)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.0, 4.0), layout="constrained")
        ax = figure.add_subplot()
        for row in bins:
            # As dark as the bin is full: a bar of two samples says little.
            shade = SHADES(0.2 + 0.8 * row["count"] / total)
            ax.bar(row["low"], row["accuracy"], 1 / count, align="edge", color=shade, edgecolor="white")
            ax.plot([row["confidence"]] * 2, [row["accuracy"], row["confidence"]], color=COLOURS[1], linewidth=1.8)
        ax.plot([0, 1], [0, 1], color="#969696", linestyle="--", linewidth=1)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated confidence", ylabel="accuracy", aspect="equal")
        ax.set_title(f"calibration error {error:.3f}, {total:.0f} photos")
    return figure
