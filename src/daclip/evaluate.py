"""Score a restorer on held-out photos: `python -m daclip.evaluate [overrides]`."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from daclip.build import build_data, make
from daclip.callbacks import sample_grid
from daclip.checkpoints import find_artifact
from daclip.config import EvaluateConfig, run_entry, validated
from daclip.data.module import MixedDegradationData
from daclip.data.pairs import HeldOutPairs, collate
from daclip.data.photos import save_image
from daclip.degradations import split_words
from daclip.metrics.degradation import ConfusionMatrix
from daclip.metrics.image import psnr, quantise, ssim
from daclip.pipeline import Restorer
from daclip.records import provenance, write_json

__all__ = ["evaluate", "held_out_data", "main", "score"]

COLUMNS = ("psnr_lq", "psnr", "ssim_lq", "ssim")


def held_out_data(cfg: DictConfig, restorer: Restorer) -> MixedDegradationData:
    """The data of the command line; what it leaves out is as in the artifact's training."""
    artifact = restorer.artifact
    data = OmegaConf.create({"data": cfg.data or artifact.section("data")})
    data.data.degradations = cfg.degradation or artifact.section("degradation")
    data.data.seed = cfg.seed
    return build_data(data)


def score(restorer: Restorer, pairs: HeldOutPairs, batch_size: int) -> tuple[dict[str, Any], torch.Tensor]:
    """Restore all pairs and average their scores by label: a degradation word, or several.

    Args:
        restorer: What is scored.
        pairs: Held-out pairs.
        batch_size: Photos restored at once; changes nothing but speed.

    Returns:
        The scores as `metrics.json` holds them, and a picture LQ | restored | HQ with one row a word.
    """
    confusion = ConfusionMatrix(sorted({*restorer.vocabulary, *pairs.words}))
    rows: dict[str, list[list[float]]] = defaultdict(list)
    named: dict[str, list[bool]] = defaultdict(list)
    shown: dict[str, tuple[torch.Tensor, ...]] = {}
    loader = DataLoader(pairs, batch_size=batch_size, collate_fn=collate)
    seconds = 0.0
    for number, batch in enumerate(track(loader, "evaluating", transient=True, console=Console(stderr=True))):
        first = number * batch_size
        started = time.perf_counter()
        done = restorer.restore(batch.lq, range(first, first + len(batch)))
        seconds += time.perf_counter() - started
        predicted = torch.tensor([confusion.words.index(word) for word in done.words])
        confusion.update(predicted, batch.degradation)
        lq, restored, hq = quantise(batch.lq), quantise(done.images), quantise(batch.hq)
        values = torch.stack([psnr(lq, hq), psnr(restored, hq), ssim(lq, hq), ssim(restored, hq)], dim=1)
        for i, word in enumerate(batch.degradation):
            rows[word].append(values[i].tolist())
            named[word].append(done.words[i] in split_words(word))
            shown.setdefault(word, (lq[i], restored[i], hq[i]))
    per_word: dict[str, dict[str, Any]] = {}
    for word, found in rows.items():
        means = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        per_word[word] = {**dict(zip(COLUMNS, means, strict=True)), "count": len(found)}
    metrics = {
        "degradation_accuracy": confusion.accuracy(),
        "per_degradation_accuracy": {word: sum(hits) / len(hits) for word, hits in named.items()},
        "confusion": confusion.table(),
        "per_degradation": per_word,
        "mean": {
            **{key: sum(row[key] for row in per_word.values()) / len(per_word) for key in COLUMNS},
            "count": len(pairs),
        },
        "nfe": restorer.sampler.nfe,
        "seconds_per_photo": seconds / len(pairs),
    }
    grid = sample_grid(*(torch.stack(parts) for parts in zip(*shown.values(), strict=True)))
    return metrics, grid


def _print(metrics: dict[str, Any]) -> None:
    table = Table(title="held-out photos: degraded → restored, PSNR in dB")
    table.add_column("degradation", no_wrap=True)
    for heading in ("PSNR in", "PSNR", "gain", "SSIM in", "SSIM", "named", "n"):
        table.add_column(heading, justify="right")
    named = {**metrics["per_degradation_accuracy"], "mean": metrics["degradation_accuracy"]}
    for word, row in [*metrics["per_degradation"].items(), ("mean", metrics["mean"])]:
        if word == "mean":
            table.add_section()
        gain = row["psnr"] - row["psnr_lq"]
        table.add_row(
            word,
            f"{row['psnr_lq']:.2f}",
            f"{row['psnr']:.2f}",
            f"{gain:+.2f}",
            f"{row['ssim_lq']:.3f}",
            f"{row['ssim']:.3f}",
            f"{named[word]:.0%}",
            str(row["count"]),
        )
    Console().print(table)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score the artifact, print the table, write `metrics.json` and `grid.png` to `cfg.output`."""
    started = time.monotonic()
    folder = find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer")
    sampler = make(cfg.sampler) if cfg.sampler else None
    restorer = Restorer(folder, sampler, cfg.device, cfg.precision, cfg.seed)
    pairs = held_out_data(cfg, restorer).held_out_pairs()
    metrics, grid = score(restorer, pairs, cfg.batch_size)
    metrics["artifact"] = str(folder)
    metrics["record"] = provenance(cfg.seed, ["python", "-m", "daclip.evaluate"], {"total": time.monotonic() - started})
    output = Path(cfg.output)
    save_image(grid, output / "grid.png")
    write_json(output / "metrics.json", metrics)
    _print(metrics)
    Console().print(f"{metrics['nfe']} network evaluations, {metrics['seconds_per_photo']:.2f} s a photo")
    Console().print(f"written: {output / 'metrics.json'}, {output / 'grid.png'}", soft_wrap=True)
    return metrics


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: evaluate(validated(cfg, EvaluateConfig)), "evaluate")


if __name__ == "__main__":
    main()
