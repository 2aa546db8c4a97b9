"""Content of a report: tables, comparisons, confusion matrices, charts and photos of the runs."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch.nn import functional as F

from daclip.images import load_image, to_pil
from daclip.metrics.bootstrap import Difference, paired_difference
from daclip.reporting.charts import Panel, confusion_figure, line_charts, radar, svg
from daclip.reporting.runs import Evaluation, Recognition, Runs, Training
from daclip.reporting.tables import metric_label, metric_names, score_text
from daclip.rng import generator_for

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
class Comparison:
    """One metric of one evaluation against the first.

    Attributes:
        label: The evaluation.
        metric: The metric.
        rows: Photos in common, each crop and degradation counted.
        difference: Its mean with interval and p-value; None where nothing can be said.
        verdict: `better`, `worse`, `no clear difference`, or why nothing can be said.
    """

    label: str
    metric: str
    rows: int
    difference: Difference | None
    verdict: str


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm stays what it says (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, round((len(values) - rank) * values[index], 12)))
        adjusted[index] = largest
    return adjusted


def compare(evaluations: Sequence[Evaluation], draws: int, confidence: float, seed: int) -> list[Comparison]:
    """Every evaluation after the first against the first, metric by metric, on the photos in common.

    p-values are adjusted for the number of comparisons.

    Args:
        evaluations: At least one.
        draws: Redrawn sets of the paired bootstrap.
        confidence: Of the intervals; a difference is called by its adjusted p-value.
        seed: Of the draws.
    """
    first = evaluations[0]
    found: list[Comparison] = []
    for other in evaluations[1:]:
        if _rules(first) != _rules(other):
            found.append(Comparison(other.label, "", 0, None, "another protocol: not comparable"))
            continue
        for name in [name for name in metric_names(first.metrics["mean"]) if name in other.metrics["mean"]]:
            before = {(p.name, p.crop, p.degradation): p.scores[name] for p in first.photos}
            rows = [p for p in other.photos if (p.name, p.crop, p.degradation) in before]
            gaps = torch.tensor(
                [p.scores[name] - before[p.name, p.crop, p.degradation] for p in rows], dtype=torch.float64
            )
            units, classes = [p.name for p in rows], [p.degradation for p in rows]
            difference = None
            if rows:
                difference = paired_difference(units, classes, gaps, draws, confidence, generator_for(seed))
            verdict = "infinite scores" if rows else "no photo in common"
            found.append(Comparison(other.label, name, len(rows), difference, verdict))
    adjusted = iter(holm([one.difference.p for one in found if one.difference]))
    return [_judged(one, next(adjusted), first, confidence) if one.difference else one for one in found]


def _judged(one: Comparison, p: float, first: Evaluation, confidence: float) -> Comparison:
    assert one.difference is not None
    up = (one.difference.mean > 0) is first.metrics["higher_is_better"][one.metric]
    verdict = "no clear difference" if p > 1 - confidence else "better" if up else "worse"
    return replace(one, difference=replace(one.difference, p=p), verdict=verdict)


def _rules(evaluation: Evaluation) -> tuple[object, ...]:
    """The protocol without its name."""
    protocol = evaluation.metrics["protocol"]
    return tuple(protocol[key] for key in ("eight_bit", "border", "colour"))


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Above it.
        heading: Of the columns.
        rows: Cells; the first column is the row's name.
        note: Below it.
        last: Number of rows at the end that summarise the others.
    """

    title: str
    heading: list[str]
    rows: list[list[str]]
    note: str = ""
    last: int = 0


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: its counts as text, true classes down, and its picture as a data address."""

    title: str
    classes: list[str]
    rows: list[list[str]]
    picture: str


def _range(ends: Sequence[float] | None, name: str, sign: bool = False) -> str:
    if not ends:
        return ""
    low, high = (f"{end:+.2f}" if sign else score_text(name, end) for end in ends)
    return f" [{low}, {high}]"


def facts(evaluations: Sequence[Evaluation]) -> Table:
    """What was scored, how, with which result: one column an evaluation."""
    columns = []
    for one in evaluations:
        metrics, record = one.metrics, one.metrics["record"]
        mean, ends = metrics["mean"], metrics["intervals"]
        gain = mean["psnr"] - mean["psnr_lq"] if "psnr_lq" in mean else None
        columns.append(
            [
                "–" if gain is None else f"{gain:+.2f} dB" + _range(ends["mean"].get("psnr_gain"), "psnr", sign=True),
                "–" if "degradation_accuracy" not in metrics else f"{metrics['degradation_accuracy']:.1%}",
                f"{mean['count']} from {ends['photos']}",
                f"{metrics['sampler']}, {metrics['nfe']}" if "nfe" in metrics else "–",
                f"{metrics['seconds_per_photo']:.2f}" if "nfe" in metrics else "–",
                metrics["protocol"]["text"],
                (record.get("commit") or "unknown")[:9] + (" with changes" if record.get("dirty") else ""),
            ]
        )
    names = ["mean gain", "recognised", "crops from photos", "sampler, evaluations", "s a photo", "protocol", "commit"]
    rows = [[name, *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)]
    confidence = evaluations[0].metrics["intervals"]["confidence"]
    note = f"Brackets: {confidence:.0%} bootstrap interval over photos; crops of one photo are drawn together."
    if min(one.metrics["intervals"]["photos"] for one in evaluations) < 10:
        note += " With fewer than ten photos an interval says little more than how far these photos lie apart."
    return Table("Evaluations", ["", *(one.label for one in evaluations)], rows, note)


def scores(evaluations: Sequence[Evaluation]) -> list[Table]:
    """One table a metric: degradations down, runs across, each cell with its interval."""
    tables = []
    names = list(dict.fromkeys(name for one in evaluations for name in metric_names(one.metrics["mean"])))
    for name in names:
        runs = [one for one in evaluations if name in one.metrics["mean"]]
        inputs = f"{name}_lq" in runs[0].metrics["mean"]
        classes = list(dict.fromkeys(class_name for one in runs for class_name in one.metrics["per_degradation"]))
        rows = []
        for class_name in [*classes, "mean"]:
            cells = [class_name]
            found = [{**one.metrics["per_degradation"], "mean": one.metrics["mean"]}.get(class_name) for one in runs]
            if inputs:
                first = next(row for row in found if row is not None)
                cells.append(score_text(name, first[f"{name}_lq"]))
            for one, row in zip(runs, found, strict=True):
                ends = one.metrics["intervals"]
                limits = ends["mean"] if class_name == "mean" else ends["per_degradation"].get(class_name, {})
                cells.append("–" if row is None else score_text(name, row[name]) + _range(limits.get(name), name))
            rows.append(cells)
        better = "higher" if runs[0].metrics["higher_is_better"][name] else "lower"
        heading = ["degradation", *(["degraded photo"] if inputs else []), *(one.label for one in runs)]
        tables.append(Table(f"{metric_label(name)}, {better} is better", heading, rows, last=1))
    sets = list(dict.fromkeys(name for one in evaluations for name in one.metrics["sets"]))
    if sets:
        rows = [
            [one.label, *(f"{one.metrics['sets'][name]:.3f}" if name in one.metrics["sets"] else "–" for name in sets)]
            for one in evaluations
        ]
        labels = [metric_label(n.removesuffix("_lq")) + (" degraded" if n.endswith("_lq") else "") for n in sets]
        tables.append(Table("Scores of whole sets, lower is better", ["run", *labels], rows))
    return tables


def missing(evaluations: Sequence[Evaluation]) -> Table | None:
    """Metrics that were asked for and could not be computed, with the reason."""
    rows = [
        [one.label, metric_label(name), reason]
        for one in evaluations
        for name, reason in one.metrics["missing"].items()
    ]
    return Table("Metrics that are missing", ["run", "metric", "reason"], rows) if rows else None


def comparison_table(comparisons: Sequence[Comparison], first: str, confidence: float) -> Table:
    """Differences to the first evaluation and what they are worth."""
    rows = []
    for one in comparisons:
        gap = one.difference
        unit = one.metric or "psnr"
        digits = 2 if unit in ("psnr", "fid") else 4
        rows.append(
            [
                one.label,
                metric_label(one.metric) if one.metric else "–",
                str(one.rows),
                "–" if gap is None else f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]",
                "–" if gap is None else f"{gap.p:.4f}",
                one.verdict,
            ]
        )
    note = (
        f"Paired bootstrap over photos on the crops in common, {confidence:.0%} intervals; "
        "p-values are adjusted for the number of comparisons (Holm) and never below what as many photos can show: "
        "fewer than six prove nothing."
    )
    return Table(f"Differences to {first}", ["run", "metric", "crops", "mean difference", "p", "verdict"], rows, note)


def confusion(runs: Sequence[Evaluation | Recognition | Training]) -> list[Matrix]:
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


def recognitions(runs: Sequence[Recognition]) -> Table:
    """What stage 1 by itself is worth: one column a run."""
    names = {
        "recognised": lambda metrics: f"{metrics['degradation_accuracy']:.1%}",
        "calibration error": lambda metrics: f"{metrics['calibration_error']:.3f}",
        "cosine to the clean photo, steered": lambda metrics: f"{metrics['content_cosine']:.4f}",
        "the same, plain CLIP": lambda metrics: f"{metrics['content_cosine_plain']:.4f}",
        "crops": lambda metrics: str(metrics["count"]),
    }
    rows = [[name, *(text(run.metrics) for run in runs)] for name, text in names.items()]
    classes = dict.fromkeys(class_name for run in runs for class_name in run.metrics["per_degradation_accuracy"])
    for class_name in classes:
        shares = [run.metrics["per_degradation_accuracy"].get(class_name) for run in runs]
        rows.append([f"{class_name} recognised", *("–" if share is None else f"{share:.1%}" for share in shares)])
    return Table("Stage 1 on validation photos", ["", *(run.label for run in runs)], rows)


def trainings(runs: Sequence[Training]) -> Table:
    """One line a training run."""
    rows = []
    for run in runs:
        if run.kind == "daclip":
            score = f"accuracy {run.metrics['degradation_accuracy']:.3f}"
        else:
            mean = run.metrics["mean"]
            score = f"{mean['psnr']:.2f} dB ({mean['psnr'] - mean['psnr_lq']:+.2f})"
        hardware = run.record["hardware"]
        machine = ", ".join(hardware["gpus"]) or f"{hardware['cores']} cores of {hardware['processor']}"
        minutes = f"{run.record['seconds']['total'] / 60:.1f} min"
        rows.append([run.label, run.kind, str(run.metrics["steps"]), score, minutes, machine, str(run.record["seed"])])
    return Table("Training runs", ["run", "stage", "steps", "validation score", "time", "machine", "seed"], rows)


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
    for title, panels in _nfe_panels(runs).items():
        found[title] = [chart_address(line_charts([panel], legend_below=True)) for panel in panels]
    curves = [panel for run in runs.trainings for panel in _curve_panels(run)]
    if curves:
        found["Training"] = [chart_address(line_charts([panel], legend_below=True)) for panel in curves]
    return found


def _nfe_panels(runs: Runs) -> dict[str, list[Panel]]:
    """PSNR gain and SSIM over NFE: of each sampler report, and of evaluations of one artifact at several NFE.

    Each source has charts of its own, since their photos differ.
    """
    found: dict[str, list[Panel]] = {}
    for report in runs.samplers:
        grids = {score["grid"] for score in report.scores}
        lines: dict[str, dict[float, dict[str, Any]]] = {}
        for score in sorted(report.scores, key=lambda score: score["nfe"]):
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
    gain = {name: [(nfe, value) for nfe, value, _ in rows] for name, rows in lines.items()}
    ssim = {name: [(nfe, value) for nfe, _, value in rows] for name, rows in lines.items()}
    label = "network evaluations"
    return [Panel("mean PSNR gain", label, "dB", gain, 4.0), Panel("mean SSIM", label, "SSIM", ssim, 0.25)]


def _curve_panels(run: Training) -> list[Panel]:
    """Loss and validation score over steps."""
    wanted = {"train/loss": "loss", "val/degradation_accuracy": "accuracy", "val/gain": "gain"}
    return [
        Panel(
            f"{run.label}: {short}",
            "step",
            "dB" if short == "gain" else short,
            {short: _thinned(run.curves[name])},
            logarithmic=False,
        )
        for name, short in wanted.items()
        if len(run.curves.get(name, [])) > 1
    ]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over neighbours, so that a long curve stays light."""
    size = max(math.ceil(len(points) / SMOOTH), 1)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


@dataclass(frozen=True)
class Shown:
    """One photo of a page.

    Attributes:
        whole: Picture (`lq`, `restored`, `hq`) to the data address of the whole photo with the crop's frame.
        zoom: Picture to the data address of the crop.
    """

    whole: dict[str, str]
    zoom: dict[str, str]


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

    Args:
        folder: Holds the files.
        files: Picture to file name; `restored` and `hq` at least.
        side: Of the crop in pixels of the photo.

    Raises:
        DaclipError: A file is missing or damaged.
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
