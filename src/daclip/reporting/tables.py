"""Tables of scores as text, for the console and for a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daclip.reporting.runs import Comparison, Run, metric_names, same_inputs

LABELS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "dists": "DISTS"}


@dataclass(frozen=True)
class TextTable:
    """A table of scores."""

    title: str  # above it
    heading: list[str]
    rows: list[list[str]]  # the first column is the row's name
    note: str = ""  # below it
    last: int = 0  # rows at the end that summarise the others


def metric_label(name: str) -> str:
    """A metric's name as tables show it."""
    return LABELS.get(name, name.upper())


def score_text(name: str, value: float) -> str:
    """A score with as many digits as its differences are worth."""
    return f"{value:.2f}" if name in ("psnr", "fid") else f"{value:.3f}"


def score_tables(metrics: Mapping[str, Any], width: int) -> list[TextTable]:
    """Scores of `metrics.json`, one line a degradation, then their mean: as many tables as the width asks for."""
    room = max(1, (width - 30) // 24)  # metrics that fit beside the classes, the accuracy and the count
    names = metric_names(metrics["mean"])
    what = "degraded → restored" if "nfe" in metrics else "photos"
    rows = [*metrics["per_degradation"].items(), ("mean", metrics["mean"])]
    tables = []
    for start in range(0, len(names), room):
        lines = [_cells(metrics, class_name, row, names[start : start + room]) for class_name, row in rows]
        title = f"{what}, {metrics['protocol']['text']}"
        tables.append(TextTable(title, list(lines[-1]), [list(cells.values()) for cells in lines], last=1))
    return tables


def _cells(metrics: Mapping[str, Any], class_name: str, row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The texts of one line by their headings."""
    cells = {"degradation": class_name}
    for name in names:
        if f"{name}_lq" in row:
            cells[f"{metric_label(name)} in"] = score_text(name, row[f"{name}_lq"])
        cells[metric_label(name)] = score_text(name, row[name])
        if name == "psnr" and "psnr_lq" in row:
            cells["gain"] = f"{row['psnr'] - row['psnr_lq']:+.2f}"
    if "degradation_accuracy" in metrics:
        mean, each = metrics["degradation_accuracy"], metrics["per_degradation_accuracy"]
        cells["recognised"] = f"{mean if class_name == 'mean' else each[class_name]:.0%}"
    return {**cells, "n": str(row["count"])}


def _range(ends: Sequence[float] | None, name: str, sign: bool = False) -> str:
    if not ends:
        return ""
    low, high = (f"{end:+.2f}" if sign else score_text(name, end) for end in ends)
    return f" [{low}, {high}]"


def facts(evaluations: Sequence[Run]) -> TextTable:
    """What was scored, how, with which result: one column an evaluation."""
    columns = []
    for one in evaluations:
        metrics, record = one.metrics, one.metrics["record"]
        mean, ends = metrics["mean"], metrics["intervals"]
        gain = mean["psnr"] - mean["psnr_lq"] if "psnr_lq" in mean else None
        interval = _range(ends["mean"].get("psnr_gain"), "psnr", sign=True)
        columns.append(
            {
                "mean gain": "–" if gain is None else f"{gain:+.2f} dB{interval}",
                "recognised": f"{metrics['degradation_accuracy']:.1%}" if "degradation_accuracy" in metrics else "–",
                "crops from photos": f"{mean['count']} from {ends['photos']}",
                "sampler, evaluations": f"{metrics['sampler']}, {metrics['nfe']}" if "nfe" in metrics else "–",
                "s a photo": f"{metrics['seconds_per_photo']:.2f}" if "nfe" in metrics else "–",
                "protocol": metrics["protocol"]["text"],
                "commit": (record.get("commit") or "unknown")[:9] + (" with changes" if record.get("dirty") else ""),
            }
        )
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    confidence = evaluations[0].metrics["intervals"]["confidence"]
    note = f"Brackets: {confidence:.0%} bootstrap interval over photos; crops of one photo are drawn together."
    if min(one.metrics["intervals"]["photos"] for one in evaluations) < 10:
        note += " With fewer than ten photos an interval says little more than how far these photos lie apart."
    return TextTable("Evaluations", ["", *(one.label for one in evaluations)], rows, note)


def scores(evaluations: Sequence[Run]) -> list[TextTable]:
    """One table a metric: degradations down, runs across, each cell with its interval. Runs on the same photos share a
    column of the degraded photos, others have one each."""
    tables = []
    shared = same_inputs(evaluations)
    note = "" if shared else "Not the same degraded photos by the same protocol: these columns cannot be compared."
    names = list(dict.fromkeys(name for one in evaluations for name in metric_names(one.metrics["mean"])))
    for name in names:
        runs = [one for one in evaluations if name in one.metrics["mean"]]
        classes = list(dict.fromkeys(class_name for one in runs for class_name in one.metrics["per_degradation"]))
        columns: dict[str, list[str]] = {"degradation": [*classes, "mean"]}
        for one in runs:
            scored = {**one.metrics["per_degradation"], "mean": one.metrics["mean"]}
            ends = {**one.metrics["intervals"]["per_degradation"], "mean": one.metrics["intervals"]["mean"]}
            found = {class_name: scored[class_name] for class_name in columns["degradation"] if class_name in scored}
            if f"{name}_lq" in one.metrics["mean"]:
                title = "degraded photo" if shared else f"degraded photo of {one.label}"
                given = {key: score_text(name, row[f"{name}_lq"]) for key, row in found.items()}
                columns.setdefault(title, [given.get(key, "–") for key in columns["degradation"]])
            cells = {
                key: score_text(name, row[name]) + _range(ends.get(key, {}).get(name), name)
                for key, row in found.items()
            }
            columns[one.label] = [cells.get(key, "–") for key in columns["degradation"]]
        better = "higher" if runs[0].metrics["higher_is_better"][name] else "lower"
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        tables.append(TextTable(f"{metric_label(name)}, {better} is better", list(columns), rows, note, last=1))
    sets = list(dict.fromkeys(name for one in evaluations for name in one.metrics["sets"]))
    if sets:
        rows = [
            [one.label, *(f"{one.metrics['sets'][name]:.3f}" if name in one.metrics["sets"] else "–" for name in sets)]
            for one in evaluations
        ]
        labels = [metric_label(n.removesuffix("_lq")) + (" degraded" if n.endswith("_lq") else "") for n in sets]
        tables.append(TextTable("Scores of whole sets, lower is better", ["run", *labels], rows))
    return tables


def missing(evaluations: Sequence[Run]) -> TextTable | None:
    """Metrics that were asked for and could not be computed, with the reason."""
    found = [(one.label, *item) for one in evaluations for item in one.metrics["missing"].items()]
    rows = [[label, metric_label(name), reason] for label, name, reason in found]
    return TextTable("Metrics that are missing", ["run", "metric", "reason"], rows) if rows else None


def comparison_table(comparisons: Sequence[Comparison], first: str, confidence: float) -> TextTable:
    """Differences to the first evaluation and what they are worth."""
    rows = []
    for one in comparisons:
        gap = one.difference
        mean, p = "–", "–"
        if gap is not None:
            digits = 2 if one.metric in ("psnr", "fid") else 4
            mean, p = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]", f"{gap.p:.4f}"
        rows.append([one.label, metric_label(one.metric) or "–", str(one.rows), mean, p, one.verdict])
    note = (
        f"Paired bootstrap over photos on the crops in common, {confidence:.0%} intervals; "
        "p-values are adjusted for the number of comparisons (Holm) and never below what as many photos can show: "
        "fewer than six prove nothing."
    )
    heading = ["run", "metric", "crops", "mean difference", "p", "verdict"]
    return TextTable(f"Differences to {first}", heading, rows, note)


def recognitions(runs: Sequence[Run]) -> TextTable:
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
    return TextTable("Stage 1 on validation photos", ["", *(run.label for run in runs)], rows)


def trainings(runs: Sequence[Run]) -> TextTable:
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
    return TextTable("Training runs", ["run", "stage", "steps", "validation score", "time", "machine", "seed"], rows)
