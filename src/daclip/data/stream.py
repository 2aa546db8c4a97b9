"""Training pairs from rows that pass by once: no listing, disjoint shares for ranks and workers, exact resumption."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info

from daclip.data.hub import HubPhotos
from daclip.data.loading import DamagedPhotos, EpochLoader, data_loader
from daclip.data.pairs import ClassSchedule, PairMaker, Sample, collate
from daclip.data.photos import name_fraction
from daclip.degradations import split_classes
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.rng import generator_for
from daclip.types import RestorationBatch

Row = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """The place of one loader process in its share of the rows."""

    round: int = 0  # which time it reads the rows
    window: int = 0  # which window of the round
    start: dict[str, Any] | None = None  # state of `datasets` in front of that window; None is the beginning
    taken: int = 0  # rows of the window that have been handed out
    count: int = 0  # rows handed out since the beginning of training


class RowStream:
    """One process's share of a dataset's rows, in an order that looks random, with a position to resume from. Shards
    change order every round; rows are shuffled in windows. A resumed window is read again, where the shuffle buffer of
    `datasets` loses rows. While one window is handed out the next one is read, a row for a row."""

    def __init__(
        self,
        rows: datasets.IterableDataset,  # all; inside a loader process `datasets` narrows a rank's share further
        rank: int,
        world_size: int,
        window: int,  # rows that are shuffled together; twice as many are in memory
        seed: int,
        keep: Callable[[Row], bool] | None,  # whether a row takes part; None keeps all
        rounds: int | None,  # how many times all rows are read; None for ever
    ):
        self.all_rows, self.rank, self.world_size = rows, rank, world_size
        self.window, self.seed, self.keep, self.rounds = window, seed, keep, rounds

    def _share(self) -> datasets.IterableDataset:
        # A new object each time, because loader processes share the epoch of one made before them.
        return split_dataset_by_node(self.all_rows, self.rank, self.world_size)

    @property
    def num_shards(self) -> int:
        """Pieces that this rank's loader processes can share."""
        return int(self._share().num_shards)

    def read(self, position: Position) -> Iterator[tuple[Row, Position]]:
        """Rows from a position on, each with the position behind it."""
        rows = self._share()
        while self.rounds is None or position.round < self.rounds:
            reached = position
            for row, reached in self._read_round(rows, position):
                yield row, reached
            # A process without any row would make an endless stream wait for ever.
            if reached == Position(round=position.round, count=position.count) and self.rounds is None:
                raise DaclipError(
                    "a loader process has no rows: the dataset has fewer pieces than devices × data.num_workers, or "
                    "too few rows; lower data.num_workers"
                )
            position = Position(round=reached.round + 1, count=reached.count)

    def _read_round(self, rows: datasets.IterableDataset, position: Position) -> Iterator[tuple[Row, Position]]:
        # The number decides the order of the shards and is not 0, which would leave them as they are.
        rows.set_epoch(1 + int(name_fraction(f"{self.seed}/{position.round}") * 2**31))
        rows.load_state_dict(position.start)
        source = iter(rows)
        window = self._fill(source, [], self.window)
        while window:
            behind = rows.state_dict()  # the source now stands exactly behind this window
            order = torch.randperm(len(window), generator=generator_for(self.seed, position.round, position.window))
            upcoming: list[Row] = []
            for number in order[position.taken :].tolist():
                self._fill(source, upcoming, 1)
                position = replace(position, taken=position.taken + 1, count=position.count + 1)
                yield window[number], position
            self._fill(source, upcoming, self.window - len(upcoming))  # after a resumption in the middle of a window
            window = upcoming
            position = replace(position, window=position.window + 1, start=behind, taken=0)

    def _fill(self, source: Iterator[Row], rows: list[Row], count: int) -> list[Row]:
        """Read up to `count` more rows that take part."""
        kept = source if self.keep is None else filter(self.keep, source)
        rows.extend(itertools.islice(kept, count))
        return rows


@dataclass(frozen=True)
class Delivered:
    """A batch on its way from a loader process, and where that process then stands."""

    worker: int
    position: Position
    batch: RestorationBatch


class StreamedPairs(IterableDataset[Delivered | None]):
    """Batches of pairs from a stream of rows, with the row's own degraded version or else synthesised, classes in
    turns. What is drawn depends on the seed, the row's key, the round and the row's number in its process."""

    def __init__(
        self,
        photos: HubPhotos,
        maker: PairMaker,
        classes: Sequence[str],  # single classes that labels of real pairs may consist of
        schedule: ClassSchedule,  # the class of each synthetic sample
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        num_workers: int,  # as many as wanted; there are at most as many as the rank has shards
        rounds: int | None = None,  # how many times all rows are read; None for ever
        damaged: DamagedPhotos | None = None,  # the list of photos that are left out; None leaves out none
    ):
        super().__init__()
        self.damaged = damaged or DamagedPhotos(0)
        rows, self.columns = photos.stream()
        if rows.num_shards < world_size * max(num_workers, 1):
            rows = rows.reshard()  # parquet files fall apart into their row groups
        self.photos, self.maker, self.schedule = photos, maker, schedule
        self._met_small = False
        _ = photos.held_back  # read once, before there are loader processes
        self.batch_size, self.seed = batch_size, seed
        self.classes = {class_name for label in classes for class_name in split_classes(label)}
        keep = self._takes_part if photos.share else None
        self.stream = RowStream(rows, rank, world_size, photos.window, seed, keep, rounds)
        self.num_workers = min(num_workers, self.stream.num_shards)
        self.positions = [Position() for _ in range(max(self.num_workers, 1))]
        self.turn = 0

    def _takes_part(self, row: Row) -> bool:
        return not self.photos.is_validation(self.columns.key(row))

    def __iter__(self) -> Iterator[Delivered | None]:
        """Batches of this loader process; None where a resumed stream gives the turn to the next process."""
        info = get_worker_info()
        worker = info.id if info else 0
        if worker < self.turn:
            yield None
        samples = []
        position = self.positions[worker]
        for row, position in self.stream.read(self.positions[worker]):
            try:
                sample = self._sample(row, position)
            except DamagedPhotoError as error:
                self.damaged.note(error)
                continue
            if sample is None:
                continue
            samples.append(sample)
            if len(samples) == self.batch_size:
                yield Delivered(worker, position, collate(samples))
                samples = []
        if samples:
            yield Delivered(worker, position, collate(samples))

    def _sample(self, row: Row, position: Position) -> Sample | None:
        """The sample of a row; None for a photo that is too small."""
        photo = self.photos.photo(row, self.columns)
        self.photos.refuse_shared(photo)
        if min(photo.size()) < self.maker.crop_size:
            if not self._met_small:
                log.warning("left out: %s and all others that are smaller than data.crop_size", photo.name)
            self._met_small = True
            return None
        key = int(name_fraction(photo.name) * 2**53)
        generator = generator_for(self.seed, position.round, key, position.count)
        if not photo.class_name:
            return self.maker.synthesise(photo, self.schedule.class_name(position.count - 1), generator)
        if unknown := set(split_classes(photo.class_name)) - self.classes:
            raise DaclipError(f"{photo.name}: the class '{min(unknown)}' is not among data.photos.classes")
        return self.maker.cut(photo, generator)


class StreamLoader(EpochLoader):
    """Batches of a stream in epochs of `steps`, or up to the stream's end, with a position that a checkpoint can hold.
    Loader processes read on from epoch to epoch and take turns; only what was handed out here is counted."""

    def __init__(self, pairs: StreamedPairs, steps: int | None):
        super().__init__(lambda _: data_loader(pairs, None, pairs.num_workers, pairs.seed), steps, 0)
        self.pairs, self.positions, self.turn = pairs, list(pairs.positions), 0

    def _begun(self) -> Iterator[Delivered]:
        self.pairs.positions, self.pairs.turn = list(self.positions), self.turn
        return (item for item in super()._begun() if item is not None)

    def _counted(self, batch: Delivered) -> RestorationBatch:
        self.positions[batch.worker] = batch.position
        self.turn = (batch.worker + 1) % len(self.positions)
        return batch.batch

    def position(self) -> dict[str, Any]:
        """Where the stream stands behind the last batch."""
        return {"turn": self.turn, "positions": [asdict(position) for position in self.positions]}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on behind the last batch of a saved `position`, before the first batch is taken."""
        positions = [Position(**position) for position in state["positions"]]
        if len(positions) != len(self.positions):
            raise DaclipError(
                f"the checkpoint stands in a stream of {len(positions)} loader processes and this run has "
                f"{len(self.positions)}; resume with the same data.num_workers"
            )
        self.positions, self.turn = positions, int(state["turn"])
