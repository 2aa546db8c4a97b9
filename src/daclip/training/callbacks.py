"""Callbacks: sample pictures, throughput and memory, steps that are not finite, the moving average of the weights,
progress; and the notes of other libraries that are kept off the screen.
"""

import logging
import math
import resource
import sys
import time
import warnings
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar, WeightAveraging
from torch import Tensor
from torchvision.utils import make_grid

from daclip.arithmetic import gather_objects
from daclip.errors import DaclipError
from daclip.images import save_image, to_pil
from daclip.training.loggers import log_picture
from daclip.training.optimizers import StageModule
from daclip.types import RestorationBatch

log = logging.getLogger(__name__)

SHOWN = 8  # photos that a line of the log names


def sample_grid(lq: Tensor, restored: Tensor, hq: Tensor) -> Tensor:
    """LQ | restored | HQ, one sample a row: three `[B, 3, H, W]` to one `[3, H', W']`."""
    rows = torch.stack([lq, restored, hq], dim=1).flatten(0, 1)
    return make_grid(rows.float().clamp(0, 1).cpu(), nrow=3, padding=4, pad_value=1.0)


class SampleGrid(Callback):
    """Shows LQ | restored | HQ of the first `rows` validation samples, as `folder/step_NNNNNN.png` and in loggers."""

    def __init__(self, folder: str, rows: int):
        self.folder = Path(folder)
        self.rows = rows

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, *position: int
    ) -> None:
        """Draw the grid of the first batch."""
        if any(position) or not trainer.is_global_zero:
            return
        rows = slice(self.rows)
        grid = sample_grid(batch.lq[rows], outputs[rows], batch.hq[rows])
        save_image(grid, self.folder / f"step_{trainer.global_step:06d}.png")
        caption = "LQ | restored | HQ, from the top: " + ", ".join(batch.degradation[rows])
        log_picture(trainer, "samples/grid", to_pil(grid), caption)


def peak_memory() -> float:
    """Largest memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # `ru_maxrss` counts what the parent held when it forked this process, too.
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, except on macOS.
    return peak / (2**20 if sys.platform == "darwin" else 1024)


class SystemMonitor(Callback):
    """Logs `system/images_per_second` (all devices), `system/step_seconds` (loading included) and `system/memory_gib`.
    The first two are means over `steps` steps; memory is the peak so far, on a GPU the GPU's, else the process's."""

    def __init__(self, steps: int):
        self._seconds: deque[float] = deque(maxlen=steps)
        self._last: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._seconds.clear()
        self._last = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock: a validation pass is no training step."""
        self._last = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, batch_idx: int
    ) -> None:
        """Log after each step."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds.append(now - self._last)
        self._last = now
        if not self._seconds:
            return
        mean, size, device = sum(self._seconds) / len(self._seconds), len(batch), pl_module.device
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak_memory() / 1024
        pl_module.log("system/images_per_second", size * trainer.world_size / mean, batch_size=size)
        pl_module.log("system/step_seconds", mean, batch_size=size)
        pl_module.log("system/memory_gib", memory, batch_size=size)


class NonFiniteSteps(Callback):
    """Counts the optimiser steps that `StageModule` skipped and names the batches behind them. All ranks skip alike: a
    loss that is not finite makes every averaged gradient NaN. `most_in_a_row` skipped steps in a row end the run;
    gradient scaling (float16) skips up to 17 at the beginning."""

    def __init__(self, most_in_a_row: int):
        if most_in_a_row < 1:
            raise DaclipError(f"callbacks.non_finite.most_in_a_row must be at least 1, got {most_in_a_row}")
        self.most_in_a_row = most_in_a_row
        self.skipped = 0
        self.in_a_row = 0
        self._step = 0
        self._window: list[tuple[Tensor, list[str], list[str]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step that counting begins at."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, batch_idx: int
    ) -> None:
        """Look at the step that this batch completes; too many skipped steps in a row are a `DaclipError`."""
        assert isinstance(pl_module, StageModule)
        self._window.append((outputs["loss"].detach(), batch.name, batch.degradation))
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        window, self._window = self._window, []
        if not pl_module.step_skipped:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        culprits = self._culprits(window)
        counts = f"{self.in_a_row} in a row, {self.skipped} in all"
        log.warning("step %d skipped, its loss or gradient is not finite (%s); %s", self._step, counts, culprits)
        if self.in_a_row >= self.most_in_a_row:
            raise DaclipError(
                f"loss or gradient were not finite in {self.in_a_row} steps in a row up to step {self._step} "
                f"({culprits}); the weights are those before them: lower stage.optimizer.lr or use "
                "trainer.precision=32-true, and go on with resume=last"
            )

    @staticmethod
    def _culprits(window: list[tuple[Tensor, list[str], list[str]]]) -> str:
        """Batches of all ranks whose own loss is not finite; all batches of the step where none is."""
        own = [(loss.item(), list(zip(names, classes, strict=True))) for loss, names, classes in window]
        batches = [(rank, *batch) for rank, found in enumerate(gather_objects(own)) for batch in found]
        parts = []
        for rank, loss, samples in [batch for batch in batches if not math.isfinite(batch[1])] or batches:
            named = ", ".join(f"{name} ({class_name})" for name, class_name in samples[:SHOWN])
            more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
            parts.append(f"rank {rank}, loss {loss:.4g}: {named}{more}")
        return "; ".join(parts)

    def state_dict(self) -> dict[str, Any]:
        """Counts, saved in the checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])


def skipped_steps(trainer: Any) -> int:
    """Steps that a trainer's run has skipped since its beginning."""
    return sum(callback.skipped for callback in trainer.callbacks if isinstance(callback, NonFiniteSteps))


def warmed_up_decay(call: int, decay: float, start: int, power: float) -> float:
    """Decay of the average at a call, counted from 0: 0 (a copy) up to `start`, then 1 − (1 + call − start)^−power.

    >>> [round(warmed_up_decay(call, 0.995, 100, 2 / 3), 4) for call in (100, 110, 500, 10**6)]
    [0.0, 0.7978, 0.9816, 0.995]
    """
    if call <= start:
        return 0.0
    return min(1 - (1 + call - start) ** -power, decay)


class WarmedUpEMA(WeightAveraging):
    """Exponential moving average of the weights whose decay rises up to `decay`, as `ema_pytorch` computes it. It is
    updated every `every` steps (a copy up to step `start`) and rises with `power` by updates, not steps."""

    def __init__(self, decay: float, every: int, start: int, power: float) -> None:
        super().__init__(use_buffers=False, avg_fn=self._average)
        self.decay = decay
        self.every = every
        self.start = start
        self.power = power
        self._now = 0.0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Every so many steps, the first included."""
        if step_idx is None or step_idx % self.every:
            return False
        self._now = warmed_up_decay(step_idx, self.decay, self.start, self.power)
        return True

    def _average(self, averaged: Tensor, current: Tensor, count: Any) -> Tensor:
        return averaged.lerp(current, 1 - self._now)


def take_average(trainer: L.Trainer) -> None:
    """Give the module the averaged weights, which are those that are scored. Training does so in its last step, and
    Lightning not at all where a run is resumed behind it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            callback._copy_average_to_current(trainer.lightning_module)


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
    return RunBar(refresh_rate) if sys.stdout.isatty() else ProgressLines(seconds)


class RunClock:
    """How far a run is, and how long the rest takes at the pace so far."""

    def __init__(self, trainer: L.Trainer):
        self.first, self.started = trainer.global_step, time.monotonic()
        self.total = int(trainer.estimated_stepping_batches)

    def left(self, step: int) -> timedelta:
        """Time left behind a step after the first."""
        return timedelta(seconds=round((self.total - step) * (time.monotonic() - self.started) / (step - self.first)))


class RunBar(RichProgressBar):
    """Lightning's bar of an epoch, with step and time left of the whole run."""

    _clock: RunClock | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._clock = RunClock(trainer)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Values behind the bar."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        step = trainer.global_step
        if self._clock is not None and step > self._clock.first:
            items |= {"step": f"{step}/{self._clock.total}", "left": str(self._clock.left(step))}
        return items

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        text = f"Epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")
        return f"{text:{len(self.validation_description)}}"  # of one width, or the bars flicker


class ProgressLines(ProgressBar):
    """Plain progress lines of rank 0, also in the run's log file, every so many seconds. Step, mean loss since the line
    before, learning rate, images per second, time left; in validation the batch."""

    _enabled = True

    def __init__(self, seconds: float):
        super().__init__()
        if seconds <= 0:
            raise DaclipError(f"callbacks.progress.seconds must be above 0, got {seconds}")
        self.seconds = seconds

    def disable(self) -> None:
        """Print nothing: Lightning calls it on ranks above 0."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._clock = RunClock(trainer)
        self._step, self._last = trainer.global_step, self._clock.started
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
        # Lightning divides each loss by the number of accumulated batches.
        loss = float(torch.stack(self._losses).mean()) * trainer.accumulate_grad_batches
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        speed = trainer.callback_metrics.get("system/images_per_second")
        images = "" if speed is None else f"  {float(speed):.3g} images/s"
        total, left = self._clock.total, self._clock.left(self._step)
        log.info("step %d/%d  loss %.4g  lr %.2e%s  %s left", self._step, total, loss, rate, images, left)
        self._last, self._losses = now, []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to wait anew."""
        self._last = time.monotonic()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Print a line when one is due."""
        now = time.monotonic()
        if self._enabled and now - self._last >= self.seconds:
            log.info("validation batch %d/%s", batch_idx + 1, trainer.num_val_batches[0])
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
