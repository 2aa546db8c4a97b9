"""The LightningDataModule: from a source of photos to loaders, and how far training has read."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler

from daclip.arithmetic import gather_objects
from daclip.data.loading import DamagedPhotos, EpochLoader, StreamSampler, WithoutDamaged, data_loader
from daclip.data.pairs import (
    Augmentation,
    ClassSchedule,
    Mix,
    PairMaker,
    Sample,
    TrainingPairs,
    ValidationPairs,
    collate,
)
from daclip.data.photos import CleanPhoto, PhotoSource
from daclip.data.selection import copies, in_place_of, large_enough, refuse_strangers, sampled, without
from daclip.degradations import Degradation, split_classes, vocabulary
from daclip.errors import DaclipError
from daclip.files import left_out_line

FEW = 0.1  # share of photos with captions below which a loss on captions learns nothing

log = logging.getLogger(__name__)


class MixedDegradationData(L.LightningDataModule):
    """Mixed-degradation pairs from clean photos, real pairs, or both; `classes` are the single classes: those of stage
    1. Without `mix` all classes take equal turns, with no synthesis for classes that have real pairs."""

    def __init__(
        self,
        photos: PhotoSource,  # one with a degraded version of its own is shown with it
        degradations: Mapping[str, Degradation],  # class to degradation of the other photos
        crop_size: int,  # side of a training crop in pixels
        context_size: int,  # side of the piece that is degraded before the crop is cut from it
        augmentation: Augmentation,
        batch_size: int,  # on one device
        samples_per_epoch: int,  # over all devices
        validation_size: int,  # side of a validation crop in pixels
        validation_crops: int,  # of each photo
        validation_batch_size: int,
        num_workers: int,  # loader processes; 0 loads in the training process
        seed: int,
        mix: Mix | None = None,
        max_damaged: int = 0,  # training photos that are left out and listed; validation photos may not be damaged
        validation_photos: int | None = None,  # at most, of each class of real pairs; None takes all
        allow_unlike: bool = False,  # real pairs that seem to show different pictures
    ):
        super().__init__()
        sizes = {
            "batch_size": (batch_size, 1),
            "crop_size": (crop_size, 1),
            "validation_size": (validation_size, 1),
            "validation_crops": (validation_crops, 1),
            "validation_batch_size": (validation_batch_size, 1),
            "num_workers": (num_workers, 0),
        }
        for name, (value, least) in sizes.items():
            if value < least:
                raise DaclipError(f"data.{name} must be at least {least}, got {value}")
        if batch_size > samples_per_epoch:
            raise DaclipError(
                f"data.batch_size={batch_size} is larger than the data: an epoch has "
                f"data.samples_per_epoch={samples_per_epoch} samples; lower the one or raise the other"
            )
        if not degradations and photos.has_plain:
            raise DaclipError("no degradation is chosen; give at least one, as in degradation=[noisy]")
        self.photos = photos
        self.degradations = dict(degradations)
        synthetic = vocabulary(self.degradations) if photos.has_plain else []
        # A photo that is degraded in several ways belongs to several classes.
        real = [class_name for label in photos.classes for class_name in split_classes(label)]
        self.classes = list(dict.fromkeys([*synthetic, *real]))
        self.mix = mix or Mix(weights=None, real_share=1.0)
        if context_size < crop_size:
            raise DaclipError(f"data.context_size={context_size} is smaller than data.crop_size={crop_size}")
        self.maker = PairMaker(self.degradations, crop_size, context_size, augmentation)
        self.batch_size, self.samples_per_epoch = batch_size, samples_per_epoch
        self.validation_size, self.validation_crops = validation_size, validation_crops
        self.validation_batch_size = validation_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.validation_photos, self.allow_unlike = validation_photos, allow_unlike
        self._told = False
        self.damaged = DamagedPhotos(max_damaged)
        self._loader: EpochLoader | None = None
        self._resumed: list[Any] | None = None
        self.found: dict[str, Any] | None = None  # the photos, as `fingerprint` tells them

    def prepare_data(self) -> None:
        """What the photos need once, such as captions."""
        self.photos.prepare()
        if not self.allow_unlike and not self._told and not self.photos.streaming:
            refuse_strangers(self.photos.train())

    def setup(self, stage: str) -> None:
        """Say once what was found and what takes part, and note what a run is trained on when it begins: at its end
        photos may be gone."""
        if self.trainer and self.trainer.is_global_zero:
            if stage == "fit":
                self.found = fingerprint(self)
            for line in [] if self._told else self.account():
                log.info("%s", line)
        self._told = True

    def account(self, training: bool = True, whole: bool = False) -> list[str]:
        """What was found, left out and chosen, a line each for the source, training (if wanted) and validation."""
        lines = [self.photos.account] if self.photos.account else []
        if training and not self.photos.streaming:
            photos, left_out = self._training_photos
            lines.append("; ".join(filter(None, [f"training: {len(photos)} photos", left_out_line(left_out)])))
        photos, left_out = self._validation_photos(whole)
        count = len(self.photos.validation()) + len(self._moved) - sum(map(len, left_out.values()))
        chosen = f" of {count}, chosen by the hash of the name" if len(photos) < count else ""
        return [*lines, "; ".join(filter(None, [f"validation: {len(photos)} photos{chosen}", left_out_line(left_out)]))]

    @cached_property
    def _training_photos(self) -> tuple[list[CleanPhoto], dict[str, list[str]]]:
        """The photos that training shows, and the names of those that it leaves out by the reason."""
        train = without(self.photos.train(), self._moved)
        if not train:
            raise DaclipError("there is no photo to train on, all are for validation; lower data.photos.validation")
        photos, small = large_enough(train, self.maker.crop_size, "data.crop_size")
        shared = copies(photos, self.photos.validation())
        if shared and self.photos.own_split:
            raise DaclipError(
                f"{len(shared)} photos belong to training and to validation, such as {shared[0][0].name} and "
                f"{shared[0][1].name}; remove them from one side"
            )
        photos = without(photos, [photo for photo, _ in shared])
        if not photos:
            raise DaclipError("every training photo is a copy of a validation photo; add other photos")
        return photos, {
            "smaller than data.crop_size": small,
            "copies of validation photos": [photo.name for photo, _ in shared],
        }

    @cached_property
    def _moved(self) -> list[CleanPhoto]:
        """Training photos that take the place of validation photos all of which are too small for a crop."""
        if self.photos.streaming or self.photos.own_split:
            return []
        return in_place_of(self.photos.validation(), self.photos.train(), self.validation_size)

    def _validation_photos(self, whole: bool) -> tuple[list[CleanPhoto], dict[str, list[str]]]:
        """The photos that are scored, and the names of those that are too small; with `whole` real pairs are neither
        sampled nor too small, see `ValidationPairs`."""
        found = [*self.photos.validation(), *self._moved]
        cut = [photo for photo in found if not (whole and photo.class_name)]
        large, small = large_enough(cut, self.validation_size, "data.validation_size")
        gone = without(cut, sampled(large, self.validation_photos))
        return without(found, gone), {"smaller than data.validation_size": small}

    def require_captions(self) -> None:
        """Refuse photos hardly any of which have captions; of a stream the validation photos tell."""
        photos = self.photos.validation() if self.photos.streaming else self.photos.train()
        count = sum(bool(photo.caption) for photo in photos)
        if count < FEW * len(photos):
            raise DaclipError(
                f"stage.loss.caption_weight needs captions, and {count} of {len(photos)} photos have one; give "
                "data.photos.captions=FILE or photo.txt beside photo.jpg, or set stage.loss.caption_weight=0"
            )

    def training_pairs(self) -> TrainingPairs:
        """The endless stream of training samples; not for photos that are streamed."""
        return TrainingPairs(self._training_photos[0], self.maker, self.mix, self.samples_per_epoch, self.seed)

    def validation_pairs(self, whole: bool = False) -> ValidationPairs:
        """The fixed set that scores are measured on; `whole` as in `ValidationPairs`."""
        photos, _ = self._validation_photos(whole)
        return ValidationPairs(photos, self.degradations, self.validation_size, self.validation_crops, self.seed, whole)

    def train_dataloader(self) -> EpochLoader:
        """Balanced training batches of this rank."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        steps = self.samples_per_epoch // (self.batch_size * world_size)
        if steps == 0:
            raise DaclipError(
                f"data.batch_size={self.batch_size} on {world_size} devices is larger than an epoch of "
                f"{self.samples_per_epoch} samples; raise data.samples_per_epoch"
            )
        if self._resumed is not None and len(self._resumed) != world_size:
            raise DaclipError(
                f"the checkpoint was written by {len(self._resumed)} devices and this run has {world_size}; "
                "resume with the same number"
            )
        position = self._resumed[rank] if self._resumed else None
        make = self._stream_loader if self.photos.streaming else self._listed_loader
        self._loader = make(position, steps, rank, world_size)
        return self._loader

    def _listed_loader(self, position: Any, steps: int, rank: int, world_size: int) -> EpochLoader:
        stream = self.training_pairs()
        pairs = WithoutDamaged(stream, len(stream.classes), self.damaged)

        def loader_from(step: int) -> DataLoader[Any]:
            sampler = StreamSampler(self.batch_size, rank, world_size, step)
            return data_loader(pairs, self.batch_size, self.num_workers, self.seed, sampler=sampler, collate_fn=collate)

        return EpochLoader(loader_from, steps, position or 0)

    def _stream_loader(self, position: Any, steps: int, rank: int, world_size: int) -> EpochLoader:
        # The library behind streams takes a second to import, which other data need not wait for.
        from daclip.data.hub import HubPhotos
        from daclip.data.stream import StreamedPairs, StreamLoader

        assert isinstance(self.photos, HubPhotos)
        schedule = ClassSchedule(list(self.degradations), self.mix.weights)
        options = (schedule, self.batch_size, self.seed, rank, world_size, self.num_workers)
        pairs = StreamedPairs(self.photos, self.maker, self.photos.classes, *options, damaged=self.damaged)
        if pairs.num_workers < self.num_workers:
            log.info("%d of %d loader processes: the dataset has no more pieces", pairs.num_workers, self.num_workers)
        loader = StreamLoader(pairs, steps)
        if position:
            loader.resume(position)
        return loader

    def teardown(self, stage: str) -> None:
        """End the loader processes of training."""
        if self._loader is not None:
            self._loader.close()

    def state_dict(self) -> dict[str, Any]:
        """How far every rank has read, for the checkpoint; all ranks must call it together, as Lightning does."""
        if self._loader is None:
            return {}
        # As text: checkpoints are read without unpickling arbitrary objects.
        return {"positions": json.dumps(gather_objects(self._loader.position()))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where training goes on reading."""
        # Lightning looks for a state in the loader itself, which would hold that of the first rank only.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        self._resumed = json.loads(state_dict["positions"])

    def val_dataloader(self) -> DataLoader[Sample]:
        """Validation batches of this rank, in their fixed order."""
        pairs = self.validation_pairs()
        sampler: Any = None
        if self.trainer and self.trainer.world_size > 1:
            sampler = DistributedSampler(pairs, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        size = self.validation_batch_size
        return data_loader(pairs, size, self.num_workers, self.seed, sampler=sampler, collate_fn=collate)


def _digest(photos: Iterable[CleanPhoto]) -> dict[str, Any]:
    hashed, count = hashlib.sha256(), 0
    for photo in photos:
        paths = (getattr(photo, "path", None), getattr(photo, "degraded", None))
        sizes = [path.stat().st_size for path in paths if isinstance(path, Path)]
        hashed.update(repr((photo.name, photo.class_name, photo.caption, sizes)).encode())
        count += 1
    return {"photos": count, "sha256": hashed.hexdigest()[:16]}


def fingerprint(data: MixedDegradationData) -> dict[str, Any]:
    """Number and hash of the photos of both sides; `train` is None where they are streamed. Hashed are names, captions,
    classes and file sizes, in order; not the pixels, which would mean reading everything twice."""
    source = data.photos
    train = None if source.streaming else _digest(source.train())
    return {"train": train, "validation": _digest(source.validation())}
