"""Quality and seconds of the samplers over network evaluations: `python -m daclip.commands.sampler_report`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from daclip.commands.evaluate import tell, validation_data
from daclip.commands.options import known, make, markdown_table, say, text_table
from daclip.config import run_entry, validated
from daclip.data.pairs import ValidationPairs, collate
from daclip.diffusion.denoiser import Denoiser
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.files import choices, write_json, write_text
from daclip.metrics.image import PairMetric, psnr, ssim
from daclip.pixels import quantise
from daclip.reporting.charts import Panel, line_charts, svg
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


@dataclass(frozen=True)
class Score:
    """One sampler at one number of evaluations; quality is the mean over photos of 8-bit values."""

    sampler: str  # name of its yaml
    grid: str  # name of its time grid's yaml
    budget: int  # network evaluations allowed
    nfe: int  # evaluations used: the most of this sampler within the budget
    steps: int
    psnr: float  # dB
    gain: float  # dB above the degraded photos
    ssim: float
    seconds: float  # of sampling one photo, without stage 1
    others: dict[str, float]  # further metrics by their names


@dataclass(frozen=True)
class Prepared:
    """A validation batch with stage 1's embeddings, which all samplers share."""

    batch: RestorationBatch  # on the CPU
    conditioning: Conditioning  # on the restorer's device
    first: int  # number of the first pair, for the generators


def _within(node: Mapping[str, Any], budget: int) -> Sampler:
    """The sampler of the most steps that needs no more evaluations than the budget."""
    for steps in range(budget, 0, -1):
        sampler: Sampler = make({**node, "steps": steps})
        if sampler.nfe <= budget:
            return sampler
    raise DaclipError(f"nfe={budget} is too little for one step of {node['_target_']}; raise it")


def prepare(
    pairs: ValidationPairs, restorer: Restorer, photos: int | None, batch_size: int, seed: int
) -> list[Prepared]:
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
            prepared.append(Prepared(batch, conditioning, first))
    return prepared


def further_metrics(cfg: DictConfig) -> dict[str, PairMetric]:
    """The metrics asked for beside PSNR and SSIM, by name."""
    metrics: dict[str, Any] = make(cfg.metric)
    for name, metric in metrics.items():
        if not isinstance(metric, PairMetric) or name in ("psnr", "ssim"):
            raise DaclipError(f"metric={name}: choose metrics of single photos other than PSNR and SSIM, such as lpips")
    return metrics


def measure(
    sampler: Sampler, restorer: Restorer, prepared: Sequence[Prepared], metrics: Mapping[str, PairMetric]
) -> dict[str, Any]:
    """PSNR, gain (both dB), SSIM, seconds a photo and other metrics of a sampler, averaged over photos."""
    seconds, found = 0.0, []
    for part in prepared:
        lq, hq = part.batch.lq, quantise(part.batch.hq)
        generators = [generator_for(restorer.seed, part.first + i) for i in range(len(lq))]
        started = time.perf_counter()
        with autocast(restorer.device, restorer.precision):
            restored = sampler.sample(restorer.denoiser, lq.to(restorer.device), part.conditioning, generators)
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
    plan: Plan, restorer: Restorer, prepared: Sequence[Prepared], metrics: Mapping[str, PairMetric], console: Console
) -> list[Score]:
    """Scores of all planned samplers, in their order; each score is shown when it is there."""
    # The first call of a network is slower than all others.
    measure(next(iter(plan.values())), restorer, prepared[:1], metrics)
    done: dict[tuple[str, str, int], dict[str, Any]] = {}
    scores = []
    for number, ((name, grid, budget), sampler) in enumerate(plan.items(), 1):
        key = (name, grid, sampler.steps)
        if key not in done:
            done[key] = measure(sampler, restorer, prepared, metrics)
        score = Score(name, grid, budget, sampler.nfe, sampler.steps, **done[key])
        scores.append(score)
        console.print(
            f"{number}/{len(plan)}  {name} on {grid}, NFE {score.nfe}: {score.gain:+.2f} dB, "
            f"SSIM {score.ssim:.3f}, {score.seconds:.3f} s"
        )
    return scores


def _reference(cfg: DictConfig) -> tuple[str, str, int]:
    return known("sampler", cfg.reference.sampler), known("grid", cfg.reference.grid), int(cfg.reference.nfe)


def verdict(cfg: DictConfig, scores: Sequence[Score], metrics: Mapping[str, PairMetric]) -> dict[str, Any]:
    """The cheap samplers that reach the reference within the margin, fewest evaluations first, and the best of them."""

    def as_good(score: Score) -> bool:
        if score.psnr < reference.psnr - cfg.margin.psnr or score.ssim < reference.ssim * (1 - cfg.margin.ssim):
            return False
        share = cfg.margin.others
        return all(
            score.others[name] >= goal * (1 - share)
            if metrics[name].higher_is_better
            else score.others[name] <= goal * (1 + share)
            for name, goal in reference.others.items()
        )

    wanted = _reference(cfg)
    reference = next(score for score in scores if (score.sampler, score.grid, score.budget) == wanted)
    few = [score for score in scores if score.nfe <= cfg.few]
    equal = [score for score in few if as_good(score)]
    return {
        "reference": asdict(reference),
        "few": cfg.few,
        "margin": OmegaConf.to_container(cfg.margin),
        "reach_it": [asdict(score) for score in sorted(equal, key=lambda score: (score.nfe, -score.psnr))],
        "best_of_few": asdict(max(few, key=lambda score: score.psnr)) if few else None,
    }


def _frame(scores: Sequence[Score]) -> pd.DataFrame:
    """One row a score; `label` is the sampler, with its grid where there are several."""
    frame = pd.DataFrame([{**asdict(score), **score.others} for score in scores])
    several = frame["grid"].nunique() > 1
    return frame.assign(label=frame["sampler"] + (" (" + frame["grid"] + ")" if several else ""))


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
    lines = dict(list(frame.drop_duplicates(["label", "nfe"]).groupby("label", sort=False)))

    def panel(title: str, y_label: str, depth: float, y: str, x: str = "nfe", lower: bool = False) -> Panel:
        points = {str(name): list(zip(line[x], line[y], strict=True)) for name, line in lines.items()}
        x_label = "network evaluations" if x == "nfe" else "seconds a photo"
        return Panel(title, x_label, y_label, points, depth, lower_is_better=lower)

    # Samplers that need many steps fall far below with few; the charts keep to where choices are made.
    panels = [panel("PSNR gain", "dB", 4.0, "gain"), panel("SSIM", "SSIM", 0.25, "ssim")]
    for name, metric in metrics.items():
        lower = not metric.higher_is_better
        panels.append(panel(f"{name} (smaller is better)" if lower else name, name, 0.5, name, lower=lower))
    return svg(line_charts([*panels, panel("PSNR gain by time", "dB", 4.0, "gain", "seconds")]))


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
    data = validation_data(cfg, restorer.artifact)
    tell(data)
    pairs = data.validation_pairs()
    prepared = prepare(pairs, restorer, cfg.photos, cfg.batch_size, cfg.seed)
    scores = measure_all(plan, restorer, prepared, metrics, Console(stderr=True))
    found = verdict(cfg, scores, metrics)
    command = ["python", "-m", "daclip.commands.sampler_report"]
    report = {
        "artifact": str(folder),
        "photos": sum(len(part.batch) for part in prepared),
        "verdict": found,
        "scores": [asdict(score) for score in scores],
        "record": provenance(cfg.seed, command, {"total": time.monotonic() - started}),
    }
    frame, sentence = _frame(scores), _sentence(found)
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
