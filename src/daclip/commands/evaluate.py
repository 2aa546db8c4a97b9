"""Score an artifact of either stage, or folders of photos: `python -m daclip.commands.evaluate [overrides]`."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import center_crop

from daclip.arithmetic import device_by_name
from daclip.artifacts import Artifact, find_artifact, load_daclip
from daclip.clip.module import score_daclip
from daclip.commands.assembly import build_data, resolved
from daclip.commands.options import make, say, text_table
from daclip.config import run_entry, validated
from daclip.data.datamodule import MixedDegradationData, fingerprint
from daclip.data.pairs import ValidationPairs, collate
from daclip.decoding import read_photo
from daclip.degradations import split_classes
from daclip.errors import DaclipError
from daclip.files import write_bytes, write_json, write_text
from daclip.images import save_image
from daclip.metrics.classification import ConfusionMatrix, MeansByLabel
from daclip.metrics.scorer import Extremes, FilePair, PhotoScore, Scorer, match_folders, summarise
from daclip.reporting.charts import confusion_figure, png, reliability_figure
from daclip.reporting.tables import score_tables
from daclip.restoring.restorer import Restorer
from daclip.rng import generator_for
from daclip.training.callbacks import sample_grid
from daclip.training.provenance import provenance
from daclip.types import RestorationBatch


@dataclass
class EvaluateConfig:
    """Top level of `evaluate.yaml`."""

    artifact: str | None = None
    network: Any = None
    pred: str | None = None
    gt: str | None = None
    lq: str | None = None
    output: str = MISSING
    paths: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    degradation: dict[str, Any] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    bootstrap: dict[str, Any] = field(default_factory=dict)
    pictures: int = MISSING
    templates: list[str] = MISSING
    bins: int = MISSING
    batch_size: int | None = None
    precision: str = MISSING
    device: str = MISSING
    max_memory: float = MISSING
    seed: int = MISSING


def validation_data(cfg: DictConfig, artifact: Artifact, whole: bool = False) -> MixedDegradationData:
    """The data of the command line, and for what it leaves out those of the artifact's training; says what was found.
    `whole` as in `ValidationPairs`."""
    node = OmegaConf.create({"data": cfg.data or artifact.data_section(cfg.paths.values())})
    node.data.degradations = cfg.degradation or artifact.section("degradation")
    node.data.seed = cfg.seed
    data = build_data(node)
    for line in data.account(training=False, whole=whole):
        say(line)
    return data


def _restorer(cfg: DictConfig, artifact: Artifact) -> Restorer:
    """The artifact's restorer with the command line's sampler, or changes of its own, and with the networks of others
    that it names, as `FILE` or by class."""
    given = {key: value for key, value in resolved(cfg.sampler).items() if (key, value) != ("steps", None)}
    own = {} if "_target_" in given else artifact.section("sampler")
    sampler = make({**own, **given}) if given else None
    restorer = Restorer(artifact.folder, sampler, cfg.device, cfg.precision, cfg.seed, cfg.max_memory)
    if cfg.network is None:
        return restorer
    named: dict[str | None, Any] = dict(cfg.network) if isinstance(cfg.network, DictConfig) else {None: cfg.network}
    for class_name, path in named.items():
        if class_name is None and sampler is not None:
            raise DaclipError(f"network={path} restores in one call; leave out the sampler and its steps")
        restorer = restorer.with_network(str(path), class_name)
    return restorer


def _offer(extremes: Extremes, scorer: Scorer, photo: PhotoScore, images: dict[str, Tensor]) -> None:
    """Offer a photo, ranked by its first metric: above its degraded version's value where there is one."""
    name = next((name for name in scorer.higher_is_better if name in photo.scores), None)
    if name is None:
        return
    merit = photo.scores[name] - photo.scores.get(f"{name}_lq", 0.0)
    named = {} if photo.recognised is None else {"recognised": photo.recognised}
    facts = {"name": photo.name, "crop": photo.crop, "degradation": photo.degradation, **named}
    extremes.offer(merit if scorer.higher_is_better[name] else -merit, {**facts, "scores": photo.scores}, images)


def score(
    restorer: Restorer, pairs: ValidationPairs, batch_size: int, scorer: Scorer, extremes: Extremes
) -> tuple[dict[str, Any], Tensor]:
    """Restore all pairs into `scorer` and `extremes`; returns entries of `metrics.json` and rows LQ | restored | HQ."""
    confusion = ConfusionMatrix(sorted({*restorer.vocabulary, *pairs.classes}))
    recall = MeansByLabel("right")
    shown: dict[str, tuple[Tensor, ...]] = {}
    seconds = 0.0
    for batch in _batches(pairs, batch_size):
        first = len(scorer.photos)
        started = time.perf_counter()
        done = restorer.restore(batch.lq, range(first, first + len(batch)))
        seconds += time.perf_counter() - started
        predicted = torch.tensor([confusion.classes.index(class_name) for class_name in done.classes])
        confusion.update(predicted, batch.degradation)
        right = [name in split_classes(label) for name, label in zip(done.classes, batch.degradation, strict=True)]
        recall.update(batch.degradation, right=torch.tensor(right))
        scorer.add(batch.name, batch.degradation, done.images, batch.hq, batch.lq, done.classes)
        for i, photo in enumerate(scorer.photos[first:]):
            images = {"lq": batch.lq[i], "restored": done.images[i], "hq": batch.hq[i]}
            shown.setdefault(photo.degradation, tuple(images.values()))
            _offer(extremes, scorer, photo, images)
    facts = {
        "degradation_accuracy": confusion.accuracy(),
        "per_degradation_accuracy": {label: row["right"] for label, row in recall.compute()["per_degradation"].items()},
        "confusion": confusion.table(),
        "nfe": restorer.sampler.nfe,
        "seconds_per_photo": seconds / len(pairs),
    }
    # Whole photos differ in size: the grid shows what fits into all of them.
    height, width = (min(images[0].shape[side] for images in shown.values()) for side in (1, 2))
    rows = [tuple(center_crop(image, [height, width]) for image in images) for images in shown.values()]
    return facts, sample_grid(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _batches(pairs: ValidationPairs, batch_size: int) -> Iterable[RestorationBatch]:
    loader = DataLoader(pairs, batch_sampler=pairs.batches(batch_size), collate_fn=collate)
    return track(loader, "evaluating", transient=True, console=Console(stderr=True))


def score_folders(pairs: Sequence[FilePair], scorer: Scorer, extremes: Extremes) -> None:
    """Score photos on disk, one after the other, since their sizes differ: deep ones at their depth, transparent ones
    as they look on white."""
    deep, transparent = 0, 0
    for pair in track(pairs, "scoring", transient=True, console=Console(stderr=True)):
        paths = {"lq": pair.lq, "restored": pair.pred, "hq": pair.gt}
        pixels = {name: read_photo(path).pixels for name, path in paths.items() if path is not None}
        images = {name: photo.on_white().crop() for name, photo in pixels.items()}
        exact = any(photo.colour.dtype != np.uint8 for photo in pixels.values())
        deep += exact
        transparent += not all(photo.opaque for photo in pixels.values())
        for name, image in images.items():
            if image.shape != images["hq"].shape:
                (height, width), (tall, wide) = image.shape[1:], images["hq"].shape[1:]
                raise DaclipError(
                    f"{paths[name]} is {width}×{height} pixels and its reference {pair.gt} {wide}×{tall}; "
                    "scale or crop one of them"
                )
        lq = images["lq"][None] if "lq" in images else None
        scorer.add([pair.name], [pair.group], images["restored"][None], images["hq"][None], lq, exact=exact)
        _offer(extremes, scorer, scorer.photos[-1], images)
    if deep:
        say(f"{deep} of {len(pairs)} pairs have more than 8 bits a channel and are compared without rounding")
    if transparent:
        say(f"{transparent} of {len(pairs)} pairs are transparent and are compared as they look on white")


def _photos_csv(photos: Sequence[PhotoScore]) -> str:
    """One line a photo, scores in full precision."""
    rows = [
        {"name": p.name, "crop": p.crop, "degradation": p.degradation, "recognised": p.recognised or "", **p.scores}
        for p in photos
    ]
    return str(pd.DataFrame(rows).to_csv(index=False, na_rep="nan", lineterminator="\n"))


def _check(cfg: DictConfig) -> None:
    """Refuse options that contradict each other, before anything is computed."""
    if (cfg.pred is None) is not (cfg.gt is None) or (cfg.lq is not None and cfg.pred is None):
        raise DaclipError("give both pred=FOLDER (restored photos) and gt=FOLDER (references); lq=FOLDER may follow")
    if cfg.pred is not None and cfg.artifact is not None:
        raise DaclipError("give either artifact=FOLDER or pred=FOLDER gt=FOLDER, not both")
    if cfg.network is not None and cfg.pred is not None:
        raise DaclipError("give either network=FILE or pred=FOLDER gt=FOLDER, not both")
    if not cfg.metric:
        raise DaclipError("no metric is chosen; give at least one, as in metric=[psnr]")
    if cfg.pictures < 0 or cfg.bootstrap.draws < 1 or not 0 < cfg.bootstrap.confidence < 1:
        raise DaclipError("pictures must be at least 0, bootstrap.draws at least 1, bootstrap.confidence in (0, 1)")


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score as configured, print tables, and write `metrics.json` with pictures beside it to `cfg.output`."""
    started = time.monotonic()
    _check(cfg)
    artifact = None
    if cfg.pred is None:
        artifact = Artifact(find_artifact(cfg.artifact, cfg.paths.restorer, "make train-restorer"))
    if artifact and cfg.network is not None:
        artifact.require("restorer")
    stage_1 = artifact if artifact and artifact.config["kind"] == "daclip" else None
    metrics, seen = _score_stage_1(cfg, stage_1) if stage_1 else _score_photos(cfg, artifact)
    metrics["record"] = provenance(
        cfg.seed,
        ["python", "-m", "daclip.commands.evaluate", *sys.argv[1:]],
        {"total": time.monotonic() - started},
        config=resolved(cfg),
        data=seen,
    )
    write_json(Path(cfg.output) / "metrics.json", metrics)
    (_print_stage_1 if stage_1 else _print)(metrics)
    say(f"written: {cfg.output}/metrics.json, and pictures beside it")
    return metrics


def _score_photos(cfg: DictConfig, artifact: Artifact | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Scores of a restorer, or of folders where there is none, and what was seen; writes photos and `photos.csv`."""
    scorer, extremes = Scorer(make(cfg.protocol), make(cfg.metric)), Extremes(cfg.pictures)
    seen = grid = None
    if artifact is None:
        pairs, account = match_folders(cfg.pred, cfg.gt, cfg.lq)
        say(account)
        score_folders(pairs, scorer, extremes)
        facts: dict[str, Any] = {"pred": cfg.pred, "gt": cfg.gt}
    else:
        restorer = _restorer(cfg, artifact)
        data = validation_data(cfg, artifact, whole=True)
        facts, grid = score(restorer, data.validation_pairs(whole=True), cfg.batch_size or 10, scorer, extremes)
        others = [f"{name}: {other.name}" for name, other in restorer.others.items()]
        method = ", ".join([restorer.network or type(restorer.sampler).__name__, *others])
        facts |= {"artifact": str(artifact.folder), "sampler": method}
        seen = {"validation": fingerprint(data)["validation"]}
    sets = scorer.sets(with_lq=cfg.pred is None or cfg.lq is not None)
    if not scorer.photos[0].scores and not sets:
        raise DaclipError("no metric can be computed: " + "; ".join(f"{k}: {v}" for k, v in scorer.missing.items()))
    means = summarise(scorer.photos, cfg.bootstrap.draws, cfg.bootstrap.confidence, generator_for(cfg.seed))
    output = Path(cfg.output)
    for rank in ("worst", "best"):  # of an earlier evaluation
        for old in (output / "pictures").glob(f"[0-9][0-9]_{rank}_*.png"):
            old.unlink()
    if grid is not None:
        save_image(grid, output / "grid.png")
    write_text(output / "photos.csv", _photos_csv(scorer.photos))
    return {
        **facts,
        "protocol": resolved(cfg.protocol) | {"text": scorer.protocol.describe()},
        "higher_is_better": scorer.higher_is_better,
        **means,
        "sets": sets,
        "missing": scorer.missing,
        "pictures": extremes.save(output / "pictures"),
    }, seen


def _score_stage_1(cfg: DictConfig, artifact: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of a stage-1 artifact, and what was seen; writes two pictures."""
    daclip = load_daclip(artifact.folder).to(device_by_name(cfg.device))
    data = validation_data(cfg, artifact, whole=True)
    pairs = data.validation_pairs(whole=True)
    classes = list(dict.fromkeys([*artifact.classes, *pairs.classes]))
    batches = _batches(pairs, cfg.batch_size or 20)
    scores = score_daclip(daclip, batches, classes, list(cfg.templates), cfg.bins, cfg.precision)
    metrics = {"artifact": str(artifact.folder), **scores}
    output = Path(cfg.output)
    write_bytes(output / "confusion.png", png(confusion_figure(metrics["confusion"], classes)))
    reliability = reliability_figure(metrics["calibration"], metrics["calibration_error"], cfg.bins)
    write_bytes(output / "reliability.png", png(reliability))
    return metrics, {"validation": fingerprint(data)["validation"]}


def _print(metrics: Mapping[str, Any]) -> None:
    console = Console()
    for table in score_tables(metrics, console.width):
        console.print(text_table(table.title, table.heading, table.rows, table.last))
    gain = metrics["intervals"]["mean"].get("psnr_gain")
    if gain:
        console.print(
            f"mean gain {metrics['mean']['psnr'] - metrics['mean']['psnr_lq']:+.2f} dB, "
            f"{metrics['intervals']['confidence']:.0%} interval {gain[0]:+.2f} to {gain[1]:+.2f} "
            f"over {metrics['intervals']['photos']} photos"
        )
    for name, reason in metrics["missing"].items():
        say(f"{name} is missing: {reason}")
    if "nfe" in metrics:
        say(f"{metrics['nfe']} network evaluations, {metrics['seconds_per_photo']:.2f} s a photo")


def _print_stage_1(metrics: Mapping[str, Any]) -> None:
    cosines = ("content_cosine", "content_cosine_plain")
    rows = [
        [class_name, f"{accuracy:.3f}", *(f"{metrics[f'per_degradation_{name}'][class_name]:.4f}" for name in cosines)]
        for class_name, accuracy in metrics["per_degradation_accuracy"].items()
    ]
    rows.append(["mean", f"{metrics['degradation_accuracy']:.3f}", *(f"{metrics[name]:.4f}" for name in cosines)])
    title = "validation photos: class named, cosine to the clean photo's embedding"
    console = Console()
    console.print(text_table(title, ["degradation", "accuracy", "steered", "plain CLIP"], rows, last=1))
    say(f"calibration error {metrics['calibration_error']:.3f}, {metrics['count']} photos")
    found = metrics["retrieval"]
    if found is None:
        say("no caption retrieval: the photos have fewer than two different captions")
        return
    title = f"own caption among {found['captions']} found by the photo's embedding"
    rows = [[way, *(f"{share:.3f}" for share in found[way].values())] for way in ("clean", "degraded", "steered")]
    console.print(text_table(title, ["embedding", *(f"R@{place}" for place in found["clean"])], rows))


def _task(cfg: DictConfig) -> dict[str, Any]:
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:  # a folder a job
        cfg.output = hydra.runtime.output_dir
    return evaluate(validated(cfg, EvaluateConfig))


def main() -> None:
    """Entry point."""
    run_entry(_task, "evaluate")


if __name__ == "__main__":
    main()
