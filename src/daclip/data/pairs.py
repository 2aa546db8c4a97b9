"""Scenes that no photo shows: pieces laid over each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from daclip.data.photos import CleanPhoto
from daclip.degradations import Degradation
from daclip.degradations.base import split_classes, vocabulary
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.rng import generator_for
from daclip.types import RestorationBatch


def lay(piece: Tensor, ground: Tensor, generator: torch.Generator) -> Tensor:
    """Lay a random part of one image over another, with an edge one pixel soft.

    A few photos are soon known by heart; objects that hide each other at random give their textures endless
    edges and neighbours (the dead leaves model of natural images, Lee et al. 2001; as training data: Achddou
    et al. 2021). The part is a half-plane, an ellipse or a rectangle, turned and placed at random.

    Args:
        piece: float32 `[3, H, W]` in [0, 1].
        ground: What it comes to lie on, same shape and range.
        generator: Source of all draws.

    Returns:
        float32 `[3, H, W]` in [0, 1].
    """
    height, width = ground.shape[-2:]
    kind = int(torch.randint(3, (), generator=generator))
    angle, top, left, tall, wide = torch.rand(5, generator=generator).tolist()
    y = torch.arange(height)[:, None] - top * height
    x = torch.arange(width)[None, :] - left * width
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    # Half axes from an eighth to a half of the shorter side.
    a, b = (min(height, width) * (0.125 + 0.375 * part) for part in (tall, wide))
    if kind == 0:
        distance = u
    elif kind == 1:
        distance = ((u / a).square() + (v / b).square()).sqrt().sub(1) * min(a, b)
    else:
        distance = torch.maximum(u.abs() - a, v.abs() - b)
    return torch.lerp(ground, piece, (0.5 - distance).clamp(0, 1))


MOST_LEAVES = 4
TRIES = 8
VISIBLE = 4 / 255


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
        permute: Share of the crops whose colour channels change places.
        collage: Share of the crops over which further pieces of the photo are laid, see `lay`: edges and
            neighbours that the photo does not have.
    """

    zoom: tuple[float, float]
    colour: float
    flip: bool
    permute: float = 0.0  # artifacts of earlier versions lack it
    collage: float = 0.0  # likewise

    def crop(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and change one crop.

        Args:
            pixels: uint8 `[3, H, W]`.
            size: Side of the crop.
            generator: Source of all draws.

        Returns:
            float32 `[3, size, size]` in [0, 1].
        """
        image = self._piece(pixels, size, generator)
        if self.collage and _uniform(0, 1, generator) < self.collage:
            for _ in range(int(torch.randint(1, MOST_LEAVES + 1, (), generator=generator))):
                image = lay(self._piece(pixels, size, generator), image, generator)
        return image.contiguous()

    def _piece(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        shorter = min(pixels.shape[-2:])
        low, high = np.log(self.zoom[0]), np.log(self.zoom[1])
        side = min(shorter, round(size / float(np.exp(_uniform(low, high, generator)))))
        image = self._turned(_resized(_random_crop(pixels, side, generator), size), generator)
        if self.permute and _uniform(0, 1, generator) < self.permute:
            image = image[torch.randperm(3, generator=generator)]
        if self.colour:
            gain = 1 + self.colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
            gamma = float(np.exp(self.colour * _uniform(-1, 1, generator)))
            image = image.pow(gamma).mul_(gain).clamp_(0, 1)
        return image

    def crop_pair(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and turn the same crop of a photo and its own degraded version.

        Neither zoom nor colour: shrinking would remove real grain and change the scale of real rain or blur.

        Args:
            pixels: uint8 `[6, H, W]`, the two on top of each other.
            size: Side of the crop; a smaller photo is enlarged.
            generator: Source of all draws.

        Returns:
            float32 `[6, size, size]` in [0, 1].
        """
        side = min(size, *pixels.shape[-2:])
        return self._turned(_resized(_random_crop(pixels, side, generator), size), generator).contiguous()

    def _turned(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not self.flip:
            return image
        draw = int(torch.randint(8, (), generator=generator))
        image = torch.rot90(image, draw % 4, (-2, -1))
        return image.flip(-1) if draw >= 4 else image


def _random_crop(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = pixels.shape[-2:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return pixels[..., top : top + side, left : left + side]


def _resized(pixels: Tensor, size: int) -> Tensor:
    """uint8 `[C, h, w]` as float32 `[C, size, size]` in [0, 1]."""
    image = pixels.float().div_(255)
    if image.shape[-1] == size:
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0].clamp_(0, 1)


def _degrade(hq: Tensor, degradation: Degradation, class_name: str, generator: torch.Generator) -> tuple[Tensor, str]:
    """A degraded crop and its label, which a combination of degradations decides itself."""
    degraded = degradation.degrade(hq[None], [generator])
    return degraded.images[0], degraded.classes[0] or class_name


def _both(photo: CleanPhoto) -> Tensor:
    """A photo's own degraded version and the photo, uint8 `[6, H, W]`."""
    lq, hq = photo.degraded_pixels(), photo.pixels()
    if lq.shape != hq.shape:
        raise DaclipError(
            f"{photo.name}: the degraded version is {lq.shape[2]}×{lq.shape[1]} and the clean one "
            f"{hq.shape[2]}×{hq.shape[1]} pixels; the two must show the same picture"
        )
    return torch.cat([lq, hq])


class PhotoLottery:
    """Draws photos by the square root of their area: large photos have more to show, small ones still count.

    Sizes come from the headers alone. One without a readable header weighs as much as the average, so that training
    meets it and reports it. A draw takes log N comparisons, and there may be any number of photos (`multinomial`
    takes N of them and ends at 2²⁴).

    Args:
        photos: At least one.
    """

    def __init__(self, photos: Sequence[CleanPhoto]):
        areas = [_area(photo) for photo in photos]
        known = [area for area in areas if area]
        average = sum(known) / max(len(known), 1) or 1.0
        self.bounds = torch.tensor([area or average for area in areas], dtype=torch.float64).sqrt().cumsum(0)

    def draw(self, generator: torch.Generator) -> int:
        """Number of a photo."""
        point = torch.rand((), dtype=torch.float64, generator=generator) * self.bounds[-1]
        # The product may be rounded up to the last bound itself.
        return min(int(torch.searchsorted(self.bounds, point, right=True)), len(self.bounds) - 1)


def _area(photo: CleanPhoto) -> float:
    try:
        height, width = photo.size()
    except DamagedPhotoError:
        return 0.0
    return float(height * width)


@dataclass(frozen=True)
class PairMaker:
    """Makes one training sample from one photo.

    Attributes:
        degradations: Word to corruption.
        crop_size: Side of the crops in pixels.
        context_size: Side of the piece that is corrupted before the crop is cut from it. A larger piece shows
            what a part of a photo shows: the inside of a shadow, glass without drops.
        augmentation: Changes of the clean piece.
    """

    degradations: Mapping[str, Degradation]
    crop_size: int
    context_size: int
    augmentation: Augmentation

    def synthesise(self, photo: CleanPhoto, class_name: str, generator: torch.Generator) -> Sample:
        """A crop of the photo under a synthetic degradation."""
        hq = self.augmentation.crop(photo.pixels(), self.context_size, generator)
        lq, label = _degrade(hq, self.degradations[class_name], class_name, generator)
        lq, hq = self._marked_crop(torch.stack([lq, hq]), generator)
        return Sample(lq, hq, photo.caption, label, photo.name)

    def _marked_crop(self, piece: Tensor, generator: torch.Generator) -> Tensor:
        """A crop that shows the corruption, if a few tries find one: beside a hole or between two drops a crop
        looks clean, and the label would be false.

        Args:
            piece: The corrupted and the clean piece, `[2, 3, context_size, context_size]`.
            generator: Source of all draws.
        """
        for _ in range(TRIES):
            crop = _random_crop(piece, self.crop_size, generator)
            if (crop[0] - crop[1]).abs().max() > VISIBLE:
                break
        return crop

    def cut(self, photo: CleanPhoto, generator: torch.Generator) -> Sample:
        """A crop of the photo and of its own degraded version."""
        lq, hq = self.augmentation.crop_pair(_both(photo), self.crop_size, generator).split(3)
        return Sample(lq, hq, photo.caption, photo.class_name, photo.name)


class SyntheticPairs(Dataset[Sample]):
    """Random crops of clean photos, each with a random corruption of a fixed word.

    Sample `index` depends on `(seed, index)` alone, whatever worker or rank makes it, and the words take
    turns, so that every batch is balanced. Photos are drawn as `PhotoLottery` says.

    Args:
        photos: Clean photos.
        maker: Makes a sample from a photo.
        length: Samples of one epoch.
        seed: Changes every draw.
    """

    def __init__(self, photos: Sequence[CleanPhoto], maker: PairMaker, length: int, seed: int):
        self.photos = list(photos)
        self.maker = maker
        self.classes = list(maker.degradations)
        self.length = length
        self.seed = seed
        self.lottery = PhotoLottery(self.photos)

    def __len__(self) -> int:
        """Samples of one epoch; larger indices belong to later epochs."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of the endless stream."""
        return self.make(self.classes[index % len(self.classes)], generator_for(self.seed, index))

    def make(self, class_name: str, generator: torch.Generator) -> Sample:
        """A sample of a word from a photo that the generator draws."""
        photo = self.photos[self.lottery.draw(generator)]
        return self.maker.synthesise(photo, class_name, generator)


class ValidationPairs(Dataset[Sample]):
    """A fixed set: the same crops of every held-out photo, under every word or in its own degraded version.

    Args:
        photos: Held-out photos.
        degradations: Word to corruption, for photos without a degraded version of their own.
        size: Side of the crops in pixels; all crops shrink to the shorter side of the smallest photo.
        crops_per_photo: Crops of each photo.
        seed: Changes every draw.
    """

    def __init__(
        self,
        photos: Sequence[CleanPhoto],
        degradations: Mapping[str, Degradation],
        size: int,
        crops_per_photo: int,
        seed: int,
    ):
        if not photos:
            raise DaclipError("no photo is held out; set data.photos.validation")
        self.photos = list(photos)
        self.degradations = dict(degradations)
        synthetic = vocabulary(self.degradations) if any(not photo.class_name for photo in self.photos) else []
        own = sorted(
            {class_name for photo in self.photos for class_name in split_classes(photo.class_name)} - {"", *synthetic}
        )
        self.classes = [*synthetic, *own]
        self.size = min(size, *(min(photo.size()) for photo in self.photos))
        self.crops_per_photo = crops_per_photo
        self.seed = seed
        # (crop, word's number); -1 is the photo's own degraded version.
        self._entries = [
            (number * crops_per_photo + k, which)
            for number, photo in enumerate(self.photos)
            for k in range(crops_per_photo)
            for which in ([-1] if photo.class_name else range(len(self.degradations)))
        ]

    def __len__(self) -> int:
        """Photos times crops times words; a photo with its own degraded version counts for one word."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        """Pair number `index`; words vary fastest, then crops, then photos."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        crop, which = self._entries[index]
        photo = self.photos[crop // self.crops_per_photo]
        # The crop's own key leaves the word out: every word is shown on the same crop.
        generator = generator_for(self.seed, crop)
        if which < 0:
            lq, hq = _random_crop(_both(photo), self.size, generator).float().div_(255).split(3)
            return Sample(lq, hq, photo.caption, photo.class_name, photo.name)
        class_name = list(self.degradations)[which]
        hq = _random_crop(photo.pixels(), self.size, generator).float().div_(255)
        lq, label = _degrade(hq, self.degradations[class_name], class_name, generator_for(self.seed, crop, which))
        return Sample(lq, hq, photo.caption, label, photo.name)
