"""What a run shows while it trains."""

import logging
import math
import random
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, distributed
from torchvision.utils import make_grid

from daclip.errors import DaclipError
from daclip.images import save_image, to_pil
from daclip.training.optimizers import StageModule
from daclip.types import RestorationBatch

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


log = logging.getLogger(__name__)

SHOWN = 8  # photos that a line of the log names


class NonFiniteSteps(Callback):
    """Counts the optimiser steps that `StageModule` skipped and names the batches behind them.

    All ranks skip the same steps, because a loss that is not finite makes every gradient of its backward pass NaN,
    and gradients are averaged over ranks.

    Args:
        most_in_a_row: The run ends with so many skipped steps in a row. Gradient scaling (float16) skips up to 17 at
            the beginning, until it has found its scale.

    Attributes:
        skipped: Skipped steps since the beginning of training.
        in_a_row: Skipped steps since the last one that was taken.
    """

    def __init__(self, most_in_a_row: int):
        if most_in_a_row < 1:
            raise DaclipError(f"callbacks.non_finite.most_in_a_row must be at least 1, got {most_in_a_row}")
        self.most_in_a_row = most_in_a_row
        self.skipped = 0
        self.in_a_row = 0
        self._step = 0
        self._window: list[tuple[Tensor, list[str], list[str]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where counting begins."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RestorationBatch,
        batch_idx: int,
    ) -> None:
        """Look at the step that this batch completes.

        Raises:
            DaclipError: Too many skipped steps in a row.
        """
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
        log.warning(
            "step %d skipped, its loss or gradient is not finite (%d in a row, %d in all); %s",
            self._step,
            self.in_a_row,
            self.skipped,
            culprits,
        )
        if self.in_a_row >= self.most_in_a_row:
            raise DaclipError(
                f"loss or gradient were not finite in {self.in_a_row} steps in a row up to step {self._step} "
                f"({culprits}); the weights are those before them: lower stage.optimizer.lr or use "
                "trainer.precision=32-true, and go on with resume=last"
            )

    def _culprits(self, window: list[tuple[Tensor, list[str], list[str]]]) -> str:
        """The batches whose own loss is not finite, else all of this step, over all ranks."""
        own = [(loss.item(), list(zip(names, classes, strict=True))) for loss, names, classes in window]
        ranks: list[Any] = [own]
        if distributed.is_available() and distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, own)
        everything = [(rank, loss, samples) for rank, found in enumerate(ranks) for loss, samples in found]
        bad = [entry for entry in everything if not math.isfinite(entry[1])]
        parts = []
        for rank, loss, samples in bad or everything:
            named = ", ".join(f"{name} ({class_name})" for name, class_name in samples[:SHOWN])
            more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
            parts.append(f"rank {rank}, loss {loss:.4g}: {named}{more}")
        return "; ".join(parts)

    def state_dict(self) -> dict[str, Any]:
        """The counts, part of the checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])


def skipped_steps(trainer: Any) -> int:
    """Steps that a trainer's run has skipped since its beginning."""
    return sum(callback.skipped for callback in trainer.callbacks if isinstance(callback, NonFiniteSteps))


State = dict[str, Any]


def generator_states() -> State:
    """States of Python's, NumPy's and torch's global generators (CPU and every GPU) as tensors and plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def set_generator_states(states: State) -> None:
    """Undo everything that was drawn since `generator_states`."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    cuda: list[Tensor] = states["cuda"]
    if len(cuda) == torch.cuda.device_count() and cuda:
        torch.cuda.set_rng_state_all(cuda)


class GlobalGenerators(Callback):
    """Saves the global generators of every rank and puts them back when training goes on.

    This framework draws from generators of its own, which depend on seed and step alone; this is for parts that do
    not, such as dropout.
    """

    def __init__(self) -> None:
        self._resumed: State | None = None

    def state_dict(self) -> dict[str, Any]:
        """States by rank. All ranks must call it together, as Lightning does when it saves."""
        ranks: list[Any] = [generator_states()]
        if distributed.is_available() and distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, generator_states())
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember this rank's states until training begins."""
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        ranks = state_dict["ranks"]
        self._resumed = ranks[rank] if rank < len(ranks) else None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the states back behind everything that starting up has drawn."""
        if self._resumed is not None:
            set_generator_states(self._resumed)
            self._resumed = None


def warmed_up_decay(call: int, decay: float, start: int, power: float) -> float:
    """Decay of the average at a call, counted from 0: 0 (a copy) up to `start`, then 1 − (1 + call − start)^−power.

    >>> [round(warmed_up_decay(call, 0.995, 100, 2 / 3), 4) for call in (100, 110, 500, 10**6)]
    [0.0, 0.7978, 0.9816, 0.995]
    """
    if call <= start:
        return 0.0
    return min(1 - (1 + call - start) ** -power, decay)


class WarmedUpEMA(WeightAveraging):
    """Exponential moving average of the weights whose decay rises, as `ema_pytorch` computes it.

    Args:
        decay: Largest decay.
        every: Training steps from one update to the next; the decay counts updates, not steps.
        start: Up to this step an update is a copy.
        power: Speed at which the decay rises.
    """

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


def peak_memory() -> float:
    """The most memory that this process has ever held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # `ru_maxrss` counts what the process held that this one was forked from, too.
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, except on macOS.
    return peak / (2**20 if sys.platform == "darwin" else 1024)
