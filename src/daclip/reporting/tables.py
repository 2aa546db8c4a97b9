"""Names and digits of scores, and the console's tables of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

LABELS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "dists": "DISTS"}


def metric_label(name: str) -> str:
    """A metric's name as tables show it.

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
    room = max(1, (width - 30) // 24)  # metrics that fit beside the classes, the accuracy and the count
    names = metric_names(metrics["mean"])
    return [_table(metrics, names[i : i + room]) for i in range(0, len(names), room)]


def _table(metrics: Mapping[str, Any], names: Sequence[str]) -> Table:
    what = "degraded → restored" if "nfe" in metrics else "photos"
    table = Table(title=escape(f"{what}, {metrics['protocol']['text']}"))
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
    for heading in [*headings, *(["recognised"] if named else []), "n"]:
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
        table.add_row(escape(class_name), *cells, *([f"{named[class_name]:.0%}"] if named else []), str(row["count"]))
    return table
