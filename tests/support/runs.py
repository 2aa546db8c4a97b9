"""Small training runs of both stages inside the test's process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from small_clip import ARCHITECTURE

from daclip.clip.controller import create_daclip
from daclip.commands.assembly import build_data, build_restoration, build_trainer
from daclip.commands.options import make
from daclip.commands.train import TrainConfig
from daclip.config import run_config

SMALL = (
    "trainer.precision=32-true",
    "~logger.csv",
    "~callbacks.progress",
    "~callbacks.learning_rate",
    "data.validation_size=32",
    "data.validation_crops=1",
    "degradation=[noisy,uncompleted]",
    "data.batch_size=4",
    "data.samples_per_epoch=16",
)
STAGES = {"daclip": "train_daclip", "restorer": "train_restorer"}


def compose(stage: str, folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a run in `folder`: four steps of four samples an epoch."""
    more = ["~callbacks.samples"] if stage == "restorer" else []
    if stage == "restorer" and not any(change.startswith("backbone=") for change in overrides):
        more += ["backbone=nafnet", "backbone.width=8", "~backbone.multipliers", "backbone.middle_blocks=1"]
        more += ["backbone.encoder_blocks=[1,1]", "backbone.decoder_blocks=[1,1]"]
    name = STAGES[stage]
    recipe = f"experiment=smoke_{stage}"
    return run_config(name, TrainConfig, folder, [recipe, *more, *SMALL, *overrides])


def parts(stage: str, cfg: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
    """The untrained module and the data."""
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    if stage == "daclip":
        return make(cfg.stage)(daclip=make(cfg.clip), classes=data.classes), data
    return build_restoration(cfg, create_daclip(ARCHITECTURE, None, "resize", "reversed", 0)), data


class Losses(Callback):
    """Keeps every step's loss and every held-out score."""

    def __init__(self) -> None:
        self.loss: dict[int, float] = {}
        self.scores: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.loss[trainer.fit_loop.total_batch_idx] = outputs["loss"].item()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.scores[trainer.global_step] = found


def fit(
    stage: str, folder: Path, *overrides: str, resume: Path | None = None, callbacks: Sequence[Callback] = ()
) -> tuple[L.Trainer, L.LightningModule, Losses]:
    """Train in this process; what a signal or a fault raises comes out."""
    cfg = compose(stage, folder, *overrides)
    module, data = parts(stage, cfg)
    trainer = build_trainer(cfg)
    losses = Losses()
    trainer.callbacks[:0] = [*callbacks, losses]  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    finally:
        data.teardown("fit")
    return trainer, module, losses


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two nested states are not equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b), key=str)
        return [found for key in keys for found in differences(a.get(key), b.get(key), f"{name}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [found for i in range(len(a)) for found in differences(a[i], b[i], f"{name}/{i}")]
    return [] if type(a) is type(b) and a == b else [name]
