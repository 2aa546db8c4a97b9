"""Quality and seconds of the samplers over network evaluations: `python -m daclip.commands.sampler_report`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console

from daclip.arithmetic import autocast
from daclip.artifacts import find_artifact
from daclip.commands.assembly import resolved
from daclip.commands.evaluate import validation_data
from daclip.commands.options import known, make, markdown_table, say, text_table
from daclip.config import run_entry, validated
from daclip.data.pairs import ValidationPairs, collate
from daclip.diffusion.denoiser import Denoiser
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.files import choices, write_json, write_text
from daclip.metrics.image import PairMetric, psnr, ssim
from daclip.pixels import quantise
from daclip.reporting.charts import line_charts, panel_over, quality_panels, score_frame, svg
from daclip.restoring.restorer import Restorer
from daclip.rng import generator_for
from daclip.samplers import Sampler
from daclip.training.provenance import provenance
from daclip.types import Conditioning, RestorationBatch

Plan = dict[tuple[str, str, int], Sampler]
"""Samplers by name, time grid and allowed network evaluations."""


@dataclass
class SamplerReportConfig:
    """Top level of `sampler_report.yaml`."""

    artifact: str | None = None
    output: str = MISSING
    paths: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    degradation: dict[str, Any] | None = None
    metric: dict[str, Any] = field(default_factory=dict)
    samplers: list[str] | None = None
    grids: list[str] = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    nfe: list[int] = MISSING
    reference: dict[str, Any] = field(default_factory=dict)
    few: int = MISSING
    margin: dict[str, float] = field(default_factory=dict)
    correct_epsilon_shift: bool | None = None
    photos: int | None = None
    batch_size: int = MISSING
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING


Score = dict[str, Any]
"""One sampler at one number of evaluations: `sampler` and `grid` (names of their yaml), `budget` (network evaluations
allowed), `nfe` (used: the most of this sampler within the budget), `steps` and what `measure` found."""

Prepared = list[tuple[RestorationBatch, Conditioning]]
"""Validation batches on the CPU, with stage 1's embeddings on the restorer's device, which all samplers share."""


def _within(node: Mapping[str, Any], budget: int) -> Sampler:
    """The sampler of the most steps that needs no more evaluations than the budget."""
    for steps in range(budget, 0, -1):
        sampler: Sampler = make({**node, "steps": steps})
        if sampler.nfe <= budget:
            return sampler
    raise DaclipError(f"nfe={budget} is too little for one step of {node['_target_']}; raise it")


def prepare(pairs: ValidationPairs, restorer: Restorer, photos: int | None, batch_size: int, seed: int) -> Prepared:
    """Validation pairs in batches, with the embeddings of stage 1; at most `photos` pairs, drawn by the seed."""
    chosen = list(range(len(pairs)))
    if photos is not None:
        # Drawn, since a fixed stride may meet the same few classes again and again.
        chosen = sorted(torch.randperm(len(pairs), generator=generator_for(seed)).tolist()[: max(photos, 0)])
    if not chosen:
        raise DaclipError(f"photos={photos} leaves nothing to measure on; give at least 1")
    prepared = []
    for first in range(0, len(chosen), batch_size):
        batch = collate([pairs[i] for i in chosen[first : first + batch_size]])
        with torch.inference_mode(), autocast(restorer.device, restorer.precision):
            conditioning = restorer.decided(restorer.daclip(batch.lq.to(restorer.device)))
            prepared.append((batch, conditioning))
    return prepared


def further_metrics(cfg: DictConfig) -> dict[str, PairMetric]:
    """The metrics asked for beside PSNR and SSIM, by name."""
    metrics: dict[str, Any] = make(cfg.metric)
    for name, metric in metrics.items():
        if not isinstance(metric, PairMetric) or name in ("psnr", "ssim"):
            raise DaclipError(f"metric={name}: choose metrics of single photos other than PSNR and SSIM, such as lpips")
    return metrics


def measure(sampler: Sampler, restorer: Restorer, prepared: Prepared, metrics: Mapping[str, PairMetric]) -> Score:
    """Means over photos, as 8-bit images: `psnr` and `gain` above the degraded photos in dB, `ssim`, `seconds` of
    sampling one without stage 1, and `others`, further metrics by their names."""
    seconds, found, numbers = 0.0, [], count()
    for batch, conditioning in prepared:
        lq, hq = batch.lq, quantise(batch.hq)
        generators = [generator_for(restorer.seed, next(numbers)) for _ in range(len(lq))]
        started = time.perf_counter()
        with autocast(restorer.device, restorer.precision):
            restored = sampler.sample(restorer.denoiser, lq.to(restorer.device), conditioning, generators)
        # The copy to the CPU waits for the device, so the clock sees all of the work.
        restored = quantise(restored.cpu())
        seconds += time.perf_counter() - started
        after = psnr(restored, hq)
        more = [metric.score(restored, hq) for metric in metrics.values()]
        found.append(torch.stack([after, after - psnr(quantise(lq), hq), ssim(restored, hq), *more], dim=1))
    values = torch.cat(found).double()
    mean_psnr, gain, mean_ssim, *means = values.mean(0).tolist()
    others = dict(zip(metrics, means, strict=True))
    return {"psnr": mean_psnr, "gain": gain, "ssim": mean_ssim, "seconds": seconds / len(values), "others": others}


def plan_samplers(cfg: DictConfig, process: MeanRevertingSDE) -> Plan:
    """All samplers of a report's configuration by name, grid and budget, the reference among them."""
    if not cfg.nfe or min(cfg.nfe) < 1:
        raise DaclipError(f"nfe={list(cfg.nfe)} must hold numbers of at least 1")
    names = [known("sampler", name) for name in cfg.samplers or choices("sampler")]
    grids = [known("grid", grid) for grid in cfg.grids or choices("grid")]
    rows = [(name, grid, budget) for grid in grids for name in names for budget in sorted(set(cfg.nfe))]
    rows.append(_reference(cfg))
    nodes = {}
    for name, grid in dict.fromkeys(row[:2] for row in rows):
        composed = hydra.compose("evaluate", [f"sampler={name}", f"grid={grid}"])
        nodes[name, grid] = {**resolved(composed.sampler), **cfg.options}
    plan = {row: _within(nodes[row[:2]], row[2]) for row in rows}
    for sampler in plan.values():
        sampler.times(process)
    return plan


def measure_all(
    plan: Plan, restorer: Restorer, prepared: Prepared, metrics: Mapping[str, PairMetric], console: Console
) -> list[Score]:
    """Scores of all planned samplers, in their order; each score is shown when it is there."""
    # The first call of a network is slower than all others.
    measure(next(iter(plan.values())), restorer, prepared[:1], metrics)
    done: dict[tuple[str, str, int], Score] = {}
    scores: list[Score] = []
    for number, ((name, grid, budget), sampler) in enumerate(plan.items(), 1):
        key = (name, grid, sampler.steps)
        if key not in done:
            done[key] = measure(sampler, restorer, prepared, metrics)
        score: Score = {"sampler": name, "grid": grid, "budget": budget, "nfe": sampler.nfe, "steps": sampler.steps}
        scores.append(score | done[key])
        console.print(
            f"{number}/{len(plan)}  {name} on {grid}, NFE {sampler.nfe}: {done[key]['gain']:+.2f} dB, "
            f"SSIM {done[key]['ssim']:.3f}, {done[key]['seconds']:.3f} s"
        )
    return scores


def _reference(cfg: DictConfig) -> tuple[str, str, int]:
    return known("sampler", cfg.reference.sampler), known("grid", cfg.reference.grid), int(cfg.reference.nfe)


def verdict(cfg: DictConfig, scores: Sequence[Score], metrics: Mapping[str, PairMetric]) -> dict[str, Any]:
    """The cheap samplers that reach the reference within the margin, fewest evaluations first, and the best of them."""

    def as_good(score: Score) -> bool:
        enough = reference["psnr"] - cfg.margin.psnr, reference["ssim"] * (1 - cfg.margin.ssim)
        if score["psnr"] < enough[0] or score["ssim"] < enough[1]:
            return False
        share = cfg.margin.others
        return all(
            score["others"][name] >= goal * (1 - share)
            if metrics[name].higher_is_better
            else score["others"][name] <= goal * (1 + share)
            for name, goal in reference["others"].items()
        )

    wanted = _reference(cfg)
    reference = next(score for score in scores if (score["sampler"], score["grid"], score["budget"]) == wanted)
    few = [score for score in scores if score["nfe"] <= cfg.few]
    return {
        "reference": reference,
        "few": cfg.few,
        "margin": OmegaConf.to_container(cfg.margin),
        "reach_it": sorted(filter(as_good, few), key=lambda score: (score["nfe"], -score["psnr"])),
        "best_of_few": max(few, key=lambda score: score["psnr"], default=None),
    }


def _tables(frame: pd.DataFrame, metrics: Sequence[str]) -> dict[str, list[list[str]]]:
    """Title to rows of text, the first row the heading: one row a sampler, one column a budget."""
    columns = {"gain": ("gain in dB", "{:+.2f}"), "ssim": ("SSIM", "{:.3f}")}
    columns |= {name: (name, "{:.3f}") for name in metrics} | {"seconds": ("seconds a photo", "{:.3f}")}
    tables = {}
    for column, (title, cell) in columns.items():
        wide = frame.pivot(index="label", columns="budget", values=column).reindex(frame["label"].unique())
        rows = [[label, *("" if pd.isna(v) else cell.format(v) for v in row)] for label, *row in wide.itertuples()]
        tables[f"{title} over network evaluations"] = [["sampler", *map(str, wide.columns)], *rows]
    return tables


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


def _chart(frame: pd.DataFrame, metrics: Mapping[str, PairMetric]) -> str:
    frame = frame.drop_duplicates(["label", "nfe"])
    panels = quality_panels(frame)
    for name, metric in metrics.items():
        lower = not metric.higher_is_better
        title = f"{name} (smaller is better)" if lower else name
        panels.append(panel_over(frame, "nfe", name, title, name, 0.5, lower))
    return svg(line_charts([*panels, panel_over(frame, "seconds", "gain", "PSNR gain by time", "dB", 4.0)]))


def sampler_report(cfg: DictConfig) -> dict[str, Any]:
    """Measure the samplers; print tables and write `report.json`, `report.md` and `report.svg` to `cfg.output`."""
    started = time.monotonic()
    folder = find_artifact(cfg.artifact, cfg.paths.restorer, "make train-restorer")
    restorer = Restorer(folder, None, cfg.device, cfg.precision, cfg.seed)
    if cfg.correct_epsilon_shift is not None:
        denoiser = restorer.denoiser
        restorer.denoiser = Denoiser(
            denoiser.backbone, denoiser.process, denoiser.parameterization, cfg.correct_epsilon_shift
        ).eval()
    plan, metrics = plan_samplers(cfg, restorer.denoiser.process), further_metrics(cfg)
    pairs = validation_data(cfg, restorer.artifact).validation_pairs()
    prepared = prepare(pairs, restorer, cfg.photos, cfg.batch_size, cfg.seed)
    scores = measure_all(plan, restorer, prepared, metrics, Console(stderr=True))
    found = verdict(cfg, scores, metrics)
    command = ["python", "-m", "daclip.commands.sampler_report"]
    report = {
        "artifact": str(folder),
        "photos": sum(len(batch) for batch, _ in prepared),
        "verdict": found,
        "scores": scores,
        "record": provenance(cfg.seed, command, {"total": time.monotonic() - started}),
    }
    frame, sentence = score_frame(scores), _sentence(found)
    lines = [f"{sentence}.", ""]
    for title, (heading, *rows) in _tables(frame, list(metrics)).items():
        lines += [f"**{title}**", "", *markdown_table(heading, rows), ""]
        Console().print(text_table(title, heading, rows))
    say(sentence)
    output = Path(cfg.output)
    write_json(output / "report.json", report)
    write_text(output / "report.md", "\n".join(lines))
    write_text(output / "report.svg", _chart(frame, metrics))
    say(f"written: {output}/report.json, report.md, report.svg")
    return report


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: sampler_report(validated(cfg, SamplerReportConfig)), "sampler_report")


if __name__ == "__main__":
    main()
