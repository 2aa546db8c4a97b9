"""LQ/HQ pairs synthesised on the fly from clean photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from daclip.data.photos import Photo, cached_pixels
from daclip.degradations import Degradation
from daclip.errors import DaclipError
from daclip.types import RestorationBatch

__all__ = ["Augmentation", "HeldOutPairs", "Sample", "SyntheticPairs", "collate", "generator_for"]


@dataclass
class Sample:
    """One pair: `lq` and `hq` are float32 `[3, H, W]` in [0, 1]."""

    lq: Tensor
    hq: Tensor
    caption: str
    degradation: str
    name: str


def collate(samples: Sequence[Sample]) -> RestorationBatch:
    """Stack samples of one size into a batch."""
    return RestorationBatch(
        lq=torch.stack([sample.lq for sample in samples]),
        hq=torch.stack([sample.hq for sample in samples]),
        caption=[sample.caption for sample in samples],
        degradation=[sample.degradation for sample in samples],
        name=[sample.name for sample in samples],
    )


def generator_for(*key: int) -> torch.Generator:
    """A generator that depends on nothing but the key, such as (seed, sample index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the clean photo before it is degraded.

    Attributes:
        zoom: Range of the factor by which a crop is shrunk: 1 keeps the photo's own resolution, 0.5
            shows twice as much of the scene. Drawn log-uniformly.
        colour: Strength of the random gain per channel and of the random gamma; 0 leaves colours alone.
        flip: Mirror and turn by multiples of 90°.
    """

    zoom: tuple[float, float]
    colour: float
    flip: bool

    def crop(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and change one crop.

        Args:
            pixels: uint8 `[3, H, W]`.
            size: Side of the crop.
            generator: Source of all draws.

        Returns:
            float32 `[3, size, size]` in [0, 1].
        """
        shorter = min(pixels.shape[-2:])
        low, high = np.log(self.zoom[0]), np.log(self.zoom[1])
        side = min(shorter, round(size / float(np.exp(_uniform(low, high, generator)))))
        image = _random_crop(pixels, side, generator).float().div_(255)
        if side != size:
            image = F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0].clamp_(0, 1)
        if self.flip:
            draw = int(torch.randint(8, (), generator=generator))
            image = torch.rot90(image, draw % 4, (-2, -1))
            image = image.flip(-1) if draw >= 4 else image
        if self.colour:
            gain = 1 + self.colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
            gamma = float(np.exp(self.colour * _uniform(-1, 1, generator)))
            image = image.pow(gamma).mul_(gain).clamp_(0, 1)
        return image.contiguous()


def _random_crop(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = pixels.shape[-2:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return pixels[..., top : top + side, left : left + side]


def _degrade(hq: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    return degradation(hq[None], [generator])[0]


class SyntheticPairs(Dataset[Sample]):
    """Random crops of clean photos, each with a random corruption of a fixed word.

    Sample `index` depends on `(seed, index)` alone, whatever worker or rank makes it, and the words take
    turns, so that every batch is balanced. Photos are drawn in proportion to the square root of their
    area: large photos have more to show, small ones still count.

    Args:
        photos: Clean photos.
        degradations: Word to corruption.
        crop_size: Side of the crops in pixels.
        context_size: Side of the piece that is corrupted before the crop is cut from it. A larger piece shows
            what a part of a photo shows: the inside of a shadow, glass without drops.
        augmentation: Changes of the clean piece.
        length: Samples of one epoch.
        seed: Changes every draw.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        degradations: Mapping[str, Degradation],
        crop_size: int,
        context_size: int,
        augmentation: Augmentation,
        length: int,
        seed: int,
    ):
        self.photos = list(photos)
        self.degradations = dict(degradations)
        self.words = list(self.degradations)
        self.crop_size = crop_size
        self.context_size = context_size
        self.augmentation = augmentation
        self.length = length
        self.seed = seed
        areas = torch.tensor([float(cached_pixels(photo.path)[0].numel()) for photo in self.photos])
        self.weights = areas.sqrt()

    def __len__(self) -> int:
        """Samples of one epoch; larger indices belong to later epochs."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of the endless stream."""
        generator = generator_for(self.seed, index)
        photo = self.photos[int(torch.multinomial(self.weights, 1, generator=generator))]
        word = self.words[index % len(self.words)]
        hq = self.augmentation.crop(cached_pixels(photo.path), self.context_size, generator)
        lq = _degrade(hq, self.degradations[word], generator)
        lq, hq = _random_crop(torch.stack([lq, hq]), self.crop_size, generator)
        return Sample(lq, hq, photo.caption, word, photo.name)


class HeldOutPairs(Dataset[Sample]):
    """A fixed set: the same crops of every held-out photo under every word.

    Args:
        photos: Held-out photos.
        degradations: Word to corruption.
        size: Side of the crops in pixels; a smaller photo is cut to its shorter side.
        crops_per_photo: Crops of each photo.
        seed: Changes every draw.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        degradations: Mapping[str, Degradation],
        size: int,
        crops_per_photo: int,
        seed: int,
    ):
        if not photos:
            raise DaclipError("no photo is held out; set data.photos.held_out")
        self.photos = list(photos)
        self.degradations = dict(degradations)
        self.words = list(self.degradations)
        shortest = min(min(cached_pixels(photo.path).shape[-2:]) for photo in self.photos)
        self.size = min(size, shortest)
        self.crops_per_photo = crops_per_photo
        self.seed = seed

    def __len__(self) -> int:
        """Photos times crops times words."""
        return len(self.photos) * self.crops_per_photo * len(self.words)

    def __getitem__(self, index: int) -> Sample:
        """Pair number `index`; words vary fastest, then crops, then photos."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        crop, which = divmod(index, len(self.words))
        photo, word = self.photos[crop // self.crops_per_photo], self.words[which]
        # The crop's own key leaves the word out: every word is shown on the same crop.
        pixels = _random_crop(cached_pixels(photo.path), self.size, generator_for(self.seed, crop))
        hq = pixels.float().div_(255)
        lq = _degrade(hq, self.degradations[word], generator_for(self.seed, crop, which))
        return Sample(lq, hq, photo.caption, word, photo.name)
