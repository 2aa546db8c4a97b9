"""Which differences between runs are more than chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch

from daclip.metrics.bootstrap import Difference, paired_difference
from daclip.reporting.runs import Evaluation, Recognition, Runs, Training
from daclip.reporting.tables import COLOURS, Panel, line_charts, metric_label, metric_names, score_text
from daclip.rng import generator_for


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


def _difference(
    first: Evaluation, other: Evaluation, metric: str, draws: int, confidence: float, seed: int
) -> tuple[int, Difference | None]:
    before = {(p.name, p.crop, p.degradation): p.scores[metric] for p in first.photos}
    rows = [p for p in other.photos if (p.name, p.crop, p.degradation) in before]
    if not rows:
        return 0, None
    gaps = torch.tensor([p.scores[metric] - before[p.name, p.crop, p.degradation] for p in rows], dtype=torch.float64)
    units, classes = [p.name for p in rows], [p.degradation for p in rows]
    return len(rows), paired_difference(units, classes, gaps, draws, confidence, generator_for(seed))


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
    found: list[tuple[str, str, int, Difference | None]] = []
    for other in evaluations[1:]:
        shared = [name for name in metric_names(first.metrics["mean"]) if name in other.metrics["mean"]]
        if _rules(first) != _rules(other):
            found.append((other.label, "", 0, None))
            continue
        found += [(other.label, name, *_difference(first, other, name, draws, confidence, seed)) for name in shared]
    adjusted = iter(holm([difference.p for *_, difference in found if difference]))
    comparisons = []
    for label, metric, rows, difference in found:
        if not metric:
            comparisons.append(Comparison(label, "", 0, None, "another protocol: not comparable"))
            continue
        if difference is None:
            why = "no photo in common" if not rows else "infinite scores"
            comparisons.append(Comparison(label, metric, rows, None, why))
            continue
        p = next(adjusted)
        difference = Difference(difference.mean, difference.low, difference.high, p)
        up = (difference.mean > 0) is first.metrics["higher_is_better"][metric]
        verdict = "no clear difference" if p > 1 - confidence else "better" if up else "worse"
        comparisons.append(Comparison(label, metric, rows, difference, verdict))
    return comparisons


def _rules(evaluation: Evaluation) -> tuple[object, ...]:
    """The protocol without its name."""
    protocol = evaluation.metrics["protocol"]
    return tuple(protocol[key] for key in ("eight_bit", "border", "colour"))


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


SMOOTH = 200  # points of a training curve


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
    """A confusion matrix: true words down, named words across, with the CSS of each cell."""

    title: str
    classes: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)


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
        seen = {class_name for row in counts.values() for class_name in row} | {
            class_name for class_name, row in counts.items() if row
        }
        classes = [class_name for class_name in counts if class_name in seen]
        rows = []
        for truth in classes:
            total = sum(counts[truth].values())
            cells = [
                (str(counts[truth].get(class_name, "")), heat(counts[truth].get(class_name, 0) / max(total, 1)))
                for class_name in classes
            ]
            rows.append((truth, cells))
        if rows:
            same = matrices.get(repr(rows))
            matrices[repr(rows)] = Matrix(f"{same.title}, {one.label}" if same else one.label, classes, rows)
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
    return Table("Stage 1 on held-out photos", ["", *(run.label for run in runs)], rows)


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
    return Table("Training runs", ["run", "stage", "steps", "held-out score", "time", "machine", "seed"], rows)


def charts(runs: Runs) -> dict[str, list[str]]:
    """Section title to SVG charts."""
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
        found["PSNR by degradation"] = [radar(series, axes, "dB")]
    for title, panels in _nfe_panels(runs).items():
        found[title] = [line_charts([panel], legend_below=True) for panel in panels]
    curves = [panel for run in runs.trainings for panel in _curve_panels(run)]
    if curves:
        found["Training"] = [line_charts([panel], legend_below=True) for panel in curves]
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
    """Loss and held-out score over steps."""
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
