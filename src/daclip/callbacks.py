"""What a run shows while it trains."""

import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchvision.utils import make_grid

from daclip.data.photos import save_image, to_pil
from daclip.types import RestorationBatch

__all__ = ["SampleGrid", "ValidationLog", "sample_grid", "wandb_logger"]

log = logging.getLogger(__name__)


class ValidationLog(Callback):
    """One line of held-out scores after each pass, on the console and in the run's log file."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the overall scores; those per word are in the loggers."""
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and name.count("/") == 1
        }
        text = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        log.info("step %d  %s", trainer.global_step, text)


def sample_grid(lq: Tensor, restored: Tensor, hq: Tensor) -> Tensor:
    """LQ | restored | HQ, one sample a row: three `[B, 3, H, W]` to one `[3, H', W']`."""
    rows = torch.stack([lq, restored, hq], dim=1).flatten(0, 1)
    return make_grid(rows.float().clamp(0, 1).cpu(), nrow=3, padding=4, pad_value=1.0)


class SampleGrid(Callback):
    """A picture LQ | restored | HQ of the first held-out batch, to disk and to the wandb logger.

    Args:
        folder: Gets `step_NNNNNN.png` after each held-out pass.
        rows: Samples shown.
    """

    def __init__(self, folder: str, rows: int):
        self.folder = Path(folder)
        self.rows = rows

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RestorationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the grid of the first batch."""
        if batch_idx or not trainer.is_global_zero:
            return
        rows = slice(self.rows)
        grid = sample_grid(batch.lq[rows], outputs[rows], batch.hq[rows])
        save_image(grid, self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [to_pil(grid)], step=trainer.global_step)


def wandb_logger(project: str, save_dir: str, **options: Any) -> WandbLogger:
    """A wandb logger that works without account and network.

    Offline unless `WANDB_MODE` says otherwise or the user is logged in; `wandb sync` uploads later.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    return WandbLogger(project=project, save_dir=save_dir, mode=mode, **options)
