"""Signals that ask a run to stop: noted at once, obeyed at the next safe moment."""

import logging
import os
import pickle
import signal
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.tensor import DTensor

from daclip.errors import DaclipError, StoppedError
from daclip.files import atomic_file, remove_partial


class StopSignals:
    """Remembers the first signal that asked to stop.

    SIGTERM comes from batch systems, container managers and `kill`; SIGUSR1 from `#SBATCH --signal=USR1@120`; SIGINT
    from Ctrl+C, whose second press interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def install(self) -> None:
        """Take over the signals; outside the main thread, where Python allows it not, nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)


log = logging.getLogger(__name__)

SUFFIX = ".ckpt"
PARTS = ("state_dict", "loops", "optimizer_states", "pytorch-lightning_version")


def damage(path: str | Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is complete.

    A checkpoint is a zip archive of tensors, whose directory stands at its end and which holds a CRC-32 of every
    part: a file that was cut off has no directory, one with wrong bytes has a wrong sum. Reads the whole file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "no checkpoint of this framework"
            broken = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return "cut off or damaged"
    return None if broken is None else "its content does not match its checksum"


def newest_complete(paths: Iterable[Path]) -> Path | None:
    """The newest checkpoint that is whole; each newer one that is not is named in the log."""
    for path in sorted(paths, key=lambda found: (found.stat().st_mtime_ns, found.name), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        log.warning("%s: skipped, %s; trying the one before it", path, reason)
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training state without running any code that it may hold.

    Raises:
        DaclipError: The file is missing, damaged, no checkpoint, or holds anything but tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such checkpoint file; check the path")
    reason = damage(path)
    if reason is not None:
        raise DaclipError(f"{path}: {reason}; choose another checkpoint, or let resume=last find the newest whole one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DaclipError(
            f"{path}: refused, it holds objects that could run code and not only tensors and plain data; "
            "use a checkpoint that this framework wrote"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, OSError):
        raise DaclipError(f"{path}: not a checkpoint of this framework; give a file of a run's checkpoints/") from None
    if not isinstance(content, dict) or any(part not in content for part in PARTS):
        raise DaclipError(f"{path}: not a checkpoint of this framework; give a file of a run's checkpoints/")
    return content


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name, flushes to the disk, renames; reads tensors and plain data only.

    A checkpoint is deleted only while another complete one is in its folder.
    """

    def __init__(self) -> None:
        self._written: set[tuple[Path, int, int]] = set()

    @staticmethod
    def _stamp(path: Path) -> tuple[Path, int, int]:
        stat = path.stat()
        return path, stat.st_mtime_ns, stat.st_size

    def _is_complete(self, path: Path) -> bool:
        return self._stamp(path) in self._written or damage(path) is None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a training state; a reader sees the old file or the whole new one.

        Raises:
            DaclipError: The disk is full or the folder cannot be written; checkpoints that exist stay.
        """
        path = Path(path).absolute()
        remove_partial(path)
        with atomic_file(path, ", then go on with resume=last") as file:
            torch.save(checkpoint, cast(IO[bytes], file))
        self._written.add(self._stamp(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `read_checkpoint`; what else is asked for changes nothing, so that no caller can unlock code."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint, unless no other one in its folder is complete."""
        path = Path(path).absolute()
        others = (other for other in path.parent.glob(f"*{SUFFIX}") if other != path)
        newest_first = sorted(others, key=lambda other: other.stat().st_mtime_ns, reverse=True)
        if any(self._is_complete(other) for other in newest_first):
            path.unlink(missing_ok=True)
        elif path.exists():
            log.warning("%s: kept, it is the only complete checkpoint in its folder", path)


FOLDER = "checkpoints"


def checkpoint_to_resume(resume: str | None, output: str | Path, run_folder: str | Path) -> Path | None:
    """The training state to go on from; None begins anew.

    Args:
        resume: A checkpoint file; `last`, the newest complete state of all runs below `output`; or `auto`, that of
            this very run folder where there is one, which a job that is queued again needs.
        output: Folder of the stage's runs.
        run_folder: Folder of this run.

    Raises:
        DaclipError: There is no such file, or with `last` no complete checkpoint.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest_complete(Path(run_folder, FOLDER).glob(f"*{SUFFIX}"))
    if resume != "last":
        path = Path(resume)
        if not path.is_file():
            raise DaclipError(f"resume={path}: no such checkpoint file")
        return path
    found = list(Path(output).glob(f"*/{FOLDER}/*{SUFFIX}"))
    if not found:
        raise DaclipError(f"resume=last: no run below {output} has a checkpoint yet")
    newest = newest_complete(found)
    if newest is None:
        raise DaclipError(f"resume=last: none of the {len(found)} checkpoints below {output} is complete; train anew")
    return newest


def keep_logs(run_folder: str | Path) -> None:
    """Set the curves of a run that goes on in its own folder aside, because a new logger begins its file anew."""
    path = Path(run_folder, "logs", "metrics.csv")
    if path.is_file():
        earlier = len(list(path.parent.glob("metrics_*.csv")))
        path.rename(path.with_name(f"metrics_{earlier + 1}.csv"))


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
