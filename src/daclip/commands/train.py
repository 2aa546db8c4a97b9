"""Train a stage: `python -m daclip.commands.train [overrides]`, stage 2 with `--config-name train_restorer`."""

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from daclip.artifacts import Artifact, find_artifact, load_daclip, point_latest, save_artifact
from daclip.clip.controller import DaClip
from daclip.commands.assembly import (
    build_controller_pretraining,
    build_data,
    build_restoration,
    build_trainer,
    continue_job,
    make,
    objective,
    resolved,
)
from daclip.commands.schemas import TrainConfig
from daclip.config import run_entry, validated
from daclip.data.datamodule import fingerprint
from daclip.errors import DaclipError
from daclip.training.callbacks import skipped_steps
from daclip.training.checkpointing import checkpoint_to_resume, keep_logs
from daclip.training.progress import quiet_libraries
from daclip.training.provenance import hide_secrets, provenance
from daclip.training.wandb import describe_run, finish_run, log_artifact

log = logging.getLogger("daclip.commands.train")  # not __name__: the module runs as __main__

STAGE_1_OUTPUT = Path("outputs/daclip")


def _stage_1(cfg: DictConfig) -> tuple[DaClip, Path]:
    """The guide of stage 2 and where it comes from; trains one where there is none yet."""
    if cfg.daclip is None and cfg.init is not None:
        # A network that was trained knows the embeddings of its own stage 1 only.
        folder = Artifact(cfg.init).folder / "daclip"
        return load_daclip(folder), folder
    if cfg.daclip is None and not (STAGE_1_OUTPUT / "latest").is_dir():
        log.info("no stage-1 artifact below %s yet: training one first", STAGE_1_OUTPUT)
        if subprocess.run([sys.executable, "-m", "daclip.commands.train"], check=False).returncode:
            raise DaclipError("stage 1 failed, see above; train it by itself with `make train-daclip`")
    folder = find_artifact(cfg.daclip, STAGE_1_OUTPUT, "make train-daclip")
    return load_daclip(folder), folder


def train(cfg: DictConfig, run_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one stage and write its artifact.

    Args:
        cfg: Validated configuration of `train_daclip` or `train_restorer`.
        run_folder: Gets logs, checkpoints, pictures and the artifact.

    Returns:
        Scores on held-out photos, and the objects: `trainer`, `module`, `data`, `artifact`.
    """
    started = time.monotonic()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = checkpoint_to_resume(cfg.resume, cfg.output, run_folder)
    keep_logs(run_folder)
    data = build_data(cfg)
    parts: dict[str, Path] = {}
    is_stage_1 = bool(cfg.clip)
    module: Any
    if is_stage_1:
        # An artifact brings all weights: then none are downloaded.
        daclip: DaClip = make({**cfg.clip, "load_weights": cfg.daclip is None})
        if cfg.daclip is not None:
            artifact = Artifact(cfg.daclip)
            artifact.require("daclip")
            artifact.load_into(daclip)
        module = build_controller_pretraining(cfg, daclip, data.classes)
    else:
        daclip, parts["daclip"] = _stage_1(cfg)
        module = build_restoration(cfg, daclip)
    trainer = build_trainer(cfg)
    describe_run(trainer.loggers, resolved(cfg))
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise DaclipError(f"interrupted at step {trainer.global_step}; go on with resume=last")
    fitted = time.monotonic()
    trainer.validate(module, data, verbose=False)
    metrics = {"steps": trainer.global_step, **module.results()}
    if damaged := data.damaged.names():
        metrics["damaged_photos"] = damaged
        log.warning("%d damaged photos were left out: %s", len(damaged), ", ".join(damaged))
    if skipped := skipped_steps(trainer):
        metrics["skipped_steps"] = skipped
    if trainer.is_global_zero:
        weights = (daclip if is_stage_1 else module.denoiser.backbone).state_dict()
        record = provenance(
            cfg.seed,
            ["python", "-m", "daclip.commands.train", *sys.argv[1:]],
            {"fit": fitted - started, "total": time.monotonic() - started},
            data=fingerprint(data),
            run_folder=run_folder,
        )
        kind = "daclip" if is_stage_1 else "restorer"
        folder = save_artifact(run_folder / "artifact", kind, resolved(cfg), weights, metrics, record, parts)
        point_latest(folder, cfg.output)
        log_artifact(trainer.loggers, kind, folder, parts, metrics)
        log.info("artifact: %s (also %s/latest)", folder, cfg.output)
    return metrics, {"trainer": trainer, "module": module, "data": data, "artifact": run_folder / "artifact"}


def _task(cfg: DictConfig) -> float:
    torch.set_float32_matmul_precision("high")
    hydra = HydraConfig.get()
    run_folder = Path(hydra.runtime.output_dir)
    hide_secrets(run_folder)
    quiet_libraries()
    cfg = validated(cfg, TrainConfig)
    metrics = None
    if hydra.mode == RunMode.MULTIRUN:
        cfg, metrics = continue_job(cfg, run_folder)
    if metrics is None:
        try:
            metrics, _ = train(cfg, run_folder)
        finally:
            finish_run()
    return objective(metrics)


def main() -> None:
    """Entry point."""
    run_entry(_task, "train_daclip")


if __name__ == "__main__":
    main()
