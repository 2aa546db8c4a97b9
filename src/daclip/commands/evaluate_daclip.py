"""Score stage 1 on held-out photos: `python -m daclip.commands.evaluate_daclip [overrides]`."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from daclip.arithmetic import device_by_name
from daclip.artifacts import Artifact, find_artifact, load_daclip
from daclip.clip.evaluation import score_daclip
from daclip.commands.assembly import build_data
from daclip.commands.schemas import EvaluateDaclipConfig
from daclip.config import run_entry, validated
from daclip.data.datamodule import MixedDegradationData
from daclip.data.pairs import collate
from daclip.degradations import vocabulary
from daclip.files import write_bytes, write_json
from daclip.reporting.charts import confusion_figure, png, reliability_figure
from daclip.training.provenance import provenance


def _data(cfg: DictConfig, trained: Mapping[str, Any]) -> MixedDegradationData:
    """The data of the command line; what it leaves out is as in the artifact's training."""
    data = OmegaConf.create({"data": cfg.data or trained["data"]})
    data.data.degradations = cfg.degradation or trained["degradation"]
    data.data.seed = cfg.seed
    return build_data(data)


def evaluate_daclip(cfg: DictConfig) -> dict[str, Any]:
    """Score the artifact, print the tables, write `metrics.json` and two pictures to `cfg.output`."""
    started = time.monotonic()
    artifact = Artifact(find_artifact(cfg.artifact, "outputs/daclip", "make train-daclip"))
    daclip = load_daclip(artifact.folder).to(device_by_name(cfg.device))
    pairs = _data(cfg, artifact.config).validation_pairs()
    classes = list(dict.fromkeys([*vocabulary(artifact.build("degradation")), *pairs.classes]))
    loader = DataLoader(pairs, batch_size=cfg.batch_size, collate_fn=collate)
    batches = track(loader, "evaluating", transient=True, console=Console(stderr=True))
    scores = score_daclip(daclip, batches, classes, list(cfg.templates), cfg.bins, cfg.precision)
    metrics = {"artifact": str(artifact.folder), **scores.results()}
    metrics["record"] = provenance(
        cfg.seed,
        ["python", "-m", "daclip.commands.evaluate_daclip", *sys.argv[1:]],
        {"total": time.monotonic() - started},
    )
    output = Path(cfg.output)
    write_bytes(output / "confusion.png", png(confusion_figure(metrics["confusion"], classes)))
    write_bytes(
        output / "reliability.png",
        png(reliability_figure(metrics["calibration"], metrics["calibration_error"], cfg.bins)),
    )
    write_json(output / "metrics.json", metrics)
    _print(metrics)
    Console().print(f"written: {output}/metrics.json, confusion.png, reliability.png", soft_wrap=True)
    return metrics


def _print(metrics: Mapping[str, Any]) -> None:
    table = Table(title="held-out photos: word named, cosine to the clean photo's embedding")
    table.add_column("degradation", no_wrap=True)
    for heading in ("accuracy", "steered", "plain CLIP"):
        table.add_column(heading, justify="right")
    for class_name, accuracy in metrics["per_degradation_accuracy"].items():
        cosines = [
            metrics[f"per_degradation_{name}"][class_name] for name in ("content_cosine", "content_cosine_plain")
        ]
        table.add_row(class_name, f"{accuracy:.3f}", *(f"{cosine:.4f}" for cosine in cosines))
    table.add_section()
    means = [metrics[name] for name in ("content_cosine", "content_cosine_plain")]
    table.add_row("mean", f"{metrics['degradation_accuracy']:.3f}", *(f"{cosine:.4f}" for cosine in means))
    console = Console()
    console.print(table)
    console.print(f"calibration error {metrics['calibration_error']:.3f}, {metrics['count']} photos", highlight=False)
    found = metrics["retrieval"]
    if found is None:
        console.print("no caption retrieval: the photos have fewer than two different captions")
        return
    table = Table(title=f"own caption among {found['captions']} found by the photo's embedding")
    table.add_column("embedding", no_wrap=True)
    for place in found["clean"]:
        table.add_column(f"R@{place}", justify="right")
    for way in ("clean", "degraded", "steered"):
        table.add_row(way, *(f"{share:.3f}" for share in found[way].values()))
    console.print(table)


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: evaluate_daclip(validated(cfg, EvaluateDaclipConfig)), "evaluate_daclip")


if __name__ == "__main__":
    main()
