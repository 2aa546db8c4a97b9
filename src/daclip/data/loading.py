"""Loading an endless stream of samples: shared among ranks, cut into epochs, resumed, without damaged photos."""

import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from daclip.data.pairs import Sample
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.files import one_line
from daclip.rng import generator_for
from daclip.types import RestorationBatch

ATTEMPTS = 100  # draws of another photo before a class counts as having none that can be read
STRIDE = 2**32  # beyond any number of samples that a run reaches

log = logging.getLogger(__name__)


class StreamSampler(Sampler[int]):
    """Indices of an endless stream of samples, shared among ranks. Global batch k is
    `k·world·batch … (k+1)·world·batch − 1`; rank r takes its r-th part, as if one process had the large batch."""

    def __init__(self, batch_size: int, rank: int, world_size: int, first_step: int):
        self.batch_size, self.rank, self.world_size, self.first_step = batch_size, rank, world_size, first_step

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank, without end."""
        for step in itertools.count(self.first_step):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)


class EpochLoader:
    """Batches of an endless loader in epochs of `steps`. One iterator serves all epochs, so what comes next depends on
    the batches handed out (`done`) alone. `loader_from` makes the loader that begins with a given step."""

    def __init__(self, loader_from: Callable[[int], Iterable[RestorationBatch]], steps: int | None, done: int):
        self.loader_from, self.steps, self.done = loader_from, steps, done
        self._batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        """Batches of one epoch."""
        if self.steps is None:
            raise TypeError("a stream read to its end has no known length")
        return self.steps

    def __iter__(self) -> Iterator[RestorationBatch]:
        """The next epoch's batches."""
        if self._batches is None:
            self._batches = self._begun()
        for batch in itertools.islice(self._batches, self.steps):
            yield self._counted(batch)

    def _begun(self) -> Iterator[Any]:
        """What goes on behind the last batch."""
        return iter(self.loader_from(self.done))

    def _counted(self, batch: Any) -> RestorationBatch:
        self.done += 1
        return cast(RestorationBatch, batch)

    def position(self) -> Any:
        """Where training stands, in plain containers: the number of batches handed out since its beginning."""
        return self.done

    def close(self) -> None:
        """End the loader processes; the next epoch starts new ones where these stood."""
        self._batches = None


SHARED_MEMORY = Path("/dev/shm")
ENOUGH = 2**30  # bytes of it; containers have 2**26 by default


def _by_value(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any]]:
    return torch.from_numpy, (tensor.numpy(),)


def _cannot_send(error: BaseException, batch: Any) -> None:
    """End a loader process whose batch is lost: the training process would wait for it for ever."""
    sys.stderr.write(f"a loader process cannot hand over its batch: {one_line(error)}\n")
    sys.stderr.flush()
    os._exit(1)


def _hand_over_safely() -> None:
    """Let this loader process send its batches through the pipe where shared memory is small."""
    Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).total < ENOUGH:
        ForkingPickler.register(Tensor, _by_value)


@contextmanager
def loaders_watched() -> Iterator[None]:
    """One line in place of PyTorch's error for a loader process that died."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _of_loader(error):
            raise
        raise DaclipError(
            f"a loader process died ({one_line(error)}); if memory ran out, lower data.num_workers or "
            "data.batch_size; go on with resume=last"
        ) from error


def _of_loader(error: Exception) -> bool:
    """Whether an error says that a loader process died: by PyTorch's words, or by a batch that breaks off."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith("multiprocessing.") for module in modules)


def _obey_parent() -> None:
    """End at a SIGTERM of the training process, and of no other."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)


def start_loader(worker: int) -> None:
    """`worker_init_fn` of all loaders: leaves stopping to the training process. SLURM, `timeout` and Ctrl+C signal all
    processes of a job, but training needs its loaders until it has finished the step and saved its state."""
    _hand_over_safely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows cannot tell who signals
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def data_loader(
    dataset: Dataset[Any], batch_size: int | None, num_workers: int, seed: int, **options: Any
) -> DataLoader[Any]:
    """A DataLoader with what all loaders share; `options` are its other arguments."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_loader,
        generator=generator_for(seed),  # loaders draw a seed for their processes, else from the global one
        **options,
    )


class DamagedPhotos:
    """The list of damaged photos that all loader processes of a rank share; more than `limit` of them end the run."""

    def __init__(self, limit: int):
        if limit < 0:
            raise DaclipError(f"data.max_damaged must be at least 0, got {limit}")
        self.limit = limit
        self._seen: set[str] = set()
        # A file, because loader processes share no memory; lines this short are appended whole.
        handle, name = tempfile.mkstemp(prefix="daclip-damaged-")
        os.close(handle)
        self._path = Path(name)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def note(self, error: DamagedPhotoError) -> None:
        """Leave a photo out, for the reason that the error names; raises `DaclipError` above the limit."""
        if self.limit and str(error) in self._seen:
            return
        if str(error) not in self.names():
            log.warning("left out: %s", error)
            with self._path.open("ab", buffering=0) as file:
                file.write(f"{' '.join(str(error).split())}\n".encode())
        self._seen.add(str(error))
        found = len(self.names())
        if found > self.limit:
            raise DaclipError(
                f"{error}; with it {found} photos are damaged and data.max_damaged={self.limit} allows no more: "
                "find them with `make check-dataset SOURCE=...`"
            )

    def names(self) -> list[str]:
        """Every damaged photo once, each as one line with the reason."""
        return list(dict.fromkeys(self._path.read_text(encoding="utf-8").splitlines()))


def _remove(path: Path, process: int) -> None:
    """Delete the list; only the process that made it may, not a loader process with a copy of the object."""
    if os.getpid() == process:
        path.unlink(missing_ok=True)


class WithoutDamaged(Dataset[Sample]):
    """Samples of a numbered stream; for a damaged photo comes another of the same class, chosen by the sample's number
    alone. Classes repeat after `period` samples; with `data.mix.weights` the other one's class is drawn anew."""

    def __init__(self, pairs: Dataset[Sample], period: int, damaged: DamagedPhotos):
        self.pairs, self.period, self.damaged = pairs, period, damaged

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of the endless stream."""
        for attempt in range(ATTEMPTS):
            try:
                return self.pairs[index + attempt * STRIDE * self.period]
            except DamagedPhotoError as error:
                self.damaged.note(error)
                last = error
        raise DaclipError(f"{last}; {ATTEMPTS} draws in a row met damaged photos: `make check-dataset SOURCE=...`")
