"""Checkpoints: what is saved and when, how files are checked and read, what a resumed run goes on from."""

import logging
import os
import pickle
import signal
import subprocess
import threading
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

import lightning as L
import numpy as np
import torch
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch.callbacks import Callback, Checkpoint

from daclip.arithmetic import gather_objects, rank
from daclip.errors import DaclipError, StoppedError
from daclip.files import atomic_file, remove_partial

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
SUFFIX = ".ckpt"
PARTS = ("state_dict", "loops", "optimizer_states", "pytorch-lightning_version")


# Files: whole or not, read without running code.


def damage(path: str | Path) -> str | None:
    """Reason why a checkpoint cannot be used; None if it is complete. Reads the whole file. A zip archive has its
    directory at its end and a CRC-32 of every part, so neither a cut nor a wrong byte goes unseen."""
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
    """The newest complete checkpoint; newer ones that are damaged are named in the log."""
    for path in sorted(paths, key=lambda found: (found.stat().st_mtime_ns, found.name), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        log.warning("%s: skipped, %s; trying the one before it", path, reason)
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training state without running any code that the file may hold; any other file is a `DaclipError`."""
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
        content = None
    if not isinstance(content, dict) or any(part not in content for part in PARTS):
        raise DaclipError(f"{path}: not a checkpoint of this framework; give a file of a run's checkpoints/")
    return content


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's access to checkpoint files: writes atomically, reads no code, never deletes the last complete one."""

    def __init__(self) -> None:
        self._written: set[tuple[Path, int, int]] = set()

    @staticmethod
    def _stamp(path: Path) -> tuple[Path, int, int]:
        stat = path.stat()
        return path, stat.st_mtime_ns, stat.st_size

    def _is_complete(self, path: Path) -> bool:
        return self._stamp(path) in self._written or damage(path) is None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a training state; a reader sees the old file or the whole new one. A full disk is a `DaclipError`."""
        path = Path(path).absolute()
        with atomic_file(path, ", then go on with resume=last") as file:
            torch.save(checkpoint, cast(IO[bytes], file))
        self._written.add(self._stamp(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Call `read_checkpoint`; the other arguments change nothing, so that no caller can unlock code."""
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


# Resuming.


def checkpoint_to_resume(resume: str | None, output: str | Path, run_folder: str | Path) -> Path | None:
    """The training state to go on from; None begins anew. `resume` is a checkpoint file; `last`, the newest complete
    state of all runs below `output`; or `auto`, that of this run folder where there is one (for requeued jobs)."""
    if resume is None:
        return None
    if resume == "auto":
        return newest_complete(Path(run_folder, FOLDER).glob(f"*{SUFFIX}"))
    if resume != "last":
        path = Path(resume)
        if not path.is_file():
            raise DaclipError(f"resume={path}: no such checkpoint file; check the path")
        return path
    found = list(Path(output).glob(f"*/{FOLDER}/*{SUFFIX}"))
    if not found:
        raise DaclipError(f"resume=last: no run below {output} has a checkpoint yet; leave resume out")
    newest = newest_complete(found)
    if newest is None:
        raise DaclipError(f"resume=last: none of the {len(found)} checkpoints below {output} is complete; train anew")
    return newest


def keep_logs(run_folder: str | Path) -> None:
    """Rename the curves of a run that goes on in its own folder, because a new logger begins its file anew."""
    path = Path(run_folder, "logs", "metrics.csv")
    if path.is_file():
        earlier = len(list(path.parent.glob("metrics_*.csv")))
        path.rename(path.with_name(f"metrics_{earlier + 1}.csv"))


def generator_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators (CPU and every GPU) as tensors and plain data."""
    states = _collect_rng_states()
    name, keys, *rest = states.pop("numpy")
    # A checkpoint is read without code, so it holds no array.
    return {**states, "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest]}


def set_generator_states(states: dict[str, Any]) -> None:
    """Undo everything that was drawn since `generator_states`."""
    name, keys, *rest = states["numpy"]
    cuda = states.get("torch.cuda", states.get("cuda"))  # its name in checkpoints of earlier versions
    same = cuda and len(cuda) == torch.cuda.device_count()
    numpy = (name, keys.numpy().astype(np.uint32), *rest)
    _set_rng_states({**states, "numpy": numpy, "torch.cuda": cuda if same else []})


class GlobalGenerators(Callback):
    """Saves every rank's global generators, which parts such as dropout draw from, and puts them back on resuming."""

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States by rank. All ranks must call it together, as Lightning does when it saves."""
        return {"ranks": gather_objects(generator_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember this rank's states until training begins."""
        ranks = state_dict["ranks"]
        self._resumed = ranks[rank()] if rank() < len(ranks) else None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the states back behind everything that starting up has drawn."""
        if self._resumed is not None:
            set_generator_states(self._resumed)
            self._resumed = None


class RecordedConfig(Callback):
    """Puts a run's resolved configuration into its checkpoints, for resuming and for artifacts made of them."""

    def __init__(self, config: Mapping[str, Any]):
        self.text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)

    def state_dict(self) -> dict[str, Any]:
        """The configuration as text: checkpoints are read without unpickling arbitrary objects."""
        return {"config": self.text}

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
        """The configuration in a checkpoint's content; None for a run of an earlier version."""
        state = checkpoint.get("callbacks", {}).get(cls.__qualname__)
        return None if state is None else dict(yaml.safe_load(state["config"]))


# Saving, and stopping on a signal.


class StopSignals:
    """Remembers the first signal that asked to stop, to be obeyed at the next safe moment. SIGTERM comes from batch
    systems, container managers and `kill`; SIGUSR1 from `#SBATCH --signal=USR1@120`; SIGINT from Ctrl+C. A second one
    ends the process at once, whatever it waits for; not so one that comes with the first, since a batch system and a
    launcher may both send theirs."""

    together = 3.0  # seconds

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, object] = {}

    def install(self) -> None:
        """Take over the signals; only possible in the main thread, elsewhere nothing happens."""
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
        if self.received is None:
            self.received, self._at = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._at > self.together:
            os.write(2, b"ended at once by a second signal; go on from the last saved state with resume=last\n")
            os._exit(128 + number)


class RollingCheckpoint(Checkpoint):
    """Saves every so many optimiser steps, around each validation pass and on a signal; keeps the newest `keep`. States
    are taken between optimiser steps only, so that a resumed run goes on as if nothing had happened. On a signal the
    state is saved behind the current step or validation batch, all ranks stop together, and the process ends with
    `StoppedError`; SIGUSR1 also requeues a SLURM job, since its time is nearly over."""

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
        """Listen to signals instead of Lightning, which exchanges messages between ranks inside its handler; clear away
        what a killed process left here."""
        self._step = trainer.global_step
        self.signals.install()
        if trainer.is_global_zero:
            remove_partial(self.folder)
            for best in trainer.checkpoint_callbacks:
                path = getattr(best, "best_model_path", "")
                for older in self.folder.glob(f"best_*{SUFFIX}") if path else ():
                    # It was replaced, and not yet deleted.
                    if older.name < Path(path).name and self.folder.resolve() == Path(path).parent:
                        trainer.strategy.remove_checkpoint(older)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a save is due, and stop where a signal asked for it."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated: this is no state to go on from
        self._step = trainer.global_step
        stop = self._stop_is_asked(trainer)
        # A state from behind the last batch is on disk before the validation pass, which may take long.
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stop or last_of_epoch or self._step % self.every_n_steps == 0:
            self.save(trainer, pl_module)
        if stop:
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen in the final validation pass too."""
        self.signals.install()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop in a validation pass too: what came before it is saved."""
        if not trainer.sanity_checking and self._stop_is_asked(trainer):
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back after the final validation pass."""
        if trainer.state.fn != "fit":
            self.signals.restore()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state with the validation pass behind it."""
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
        """File of the state behind `step` optimiser steps."""
        return self.folder / f"step_{step:08d}{SUFFIX}"

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state, then delete those that are too old; weights that are not finite are a `DaclipError`."""
        finite = all(bool(weight.isfinite().all()) for weight in pl_module.parameters() if weight.requires_grad)
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

    def _stop_is_asked(self, trainer: L.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False))

    def _stop(self, trainer: L.Trainer) -> None:
        received = self.signals.received
        if received == signal.SIGUSR1 and trainer.is_global_zero:
            # After SIGTERM, SLURM queues the job again by itself, or was told to cancel it.
            _requeue()
        name, path = received.name if received else "another rank", self.path(trainer.global_step)
        raise StoppedError(
            f"stopped by {name} at step {trainer.global_step}; the state is saved, go on with "
            f"resume={path if path.is_file() else 'last'}",
            75 if trainer.is_global_zero else 0,
        )


def _requeue() -> None:
    """Put this SLURM job back into the queue; does nothing outside of SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else job
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False)
        if done.returncode:
            log.warning("scontrol requeue %s failed with status %d: submit it again", job, done.returncode)
    except OSError as error:
        log.warning("scontrol requeue %s cannot be run (%s): submit it again", job, error)
