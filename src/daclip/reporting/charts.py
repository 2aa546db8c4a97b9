"""Charts as matplotlib figures, and the charts and photos of a report as data addresses."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image, ImageDraw
from torch.nn import functional as F

from daclip.errors import DaclipError
from daclip.images import load_image, to_pil
from daclip.reporting.runs import Run, Runs, same_inputs

# Okabe and Ito's, which colour-blind readers can tell apart, and three more; dashes tell further series apart.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255", "#7f7f7f",
)  # fmt: skip
DASHES = ("-", (0, (6, 3)), (0, (2, 3)))
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", COLOURS[0]])
SMOOTH = 200  # points of a training curve
WIDEST = 480  # pixels of a picture in the page
ZOOMED = 288  # side of the zoomed crop in the page
LOSSLESS_AREA = 256 * 256
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
        # Colours change fastest, dashes after each turn of the colours.
        looks = dict(zip(names, cycle({"color": c, "linestyle": d} for d in DASHES for c in COLOURS), strict=False))
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
    """A radar plot: an axis per degradation (at least three), an outline per run, one scale in `unit` for all axes."""
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
    """Accuracy over stated confidence; on the dashed diagonal both are the same (Guo et al. 2017, figure 1). `bins` are
    those of `CalibrationError.bins`, `count` is their number over [0, 1], `error` the calibration error."""
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


def chart_address(figure: Figure) -> str:
    """A figure as the data address of an SVG picture."""
    return _address(svg(figure).encode(), "svg+xml")


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: its counts as text, true classes down, and its picture as a data address."""

    title: str
    classes: list[str]
    rows: list[list[str]]
    picture: str


def matrices(runs: Sequence[Run]) -> list[Matrix]:
    """The confusion matrices of evaluations and of stage 1; runs that agree in every count share one."""
    found: dict[str, Matrix] = {}
    for one in runs:
        counts: Mapping[str, Mapping[str, int]] = one.metrics.get("confusion", {})
        seen = {name for truth, row in counts.items() for name in ([truth, *row] if row else [])}
        classes = [name for name in counts if name in seen]
        if not classes:
            continue
        rows = [[truth, *(str(counts[truth].get(name, "")) for name in classes)] for truth in classes]
        same = found.get(repr(rows))
        picture = same.picture if same else chart_address(confusion_figure(counts, classes))
        found[repr(rows)] = Matrix(f"{same.title}, {one.label}" if same else one.label, classes, rows, picture)
    return list(found.values())


def run_charts(runs: Runs) -> dict[str, list[str]]:
    """Section title to the data addresses of its charts."""
    found: dict[str, list[str]] = {}
    series: dict[str, dict[str, float]] = {}
    shared = same_inputs(runs.evaluations) if runs.evaluations else True

    def finite(rows: Mapping[str, Mapping[str, float]], column: str) -> dict[str, float]:
        return {class_name: row[column] for class_name, row in rows.items() if math.isfinite(row[column])}

    for one in runs.evaluations:
        rows = one.metrics["per_degradation"]
        if "psnr" in one.metrics["mean"]:
            if "psnr_lq" in one.metrics["mean"]:
                title = "degraded photo" if shared else f"degraded photo of {one.label}"
                series.setdefault(title, finite(rows, "psnr_lq"))
            series[one.label] = finite(rows, "psnr")
    series = {name: row for name, row in series.items() if row}
    axes = list(dict.fromkeys(class_name for row in series.values() for class_name in row))
    if len(axes) >= 3:
        found["PSNR by degradation"] = [chart_address(radar(series, axes, "dB"))]
    curves = [panel for run in runs.trainings for panel in _curve_panels(run)]
    for title, panels in {**_nfe_panels(runs), "Training": curves}.items():
        if panels:
            found[title] = [chart_address(line_charts([panel], legend_below=True)) for panel in panels]
    return found


def score_frame(scores: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Scores of a sampler report, a row each; `label` is the sampler, with its grid where there are several."""
    frame = pd.DataFrame([{**score, **score.get("others", {})} for score in scores])
    several = frame["grid"].nunique() > 1
    return frame.assign(label=frame["sampler"] + (" (" + frame["grid"] + ")" if several else ""))


def panel_over(
    frame: pd.DataFrame, x: str, y: str, title: str, unit: str, depth: float, lower_is_better: bool = False
) -> Panel:
    """A chart of two columns, a line for each `label`."""
    lines = frame.sort_values("nfe", kind="stable").groupby("label", sort=False)
    points = {str(name): list(zip(line[x], line[y], strict=True)) for name, line in lines}
    x_label = "network evaluations" if x == "nfe" else "seconds a photo"
    return Panel(title, x_label, unit, points, depth, lower_is_better=lower_is_better)


def quality_panels(frame: pd.DataFrame) -> list[Panel]:
    """Charts of the mean PSNR gain and the mean SSIM over NFE."""
    # Samplers that need many steps fall far below with few; the charts keep to where choices are made.
    return [
        panel_over(frame, "nfe", "gain", "mean PSNR gain", "dB", 4.0),
        panel_over(frame, "nfe", "ssim", "mean SSIM", "SSIM", 0.25),
    ]


def _nfe_panels(runs: Runs) -> dict[str, list[Panel]]:
    """PSNR gain and SSIM over NFE, each source with charts of its own, since their photos differ."""
    found: dict[str, list[Panel]] = {}
    for report in runs.samplers:
        frame = score_frame(report.metrics["scores"]).drop_duplicates(["label", "nfe"])
        found[f"Network evaluations: {report.label}"] = quality_panels(frame)
    rows = []
    for one in runs.evaluations:
        mean = one.metrics["mean"]
        if "nfe" in one.metrics and {"psnr_lq", "ssim"} <= set(mean):
            kept = {name: one.metrics[name] for name in ("artifact", "sampler", "nfe")}
            rows.append({**kept, "gain": mean["psnr"] - mean["psnr_lq"], "ssim": mean["ssim"]})
    if rows:
        frame = pd.DataFrame(rows)
        frame = frame[frame.groupby(["artifact", "sampler"])["nfe"].transform("nunique") > 1]
        if len(frame):
            numbers, artifacts = frame["artifact"].factorize()
            label = frame["sampler"] + [f", artifact {number + 1}" if len(artifacts) > 1 else "" for number in numbers]
            found["Network evaluations: evaluations"] = quality_panels(frame.assign(label=label))
    return found


def _curve_panels(run: Run) -> list[Panel]:
    """Loss and validation score over steps."""
    wanted = {"train/loss": "loss", "val/degradation_accuracy": "accuracy", "val/gain": "gain"}
    panels = []
    for name, short in wanted.items():
        if len(points := run.curves.get(name, [])) > 1:
            # Means over neighbours, so that a long curve stays light.
            size = math.ceil(len(points) / SMOOTH)
            groups = [points[i : i + size] for i in range(0, len(points), size)]
            thinned = [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
            title, unit = f"{run.label}: {short}", "dB" if short == "gain" else short
            panels.append(Panel(title, "step", unit, {short: thinned}, logarithmic=False))
    return panels


def _photo_address(picture: Image.Image) -> str:
    content = io.BytesIO()
    kind = "png" if picture.width * picture.height <= LOSSLESS_AREA else "jpeg"
    picture.save(content, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return _address(content.getvalue(), kind)


def show(folder: Path, files: Mapping[str, str], side: int) -> dict[str, dict[str, str]]:
    """The pictures of one photo as data addresses: `whole`, with a frame where the degradation, or what is left of it,
    is strongest, and `zoom`, what is in it. `files` names a file for each picture, `restored` and `hq` at least; `side`
    is the frame's in pixels of the photo."""
    if outside := [file for file in files.values() if not (folder / file).resolve().is_relative_to(folder.resolve())]:
        raise DaclipError(f"{folder}: refuses the picture {outside[0]}, which is outside it; run the evaluation again")
    images = {name: load_image(folder / file) for name, file in files.items()}
    side = min(side, *images["hq"].shape[1:])
    # The square in which the two photos differ most.
    difference = (images.get("lq", images["restored"]) - images["hq"]).abs().mean(0)[None, None]
    step = max(side // 8, 1)
    mean = F.avg_pool2d(difference, side, stride=step)[0, 0]
    top, left = (step * place for place in divmod(int(mean.argmax()), mean.shape[1]))
    whole, zoom = {}, {}
    for name, image in images.items():
        picture = to_pil(image)
        crop = picture.crop((left, top, left + side, top + side))
        zoom[name] = _photo_address(crop.resize((ZOOMED, ZOOMED), Image.Resampling.NEAREST))
        scale = min(1.0, WIDEST / picture.width)
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        frame = [round(v * scale) for v in (left, top, left + side - 1, top + side - 1)]
        ImageDraw.Draw(small).rectangle(frame, outline="#ffd400", width=2)
        whole[name] = _photo_address(small)
    return {"whole": whole, "zoom": zoom}
