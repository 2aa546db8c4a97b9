"""Pictures of a report as data addresses: confusion matrices, charts of the runs, photos."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch.nn import functional as F

from daclip.images import load_image, to_pil
from daclip.reporting.charts import Panel, confusion_figure, line_charts, radar, svg
from daclip.reporting.runs import Run, Runs

SMOOTH = 200  # points of a training curve
WIDEST = 480  # pixels of a picture in the page
ZOOMED = 288  # side of the zoomed crop in the page
LOSSLESS_AREA = 256 * 256


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


def confusion(runs: Sequence[Run]) -> list[Matrix]:
    """The confusion matrices of evaluations and of stage 1; runs that agree in every count share one."""
    matrices: dict[str, Matrix] = {}
    for one in runs:
        counts: Mapping[str, Mapping[str, int]] = one.metrics.get("confusion", {})
        seen = {name for truth, row in counts.items() for name in ([truth, *row] if row else [])}
        classes = [name for name in counts if name in seen]
        if not classes:
            continue
        rows = [[truth, *(str(counts[truth].get(name, "")) for name in classes)] for truth in classes]
        same = matrices.get(repr(rows))
        picture = same.picture if same else chart_address(confusion_figure(counts, classes))
        matrices[repr(rows)] = Matrix(f"{same.title}, {one.label}" if same else one.label, classes, rows, picture)
    return list(matrices.values())


def charts(runs: Runs) -> dict[str, list[str]]:
    """Section title to the data addresses of its charts."""
    found: dict[str, list[str]] = {}
    series: dict[str, dict[str, float]] = {}
    for one in runs.evaluations:
        rows = one.metrics["per_degradation"]
        if "psnr" in one.metrics["mean"]:
            if "psnr_lq" in one.metrics["mean"]:
                series.setdefault("degraded photo", {w: row["psnr_lq"] for w, row in rows.items()})
            series[one.label] = {w: row["psnr"] for w, row in rows.items() if math.isfinite(row["psnr"])}
    axes = list(dict.fromkeys(class_name for row in series.values() for class_name in row))
    if len(axes) >= 3:
        found["PSNR by degradation"] = [chart_address(radar(series, axes, "dB"))]
    curves = [panel for run in runs.trainings for panel in _curve_panels(run)]
    for title, panels in {**_nfe_panels(runs), "Training": curves}.items():
        if panels:
            found[title] = [chart_address(line_charts([panel], legend_below=True)) for panel in panels]
    return found


def _nfe_panels(runs: Runs) -> dict[str, list[Panel]]:
    """PSNR gain and SSIM over NFE, each source with charts of its own, since their photos differ."""
    found: dict[str, list[Panel]] = {}
    for report in runs.samplers:
        grids = {score["grid"] for score in report.metrics["scores"]}
        lines: dict[str, dict[float, dict[str, Any]]] = {}
        for score in sorted(report.metrics["scores"], key=lambda score: score["nfe"]):
            name = score["sampler"] + (f" ({score['grid']})" if len(grids) > 1 else "")
            lines.setdefault(name, {})[score["nfe"]] = score
        found[f"Network evaluations: {report.label}"] = _quality_panels(
            {name: [(nfe, row["gain"], row["ssim"]) for nfe, row in line.items()] for name, line in lines.items()}
        )
    grouped: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for one in runs.evaluations:
        mean = one.metrics["mean"]
        if "nfe" in one.metrics and {"psnr_lq", "ssim"} <= set(mean):
            key = (one.metrics["artifact"], one.metrics["sampler"])
            grouped.setdefault(key, []).append((one.metrics["nfe"], mean["psnr"] - mean["psnr_lq"], mean["ssim"]))
    several = {key: sorted(rows) for key, rows in grouped.items() if len({row[0] for row in rows}) > 1}
    if several:
        artifacts = list(dict.fromkeys(artifact for artifact, _ in several))
        found["Network evaluations: evaluations"] = _quality_panels(
            {
                sampler if len(artifacts) == 1 else f"{sampler}, artifact {artifacts.index(artifact) + 1}": rows
                for (artifact, sampler), rows in several.items()
            }
        )
    return found


def _quality_panels(lines: Mapping[str, Sequence[tuple[float, float, float]]]) -> list[Panel]:
    """Charts of (NFE, gain, SSIM)."""
    gain, ssim = ({name: [(row[0], row[i]) for row in rows] for name, rows in lines.items()} for i in (1, 2))
    label = "network evaluations"
    return [Panel("mean PSNR gain", label, "dB", gain, 4.0), Panel("mean SSIM", label, "SSIM", ssim, 0.25)]


def _curve_panels(run: Run) -> list[Panel]:
    """Loss and validation score over steps."""
    wanted = {"train/loss": "loss", "val/degradation_accuracy": "accuracy", "val/gain": "gain"}
    panels = []
    for name, short in wanted.items():
        if len(points := run.curves.get(name, [])) > 1:
            title, unit = f"{run.label}: {short}", "dB" if short == "gain" else short
            panels.append(Panel(title, "step", unit, {short: _thinned(points)}, logarithmic=False))
    return panels


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over neighbours, so that a long curve stays light."""
    size = max(math.ceil(len(points) / SMOOTH), 1)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


@dataclass(frozen=True)
class Shown:
    """One photo of a page: pictures (`lq`, `restored`, `hq`) to data addresses."""

    whole: dict[str, str]  # the whole photo with the crop's frame
    zoom: dict[str, str]  # the crop


def _photo_address(picture: Image.Image) -> str:
    content = io.BytesIO()
    kind = "png" if picture.width * picture.height <= LOSSLESS_AREA else "jpeg"
    picture.save(content, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return _address(content.getvalue(), kind)


def _place(before: torch.Tensor, after: torch.Tensor, side: int) -> tuple[int, int]:
    """Left and top of the square in which two photos `[3, H, W]` differ most."""
    difference = (before - after).abs().mean(0)[None, None]
    mean = F.avg_pool2d(difference, side, stride=max(side // 8, 1))[0, 0]
    row, column = divmod(int(mean.argmax()), mean.shape[1])
    return column * max(side // 8, 1), row * max(side // 8, 1)


def show(folder: Path, files: Mapping[str, str], side: int) -> Shown:
    """Read the pictures of one photo and zoom to where the degradation, or what is left of it, is strongest.

    `files` names a file of the `folder` for each picture, `restored` and `hq` at least; `side` is that of the crop in
    pixels of the photo.
    """
    images = {name: load_image(folder / file) for name, file in files.items()}
    side = min(side, *images["hq"].shape[1:])
    left, top = _place(images.get("lq", images["restored"]), images["hq"], side)
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
    return Shown(whole, zoom)
