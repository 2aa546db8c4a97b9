"""Training of either stage; `train_daclip` and `train_restorer` are its commands."""

import logging
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import MISSING, DictConfig
from torch import Tensor

from daclip.arithmetic import launch_forgotten, trainer_precision
from daclip.artifacts import UNSCORED, Artifact, load_daclip, save_artifact
from daclip.clip.controller import DaClip
from daclip.commands.assembly import build_data, build_restoration, build_trainer, resolved
from daclip.commands.options import make
from daclip.commands.run_folders import (
    Resumed,
    Sweep,
    claim_states,
    continue_job,
    finish_sweep,
    flat,
    hold,
    is_job,
    is_trial,
    objective,
    take_latest,
)
from daclip.config import run_entry, user_error, validated
from daclip.data.datamodule import MixedDegradationData
from daclip.data.loading import loaders_watched
from daclip.errors import DaclipError, StoppedError
from daclip.files import one_line
from daclip.training.callbacks import quiet_libraries, skipped_steps, take_average
from daclip.training.checkpointing import FOLDER, RecordedConfig, checkpoint_to_resume, keep_logs
from daclip.training.loggers import describe_run, finish_run, log_artifact
from daclip.training.provenance import hide_secrets, provenance
from daclip.trust import FLAG, own_packages, trusted_packages

log = logging.getLogger(__name__)


@dataclass
class TrainConfig:
    """Top level of `train_daclip.yaml` and `train_restorer.yaml`; a key that is not here is refused."""

    seed: int = MISSING
    output: str = MISSING
    monitor: str = MISSING
    resume: str | None = None
    daclip: str | None = None
    daclip_experiment: str | None = None
    init: str | None = None
    paths: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


def _check(cfg: DictConfig) -> None:
    """Refuse a seed that NumPy does not take, parts of both stages at once, and data without photos."""
    if not 0 <= cfg.seed < 2**32:
        raise DaclipError(f"seed must lie between 0 and {2**32 - 1}, got {cfg.seed}")
    if cfg.clip and (cfg.backbone or cfg.process or cfg.sampler):
        raise DaclipError(
            "clip= is a part of stage 1 (train-daclip), backbone=, process= and sampler= of stage 2 (train-restorer), "
            "whose CLIP comes from daclip=ARTIFACT: choose parts of one stage"
        )
    if cfg.data.get("root", "") is None:
        recipe = f"experiment=embedded_{'daclip' if cfg.clip else 'restorer'}"
        raise DaclipError(f"name your photos: data=folder data.root=PHOTOS, or take a recipe: {recipe}")


def _describe(cfg: DictConfig, data: MixedDegradationData, guide: Path | None) -> str:
    """The facts that decide what a run becomes, in one line."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    recipe = hydra.runtime.choices.get("experiment") if hydra else None
    source = hydra.runtime.choices.get("data") if hydra else type(data.photos).__name__
    facts = [f"recipe {recipe}" if recipe else "no recipe", f"data {source}"]
    if root := cfg.data.get("root"):
        facts[-1] += f" {root}"
    if cfg.clip:
        architecture = cfg.clip.architecture if isinstance(cfg.clip.architecture, str) else "of its own"
        facts.append(f"CLIP {architecture} ({guide or cfg.clip.pretrained or 'random weights'})")
    else:
        facts += [
            f"{cfg.backbone._target_.rsplit('.', 1)[-1]} of width {cfg.backbone.get('width')}",
            f"{cfg.sampler._target_.rsplit('.', 1)[-1]} with {cfg.sampler.steps} steps",
            f"stage 1 {guide or 'to be trained first'}",
        ]
    limits = {"steps": cfg.trainer.max_steps, "epochs": cfg.trainer.get("max_epochs")}
    length = " or ".join(f"{value} {name}" for name, value in limits.items() if value not in (-1, None))
    precision = trainer_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    facts += [f"crop {cfg.data.crop_size}", f"batch {cfg.data.batch_size}", length or "no limit of steps"]
    return ", ".join([*facts, precision, f"seed {cfg.seed}"])


# Options that stage 1, trained for stage 2, shares with it: the photos, what happens to them, where results go.
_SHARED = ("data", "data.root", "data.photos_root", "data.allow_unlike", "degradation", "seed", "debug")


def _stage_1_command(cfg: DictConfig) -> list[str]:
    """The command line that trains stage 1 on the data of this stage 2."""
    task = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []

    def shared(override: str) -> bool:
        key = override.split("=", 1)[0].lstrip("+~")
        return key in _SHARED or key.startswith(("data.photos.", "degradation.", "paths.", "captioner@", "recipe@"))

    recipe = [f"experiment={cfg.daclip_experiment}"] if cfg.daclip_experiment else []
    return ["-m", "daclip.commands.train_daclip", *recipe, *filter(shared, task)]


def _guide(cfg: DictConfig) -> Path | None:
    """The stage-1 artifact that a run takes; None where stage 1 starts anew, or has to be trained for stage 2."""
    if cfg.daclip is not None or cfg.clip:
        return Path(cfg.daclip) if cfg.daclip else None
    if cfg.init is not None:
        # A network that was trained knows the embeddings of its own stage 1 only.
        return Artifact(cfg.init).folder / "daclip"
    latest = Path(cfg.paths.daclip) / "latest"
    if latest.is_dir():
        return latest.resolve()
    if cfg.daclip_experiment is None:
        command = shlex.join(["python", *_stage_1_command(cfg)])
        raise DaclipError(
            f"there is no stage-1 artifact at {latest} yet; train one first with `{command}`, or give daclip=ARTIFACT"
        )
    return None


def _trained_guide(cfg: DictConfig) -> Path:
    """Train stage 1 by its partner recipe on the same data, in a process of its own."""
    command = _stage_1_command(cfg)
    log.info("training stage 1 first: python %s", shlex.join(command))
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise DaclipError(f"stage 1 failed, see above; train it by itself with `python {shlex.join(command)}`")
    return (Path(cfg.paths.daclip) / "latest").resolve()


def train(cfg: DictConfig, run_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one stage in a folder; returns validation scores, and `trainer`, `module`, `data`, `artifact` by name."""
    started = time.monotonic()
    _check(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = checkpoint_to_resume(cfg.resume, cfg.output, run_folder)
    resumed = None if checkpoint is None else Resumed(checkpoint)
    keep_logs(run_folder)
    data = build_data(cfg)
    kind = "daclip" if cfg.clip else "restorer"
    own = None if resumed is None or cfg.clip or cfg.daclip else resumed.guide()
    guide = Path(own) if own else _guide(cfg)
    rank_zero_only(log.info)(_describe(cfg, data, guide))
    for package in set(own_packages(resolved(cfg))).difference(trusted_packages()):
        rank_zero_only(log.warning)("%s has parts in this run: use its artifact with %s %s", package, FLAG, package)
    if resumed is not None:
        resumed.compare({**resolved(cfg), "daclip": guide and str(guide.resolve())})
    module: Any
    if kind == "daclip":
        # An artifact brings all weights: then none are downloaded.
        daclip: DaClip = make({**cfg.clip, "load_weights": guide is None}, "clip")
        if guide is not None:
            artifact = Artifact(guide)
            artifact.require("daclip")
            artifact.load_into(daclip)
        module = make(cfg.stage)(daclip=daclip, classes=data.classes)
    else:
        guide = guide or _trained_guide(cfg)
        daclip = load_daclip(guide)
        if foreign := set(data.classes).difference(Artifact(guide).classes):
            rank_zero_only(log.warning)(
                "the stage 1 of %s was not trained on %s: it never recognises what was only shown to stage 2; "
                "train it on these data too",
                guide,
                ", ".join(sorted(foreign)),
            )
        module = build_restoration(cfg, daclip)
    parts = {"daclip": guide} if guide and kind == "restorer" else {}
    # Resolved: `latest` may have moved when it is read.
    config = {**resolved(cfg), "daclip": guide and str(guide.resolve()), "classes": data.classes}
    if kind == "daclip":
        config["clip"]["architecture"] = daclip.clip.architecture  # a name on the hub becomes what it stands for
    trainer = build_trainer(cfg)
    trainer.callbacks.append(RecordedConfig(config))  # type: ignore[attr-defined]
    held = {name: run_folder / f"held_{name}" for name in parts}
    if trainer.is_global_zero:
        if cfg.resume is None and not is_job():
            claim_states(run_folder)
        for name, place in held.items():
            hold(parts[name], place)
    if resumed is not None:
        resumed.prepare(trainer, module)
    describe_run(trainer.loggers, config)
    sizes = [(weight.numel(), weight.requires_grad) for weight in module.parameters()]
    total, trained = (sum(size for size, free in sizes if free or every) / 1e6 for every in (True, False))
    rank_zero_only(log.info)("%.1f M parameters, %.1f M trained; run folder %s", total, trained, run_folder)
    with loaders_watched():
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise DaclipError(f"interrupted at step {trainer.global_step}; go on with resume=last")
    fitted = time.monotonic()
    take_average(trainer)
    scores, failure = _final_scores(trainer, module, data)
    weights = (daclip if kind == "daclip" else module.denoiser.backbone).state_dict()
    _refuse_diverged(run_folder, trainer.global_step, weights, scores)
    metrics = {"steps": trainer.global_step, **scores}
    if damaged := data.damaged.names():
        metrics["damaged_photos"] = damaged
        log.warning("%d damaged photos were left out: %s", len(damaged), ", ".join(damaged))
    if skipped := skipped_steps(trainer):
        metrics["skipped_steps"] = skipped
    if trainer.is_global_zero:
        tokenizer = getattr(daclip.clip.tokenizer, "text", None) if kind == "daclip" else None
        record = provenance(
            cfg.seed,
            ["python", "-m", f"daclip.commands.train_{kind}", *sys.argv[1:]],
            {"fit": fitted - started, "total": time.monotonic() - started},
            data=data.found,
            run_folder=run_folder,
        )
        record |= {"trial": True} if is_trial(trainer) else {}
        folder = save_artifact(run_folder / "artifact", kind, config, weights, metrics, record, held, tokenizer)
        for place in held.values():
            shutil.rmtree(place)
        moved = failure is None and not is_job() and take_latest(folder, cfg.output)
        log.info("artifact: %s%s", folder, f" (also {cfg.output}/latest)" if moved else "")
        log_artifact(trainer.loggers, kind, folder, parts, metrics)
    if failure is not None:
        raise failure
    return metrics, {"trainer": trainer, "module": module, "data": data, "artifact": run_folder / "artifact"}


def _final_scores(
    trainer: L.Trainer, module: Any, data: MixedDegradationData
) -> tuple[dict[str, Any], Exception | None]:
    """Scores of the trained network, or the reason why there are none, and the error behind it: nothing after the last
    step may cost the artifact. Where training ended with a validation pass, they are its scores."""
    if trainer.limit_val_batches == 0:
        return {UNSCORED: "trainer.limit_val_batches=0"}, None
    if module.is_scored():
        return dict(module.results()), None
    try:
        with loaders_watched():
            trainer.validate(module, data, verbose=False)
        return dict(module.results()), None
    except StoppedError:
        raise
    except Exception as error:
        return {UNSCORED: one_line(user_error(error) or error)}, error


def _refuse_diverged(run_folder: Path, step: int, weights: Mapping[str, Tensor], scores: Mapping[str, Any]) -> None:
    """Let no run end well whose weights or scores are no numbers."""
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    # The mean over no class is none either, where all validation photos are clean.
    means = "mean" if scores.get("per_degradation") == {} else "none"
    nan = [name for name, value in flat(scores) if isinstance(value, float) and math.isnan(value)]
    broken += [name for name in nan if not name.startswith(means)]
    if broken:
        raise DaclipError(
            f"the run has diverged: {broken[0]} is not a number at step {step}; no artifact is written: go on from an "
            f"earlier state of {run_folder / FOLDER} with resume=FILE and a lower stage.optimizer.lr, or make an "
            "artifact of one with `daclip convert FILE`"
        )


def _task(cfg: DictConfig) -> float | None:
    torch.set_float32_matmul_precision("high")
    hydra = HydraConfig.get()
    run_folder = Path(hydra.runtime.output_dir)
    hide_secrets(run_folder)
    quiet_libraries()
    cfg = validated(cfg, TrainConfig)
    metrics = None
    if is_job():
        cfg, metrics = continue_job(cfg, run_folder)
    if metrics is None:
        try:
            metrics, _ = train(cfg, run_folder)
        finally:
            finish_run()
    return objective(metrics)


def run(stage: str) -> None:
    """Entry point of a stage, `daclip` or `restorer`."""
    Sweep.folder = None
    whole = False
    try:
        with launch_forgotten():
            run_entry(_task, f"train_{stage}")
        whole = True
    finally:
        finish_sweep(whole)
