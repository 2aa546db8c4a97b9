"""Quality and seconds of the samplers over network evaluations: `python -m daclip.commands.sampler_report [overrides]`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from daclip.artifacts import find_artifact
from daclip.commands.evaluate import validation_data
from daclip.commands.sampler_scores import Score, further_metrics, measure_all, plan_samplers, prepare, verdict
from daclip.commands.schemas import SamplerReportConfig
from daclip.config import run_entry, validated
from daclip.diffusion.denoiser import Denoiser
from daclip.files import write_json, write_text
from daclip.metrics.base import PairMetric
from daclip.reporting.tables import Panel, line_charts
from daclip.restoring.restorer import Restorer
from daclip.training.provenance import provenance


def _label(score: Score, several_grids: bool) -> str:
    return f"{score.sampler} ({score.grid})" if several_grids else score.sampler


def _tables(scores: Sequence[Score]) -> dict[str, list[list[str]]]:
    """Title to rows of text, the first row the heading: one row a sampler, one column a budget."""
    budgets = sorted({score.budget for score in scores})
    several = len({score.grid for score in scores}) > 1
    by_label: dict[str, dict[int, Score]] = {}
    for score in scores:
        by_label.setdefault(_label(score, several), {})[score.budget] = score
    others = {name: f"{{0.others[{name}]:.3f}}" for name in scores[0].others}
    columns = {"gain in dB": "{0.gain:+.2f}", "SSIM": "{0.ssim:.3f}", **others, "seconds a photo": "{0.seconds:.3f}"}
    return {
        f"{title} over network evaluations": [
            ["sampler", *map(str, budgets)],
            *(
                [label, *(cell.format(found[budget]) if budget in found else "" for budget in budgets)]
                for label, found in by_label.items()
            ),
        ]
        for title, cell in columns.items()
    }


def _sentence(found: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    reference = found["reference"]
    goal = f"{reference['sampler']} at NFE {reference['nfe']} ({reference['gain']:+.2f} dB)"
    if not found["reach_it"]:
        return f"no sampler reaches {goal} within NFE {found['few']}"
    first, best = found["reach_it"][0], found["best_of_few"]
    return (
        f"{goal} is reached at NFE {first['nfe']} by {first['sampler']} on {first['grid']} ({first['gain']:+.2f} dB); "
        f"best within NFE {found['few']}: {best['sampler']} on {best['grid']} at {best['nfe']} ({best['gain']:+.2f} dB)"
    )


def _markdown(tables: Mapping[str, list[list[str]]], sentence: str) -> str:
    lines = [sentence + ".", ""]
    for title, (heading, *rows) in tables.items():
        rule = ["---", *("---:" for _ in heading[1:])]
        lines += [f"**{title}**", "", *("| " + " | ".join(row) + " |" for row in (heading, rule, *rows)), ""]
    return "\n".join(lines)


def _chart(scores: Sequence[Score], metrics: Mapping[str, PairMetric]) -> str:
    several = len({score.grid for score in scores}) > 1
    lines: dict[str, list[Score]] = {}
    for score in scores:
        line = lines.setdefault(_label(score, several), [])
        if all(score.nfe != other.nfe for other in line):
            line.append(score)

    values = {name: [{**asdict(score), **score.others} for score in line] for name, line in lines.items()}

    def points(x: str, y: str) -> dict[str, list[tuple[float, float]]]:
        return {name: [(value[x], value[y]) for value in line] for name, line in values.items()}

    calls = "network evaluations"
    # Samplers that need many steps fall far below with few; the charts keep to where choices are made.
    return line_charts(
        [
            Panel("PSNR gain", calls, "dB", points("nfe", "gain"), 4.0),
            Panel("SSIM", calls, "SSIM", points("nfe", "ssim"), 0.25),
            *(
                Panel(name, calls, name, points("nfe", name), 0.5)
                if metric.higher_is_better
                else Panel(f"{name} (smaller is better)", calls, name, points("nfe", name), 0.5, lower_is_better=True)
                for name, metric in metrics.items()
            ),
            Panel("PSNR gain by time", "seconds a photo", "dB", points("seconds", "gain"), 4.0),
        ]
    )


def sampler_report(cfg: DictConfig) -> dict[str, Any]:
    """Measure the samplers; print tables and write `report.json`, `report.md` and `report.svg` to `cfg.output`."""
    started = time.monotonic()
    folder = find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer")
    restorer = Restorer(folder, None, cfg.device, cfg.precision, cfg.seed)
    if cfg.correct_epsilon_shift is not None:
        denoiser = restorer.denoiser
        restorer.denoiser = Denoiser(
            denoiser.backbone, denoiser.process, denoiser.parameterization, cfg.correct_epsilon_shift
        ).eval()
    plan, metrics = plan_samplers(cfg, restorer.denoiser.process), further_metrics(cfg)
    pairs = validation_data(cfg, restorer).validation_pairs()
    prepared = prepare(pairs, restorer, cfg.photos, cfg.batch_size, cfg.seed)
    scores = measure_all(plan, restorer, prepared, metrics, Console(stderr=True))
    found = verdict(cfg, scores, metrics)
    report = {
        "artifact": str(folder),
        "photos": sum(len(part.batch) for part in prepared),
        "verdict": found,
        "scores": [asdict(score) for score in scores],
        "record": provenance(
            cfg.seed, ["python", "-m", "daclip.commands.sampler_report"], {"total": time.monotonic() - started}
        ),
    }
    tables = _tables(scores)
    output = Path(cfg.output)
    write_json(output / "report.json", report)
    write_text(output / "report.md", _markdown(tables, _sentence(found)))
    write_text(output / "report.svg", _chart(scores, metrics))
    for title, (heading, *rows) in tables.items():
        table = Table(title=title)
        for index, name in enumerate(heading):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    Console().print(_sentence(found), soft_wrap=True)
    Console().print(f"written: {output}/report.json, report.md, report.svg", soft_wrap=True)
    return report


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: sampler_report(validated(cfg, SamplerReportConfig)), "sampler_report")


if __name__ == "__main__":
    main()
