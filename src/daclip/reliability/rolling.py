"""The states to go on from: written as training proceeds and when a signal asks to stop."""

import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.tensor import DTensor

from daclip.errors import DaclipError, StoppedError
from daclip.reliability.checkpoint_io import SUFFIX
from daclip.reliability.signals import StopSignals

__all__ = ["RollingCheckpoint"]

log = logging.getLogger(__name__)


class RollingCheckpoint(Checkpoint):
    """Saves every so many steps, around each held-out pass and on a signal; keeps the newest few.

    States are taken between optimiser steps only, so that one that is resumed goes on as if nothing had happened. A
    signal is obeyed behind the current step (or held-out batch): the state is saved, all ranks stop together, and
    the process ends with `StoppedError`. Being asked by SIGUSR1 in a SLURM job means that its time is nearly over:
    the job is put back into the queue.

    Args:
        folder: Gets `step_NNNNNNNN.ckpt`.
        every_n_steps: Optimiser steps between two saves.
        keep: Saved states that stay; at least 1. Older ones go after a newer one is complete.
    """

    def __init__(self, folder: str, every_n_steps: int, keep: int):
        if every_n_steps < 1 or keep < 1:
            raise DaclipError(
                f"callbacks.checkpoint: every_n_steps={every_n_steps} and keep={keep} must both be at least 1"
            )
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.signals = StopSignals()
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let all ranks agree on one folder: with torchrun and SLURM each composes its own configuration."""
        first = trainer.strategy.broadcast(str(self.folder))
        if first != str(self.folder) and trainer.num_nodes * trainer.num_devices > 1:
            log.warning("rank %d writes to the folder of rank 0: %s", trainer.global_rank, first)
        self.folder = Path(first)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to signals instead of Lightning, which exchanges messages between ranks inside its handler."""
        self._step = trainer.global_step
        self.signals.install()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a save is due, and stop where a signal asked for it."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated: this is no state to go on from
        self._step = trainer.global_step
        stop = self._stop_is_asked(trainer)
        # A state from behind the last batch is on disk before the held-out pass, which may take long.
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stop or last_of_epoch or self._step % self.every_n_steps == 0:
            self.save(trainer, pl_module)
        if stop:
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop in a held-out pass too: what came before it is saved."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._stop_is_asked(trainer):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state with the held-out pass behind it."""
        self.save(trainer, pl_module)
        if self._stop_is_asked(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back, to Lightning, which then gives them back itself."""
        self.signals.restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.signals.restore()

    def path(self, step: int) -> Path:
        """Where the state behind `step` optimiser steps lies."""
        return self.folder / f"step_{step:08d}{SUFFIX}"

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Path:
        """Write the state, then delete those that are too old.

        Raises:
            DaclipError: A weight is not finite, so that this would be no state to go on from; or it cannot be written.
        """
        weights = [weight.detach() for weight in pl_module.parameters() if weight.requires_grad]
        own = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
        finite = all(bool(torch.isfinite(weight).all()) for weight in own)
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise DaclipError(
                f"the weights are no longer finite at step {trainer.global_step}, nothing is saved; "
                "go on from before with resume=last and a lower stage.optimizer.lr"
            )
        path = self.path(trainer.global_step)
        trainer.save_checkpoint(path)
        for old in sorted(self.folder.glob(f"step_*{SUFFIX}"))[: -self.keep]:
            if old < path:
                trainer.strategy.remove_checkpoint(old)
        return path

    def _stop_is_asked(self, trainer: L.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False))

    def _stop(self, trainer: L.Trainer) -> None:
        received = self.signals.received
        self._requeue(trainer, received)
        name = received.name if received else "another rank"
        raise StoppedError(
            f"stopped by {name} at step {trainer.global_step}; the state is saved, go on with "
            f"resume={self.path(trainer.global_step)}",
            75 if trainer.is_global_zero else 0,
        )

    @staticmethod
    def _requeue(trainer: L.Trainer, received: signal.Signals | None) -> None:
        """Put a SLURM job back into the queue; after SIGTERM, SLURM does so by itself or was told to cancel."""
        job = os.environ.get("SLURM_JOB_ID")
        if received != signal.SIGUSR1 or not job or not trainer.is_global_zero:
            return
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else job
        try:
            done = subprocess.run(["scontrol", "requeue", job], check=False)
            if done.returncode:
                log.warning("scontrol requeue %s failed with status %d: submit it again", job, done.returncode)
        except OSError as error:
            log.warning("scontrol requeue %s cannot be run (%s): submit it again", job, error)
