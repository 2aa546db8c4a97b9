"""The LightningDataModule: balanced mixing, seeding, rank sharding."""

from collections.abc import Iterator, Mapping

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from daclip.data.pairs import Augmentation, HeldOutPairs, Sample, SyntheticPairs, collate
from daclip.data.photos import PhotoSource
from daclip.degradations import Degradation
from daclip.errors import DaclipError

__all__ = ["MixedDegradationData", "StreamSampler"]


class StreamSampler(Sampler[int]):
    """Indices of an endless stream of samples, cut into epochs and shared among ranks.

    The global batch of step k is `k·world·batch … (k+1)·world·batch − 1` and rank r takes its r-th part,
    so that the union over ranks is what one process with the large batch would see.

    Args:
        length: Samples of one epoch over all ranks.
        batch_size: Samples of a batch on one rank.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, length: int, batch_size: int, rank: int, world_size: int):
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.steps = length // (batch_size * world_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of this rank in one epoch."""
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank in the current epoch."""
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)


class MixedDegradationData(L.LightningDataModule):
    """Mixed-degradation pairs from clean photos.

    Args:
        photos: Where clean photos come from.
        degradations: Word to corruption; the words are the classes of stage 1.
        crop_size: Side of a training crop in pixels.
        context_size: Side of the piece that is corrupted before the crop is cut from it.
        augmentation: Changes of clean training crops.
        batch_size: Samples of a training batch on one device.
        samples_per_epoch: Length of an epoch, over all devices.
        held_out_size: Side of a held-out crop in pixels.
        held_out_crops: Crops of each held-out photo.
        held_out_batch_size: Samples of a held-out batch.
        workers: Loader processes; 0 loads in the training process.
        seed: Changes every draw.

    Raises:
        DaclipError: A size is contradictory, such as a batch larger than the epoch.
    """

    def __init__(
        self,
        photos: PhotoSource,
        degradations: Mapping[str, Degradation],
        crop_size: int,
        context_size: int,
        augmentation: Augmentation,
        batch_size: int,
        samples_per_epoch: int,
        held_out_size: int,
        held_out_crops: int,
        held_out_batch_size: int,
        workers: int,
        seed: int,
    ):
        super().__init__()
        for name, value in {"batch_size": batch_size, "crop_size": crop_size}.items():
            if value < 1:
                raise DaclipError(f"data.{name} must be at least 1, got {value}")
        if batch_size > samples_per_epoch:
            raise DaclipError(
                f"data.batch_size={batch_size} is larger than the data: an epoch has "
                f"data.samples_per_epoch={samples_per_epoch} samples; lower the one or raise the other"
            )
        if not degradations:
            raise DaclipError("no degradation is chosen; give at least one, as in degradation=[noisy]")
        self.photos = photos
        self.degradations = dict(degradations)
        self.words = list(self.degradations)
        if context_size < crop_size:
            raise DaclipError(f"data.context_size={context_size} is smaller than data.crop_size={crop_size}")
        self.crop_size = crop_size
        self.context_size = context_size
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.samples_per_epoch = samples_per_epoch
        self.held_out_size = held_out_size
        self.held_out_crops = held_out_crops
        self.held_out_batch_size = held_out_batch_size
        self.workers = workers
        self.seed = seed

    def training_pairs(self) -> SyntheticPairs:
        """The endless stream of training samples."""
        return SyntheticPairs(
            self.photos.train(),
            self.degradations,
            self.crop_size,
            self.context_size,
            self.augmentation,
            self.samples_per_epoch,
            self.seed,
        )

    def held_out_pairs(self) -> HeldOutPairs:
        """The fixed set that scores are measured on."""
        return HeldOutPairs(
            self.photos.held_out(),
            self.degradations,
            self.held_out_size,
            self.held_out_crops,
            self.seed,
        )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Balanced training batches of this rank."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = StreamSampler(self.samples_per_epoch, self.batch_size, rank, world_size)
        if len(sampler) == 0:
            raise DaclipError(
                f"data.batch_size={self.batch_size} on {world_size} devices is larger than an epoch of "
                f"{self.samples_per_epoch} samples; raise data.samples_per_epoch"
            )
        return DataLoader(
            self.training_pairs(),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Held-out batches, in their fixed order."""
        return DataLoader(
            self.held_out_pairs(),
            batch_size=self.held_out_batch_size,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )
