"""What a run shows while it trains."""

import logging
import time
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchvision.utils import make_grid

from daclip.data.photos import save_image, to_pil
from daclip.timing import peak_memory
from daclip.types import RestorationBatch

__all__ = ["SampleGrid", "SystemMonitor", "ValidationLog", "sample_grid"]

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
                logger.log_image("samples/grid", [to_pil(grid)], step=trainer.global_step)


class SystemMonitor(Callback):
    """Throughput and memory of training, logged as `system/…` like any other scalar.

    `system/images_per_second` counts all devices, `system/step_seconds` is the time from one step's end to the
    next, loading included; both are means over the last steps. `system/memory_gib` is the peak so far: of the
    device's memory on a GPU, else of the process's.

    Args:
        steps: Steps that are averaged.
    """

    def __init__(self, steps: int):
        self._seconds: deque[float] = deque(maxlen=steps)
        self._last: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._seconds.clear()
        self._last = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it: a held-out pass is no training step."""
        self._last = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, batch_idx: int
    ) -> None:
        """Log after each step."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds.append(now - self._last)
        self._last = now
        if self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            size = len(batch)
            pl_module.log("system/images_per_second", size * trainer.world_size / mean, batch_size=size)
            pl_module.log("system/step_seconds", mean, batch_size=size)
            pl_module.log("system/memory_gib", _peak_gib(pl_module.device), batch_size=size)


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory() / 1024
