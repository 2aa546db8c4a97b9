"""The command `daclip report`: reads runs, writes `report.html` and `report.md`."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from omegaconf import DictConfig
from rich.console import Console

from daclip.commands.schemas import ReportConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.files import write_text
from daclip.reporting import content
from daclip.reporting.content import compare, show
from daclip.reporting.runs import Evaluation, Recognition, Runs, read_runs
from daclip.reporting.tables import metric_label, score_text


def _photos(evaluation: Evaluation, count: int, side: int) -> list[dict[str, Any]]:
    """The worst and the best photos of an evaluation."""
    shown = []
    for rank in ("worst", "best"):
        for entry in [entry for entry in evaluation.metrics["pictures"] if entry["rank"] == rank][:count]:
            values = ", ".join(
                f"{metric_label(name)} "
                + (f"{score_text(name, entry['scores'][f'{name}_lq'])} → " if f"{name}_lq" in entry["scores"] else "")
                + score_text(name, value)
                for name, value in entry["scores"].items()
                if not name.endswith("_lq")
            )
            pictures = show(evaluation.folder / "pictures", entry["files"], side)
            shown.append({**entry, "values": values, **vars(pictures)})
    return shown


def _records(runs: Runs) -> list[dict[str, str]]:
    """What makes each run repeatable, as text."""
    scored: list[Evaluation | Recognition] = [*runs.evaluations, *runs.recognitions]
    found = [(one.label, dict(one.metrics["record"])) for one in scored]
    found += [(run.label, dict(run.record)) for run in runs.trainings]
    return [
        {"label": label, "text": yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100)}
        for label, record in found
    ]


def report(cfg: DictConfig) -> Path:
    """Write the page and its Markdown form.

    Raises:
        DaclipError: No run is given, or one cannot be read.
    """
    if cfg.pictures < 0 or cfg.zoom < 8 or cfg.draws < 1 or not 0 < cfg.confidence < 1:
        raise DaclipError("pictures must be at least 0, zoom at least 8, draws at least 1, confidence in (0, 1)")
    runs = read_runs(cfg.runs)
    evaluations = runs.evaluations
    tables: list[content.Table] = []
    if evaluations:
        tables += [content.facts(evaluations), *content.scores(evaluations)]
    if len(evaluations) > 1:
        comparisons = compare(evaluations, cfg.draws, cfg.confidence, cfg.seed)
        tables.append(content.comparison_table(comparisons, evaluations[0].label, cfg.confidence))
    absent = content.missing(evaluations)
    tables += [absent] if absent else []
    tables += [content.recognitions(runs.recognitions)] if runs.recognitions else []
    tables += [content.trainings(runs.trainings)] if runs.trainings else []
    page = {
        "title": cfg.title,
        "tables": tables,
        "charts": content.charts(runs),
        "matrices": content.confusion([*evaluations, *runs.recognitions, *runs.trainings]),
        "photos": [(one.label, _photos(one, cfg.pictures, cfg.zoom)) for one in evaluations],
        "records": _records(runs),
    }
    templates = Environment(
        loader=PackageLoader("daclip.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    output = Path(cfg.output)
    for name in ("report.html", "report.md"):
        write_text(output / name, templates.get_template(f"{name}.j2").render(page))
    Console().print(f"written: {output / 'report.html'}, {output / 'report.md'}", soft_wrap=True)
    return output / "report.html"


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: report(validated(cfg, ReportConfig)), "report")
