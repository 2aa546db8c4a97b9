"""What a run prints: progress, validation scores, and the notes of other libraries that are kept out."""

import logging
import sys
import time
import warnings
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar
from torch import Tensor

from daclip.errors import DaclipError
from daclip.types import RestorationBatch

log = logging.getLogger(__name__)

# Beginnings of log messages of Lightning that tell a user nothing about the run.
NOTES = (
    "GPU available:",
    "TPU available:",
    "💡 Tip:",
    "`Trainer(limit_",
    "`Trainer.fit` stopped:",
    "`weights_only` was not set",
)
# Patterns of warnings about what is meant to be so, or what nobody here can change.
WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own call
    r"Found \d+ module\(s\) in eval mode",  # the frozen CLIP
    r"The '\w+' does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"The `srun` command is available",
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
    r"The dirpath has changed from",  # one that is resumed in a new folder has a best state of its own
    r"`ModelCheckpoint\(monitor=.*\)` could not find the monitored key",  # no validation pass since resuming
)


def _without_notes(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOTES)


def quiet_libraries() -> None:
    """Keep the messages of `NOTES` and `WARNINGS` off the screen; everything else is shown as before."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_without_notes)
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)


def progress_bar(seconds: float, refresh_rate: int) -> ProgressBar:
    """A bar on a terminal, else a plain line every so many `seconds`; `refresh_rate` is the bar's, in batches."""
    return RichProgressBar(refresh_rate) if sys.stdout.isatty() else ProgressLines(seconds)


class ProgressLines(ProgressBar):
    """Plain progress lines of rank 0, also in the run's log file, every so many seconds. Step, mean loss since the line
    before, learning rate, images per second, time left; in validation the batch."""

    def __init__(self, seconds: float):
        super().__init__()
        if seconds <= 0:
            raise DaclipError(f"callbacks.progress.seconds must be above 0, got {seconds}")
        self.seconds = seconds
        self._enabled = True

    def enable(self) -> None:
        """Print lines."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing, as on ranks above 0."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._first_step = self._step = trainer.global_step
        self._started = self._last = time.monotonic()
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, batch_idx: int
    ) -> None:
        """Print a line when one is due."""
        if not self._enabled:
            return
        # They stay on the device: reading each would make a GPU wait in every step.
        self._losses.append(outputs["loss"].detach())
        now = time.monotonic()
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped or now - self._last < self.seconds:
            return
        total = int(trainer.estimated_stepping_batches)
        left = (total - self._step) * (now - self._started) / (self._step - self._first_step)
        # Lightning divides each loss by the number of accumulated batches.
        loss = float(torch.stack(self._losses).mean()) * trainer.accumulate_grad_batches
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        speed = trainer.callback_metrics.get("system/images_per_second")
        images = "" if speed is None else f"  {float(speed):.3g} images/s"
        time_left = timedelta(seconds=round(left))
        log.info("step %d/%d  loss %.4g  lr %.2e%s  %s left", self._step, total, loss, rate, images, time_left)
        self._last, self._losses = now, []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to wait anew."""
        self._last = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line when one is due."""
        now = time.monotonic()
        if self._enabled and now - self._last >= self.seconds:
            log.info("validation batch %d/%s", batch_idx + 1, trainer.num_val_batches[dataloader_idx])
            self._last = now


class ValidationLog(Callback):
    """One line of overall scores after each validation pass; those by class are in the loggers."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores on rank 0."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and name.count("/") == 1
        }
        title = "validation" if trainer.state.fn == "fit" else "final validation"
        text = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        log.info("%s at step %d  %s", title, trainer.global_step, text)
