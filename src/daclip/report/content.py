"""What a report says, as plain tables and charts that both of its forms print."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daclip.line_chart import Panel, line_charts
from daclip.report.compare import Comparison
from daclip.report.figures import heat, radar
from daclip.report.runs import Evaluation, Recognition, Runs, Training
from daclip.score_table import metric_label, metric_names, score_text

__all__ = [
    "Matrix",
    "Table",
    "charts",
    "comparison_table",
    "confusion",
    "facts",
    "missing",
    "recognitions",
    "scores",
    "trainings",
]

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
    words: list[str]
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
        words = list(dict.fromkeys(word for one in runs for word in one.metrics["per_degradation"]))
        rows = []
        for word in [*words, "mean"]:
            cells = [word]
            found = [{**one.metrics["per_degradation"], "mean": one.metrics["mean"]}.get(word) for one in runs]
            if inputs:
                first = next(row for row in found if row is not None)
                cells.append(score_text(name, first[f"{name}_lq"]))
            for one, row in zip(runs, found, strict=True):
                ends = one.metrics["intervals"]
                limits = ends["mean"] if word == "mean" else ends["per_degradation"].get(word, {})
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
        seen = {word for row in counts.values() for word in row} | {word for word, row in counts.items() if row}
        words = [word for word in counts if word in seen]
        rows = []
        for truth in words:
            total = sum(counts[truth].values())
            cells = [
                (str(counts[truth].get(word, "")), heat(counts[truth].get(word, 0) / max(total, 1))) for word in words
            ]
            rows.append((truth, cells))
        if rows:
            same = matrices.get(repr(rows))
            matrices[repr(rows)] = Matrix(f"{same.title}, {one.label}" if same else one.label, words, rows)
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
    words = dict.fromkeys(word for run in runs for word in run.metrics["per_degradation_accuracy"])
    for word in words:
        shares = [run.metrics["per_degradation_accuracy"].get(word) for run in runs]
        rows.append([f"{word} recognised", *("–" if share is None else f"{share:.1%}" for share in shares)])
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
    axes = list(dict.fromkeys(word for row in series.values() for word in row))
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
