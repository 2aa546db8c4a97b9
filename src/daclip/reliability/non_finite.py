"""Steps whose loss or gradient is not finite: counted, named, and the end of a run that has too many in a row."""

import logging
import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed

from daclip.errors import DaclipError
from daclip.optimization import StageModule
from daclip.types import RestorationBatch

__all__ = ["NonFiniteSteps", "skipped_steps"]

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
        own = [(loss.item(), list(zip(names, words, strict=True))) for loss, names, words in window]
        ranks: list[Any] = [own]
        if distributed.is_available() and distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, own)
        everything = [(rank, loss, samples) for rank, found in enumerate(ranks) for loss, samples in found]
        bad = [entry for entry in everything if not math.isfinite(entry[1])]
        parts = []
        for rank, loss, samples in bad or everything:
            named = ", ".join(f"{name} ({word})" for name, word in samples[:SHOWN])
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
