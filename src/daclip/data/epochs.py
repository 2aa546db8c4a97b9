"""An endless stream of listed samples: shared among ranks, cut into epochs, resumed at any batch."""

import itertools
from collections.abc import Callable, Iterable, Iterator

from torch.utils.data import Sampler

from daclip.types import RestorationBatch

__all__ = ["EpochLoader", "StreamSampler"]


class StreamSampler(Sampler[int]):
    """Indices of an endless stream of samples, shared among ranks.

    The global batch of step k is `k·world·batch … (k+1)·world·batch − 1` and rank r takes its r-th part,
    so that the union over ranks is what one process with the large batch would see.

    Args:
        batch_size: Samples of a batch on one rank.
        rank: This process.
        world_size: Number of processes.
        first_step: Step to begin with.
    """

    def __init__(self, batch_size: int, rank: int, world_size: int, first_step: int):
        self.batch_size, self.rank, self.world_size, self.first_step = batch_size, rank, world_size, first_step

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank, without end."""
        for step in itertools.count(self.first_step):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)


class EpochLoader:
    """Batches of an endless loader, cut into epochs of equal length.

    One iterator, with its loader processes, serves all epochs: nothing is fetched in vain at an epoch's end, and
    what comes next depends on the number of batches handed out and on nothing that the Trainer counts.

    Args:
        loader_from: Makes the endless loader that begins with a given step.
        steps: Batches of one epoch.
        done: Batches that an interrupted run has handed out.
    """

    def __init__(self, loader_from: Callable[[int], Iterable[RestorationBatch]], steps: int, done: int):
        self.loader_from = loader_from
        self.steps = steps
        self.done = done
        self._batches: Iterator[RestorationBatch] | None = None

    def __len__(self) -> int:
        """Batches of one epoch."""
        return self.steps

    def __iter__(self) -> Iterator[RestorationBatch]:
        """The next epoch's batches."""
        if self._batches is None:
            self._batches = iter(self.loader_from(self.done))
        for batch in itertools.islice(self._batches, self.steps):
            self.done += 1
            yield batch

    def position(self) -> int:
        """Number of batches handed out since the beginning of training."""
        return self.done

    def close(self) -> None:
        """End the loader processes; the next epoch starts new ones where these stood."""
        self._batches = None
