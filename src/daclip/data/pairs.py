"""Training and validation pairs: crops of clean photos, degraded or real, as a function of a number."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from daclip.data.photos import CleanPhoto
from daclip.data.selection import by_class
from daclip.degradations import Degradation
from daclip.degradations.base import split_classes, vocabulary
from daclip.degradations.clean import Clean
from daclip.degradations.draws import uniform
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.pixels import LUMA
from daclip.rng import generator_for
from daclip.types import RestorationBatch

TRIES = 8  # crops until one shows the degradation
VISIBLE = 4 / 255  # largest difference from which a degradation counts as shown
GOLDEN = (math.sqrt(5) - 1) / 2
MOST_LEAVES = 4  # pieces laid over one crop


def lay(piece: Tensor, ground: Tensor, generator: torch.Generator) -> Tensor:
    """Lay a random half-plane, ellipse or rectangle of one image over another, both float32 `[3, H, W]` in [0, 1], edge
    one pixel soft. New edges keep few photos fresh (dead leaves: Lee et al. 2001; Achddou et al. 2021)."""
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


def random_crop(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square crop at a random place of `[..., H, W]`."""
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


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the clean photo before it is degraded. `zoom` is the range of the factor by which a crop is
    shrunk, drawn log-uniformly: 1 keeps the photo's resolution, 0.5 shows twice as much of the scene."""

    zoom: tuple[float, float]
    colour: float  # strength of the random gain per channel and of the random gamma; 0 leaves colours alone
    flip: bool  # mirror and turn by multiples of 90°
    permute: float = 0.0  # share of crops whose colour channels change places
    gray: float = 0.0  # share of crops without colours
    collage: float = 0.0  # share of crops over which further pieces of the photo are laid, see `lay`
    traces: Degradation | None = None  # what is left on a photo without harm, such as faint JPEG
    trace_share: float = 0.0  # of crops with traces, and of degraded photos with more of them

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            low, high = self.zoom
            raise DaclipError(f"data.augmentation.zoom must be [LOW, HIGH] with 0 < LOW <= HIGH, got [{low}, {high}]")

    def crop(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and change one crop: uint8 `[3, H, W]` → float32 `[3, size, size]` in [0, 1]."""
        image = self._piece(pixels, size, generator)
        if self.collage and uniform(0, 1, generator) < self.collage:
            for _ in range(int(torch.randint(1, MOST_LEAVES + 1, (), generator=generator))):
                image = lay(self._piece(pixels, size, generator), image, generator)
        if self.gray and uniform(0, 1, generator) < self.gray:
            image = (image * LUMA).sum(0, keepdim=True).expand(3, -1, -1)
        return self.traced(image.contiguous(), generator)

    def traced(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The image `[3, H, W]`, for a share of them with traces."""
        if self.traces is None or uniform(0, 1, generator) >= self.trace_share:
            return image
        return self.traces(image[None], [generator])[0]

    def _piece(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        shorter = min(pixels.shape[-2:])
        low, high = np.log(self.zoom[0]), np.log(self.zoom[1])
        side = min(shorter, round(size / float(np.exp(uniform(low, high, generator)))))
        image = self._turned(_resized(random_crop(pixels, side, generator), size), generator)
        if self.permute and uniform(0, 1, generator) < self.permute:
            image = image[torch.randperm(3, generator=generator)]
        if self.colour:
            gain = 1 + self.colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
            gamma = float(np.exp(self.colour * uniform(-1, 1, generator)))
            image = image.pow(gamma).mul_(gain).clamp_(0, 1)
        return image

    def crop_pair(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and turn a crop of a photo and its degraded version, uint8 `[6, H, W]` → float32 `[6, size, size]`,
        enlarging smaller photos. No colour, no zoom, which would remove real grain and rescale real rain."""
        side = min(size, *pixels.shape[-2:])
        return self._turned(_resized(random_crop(pixels, side, generator), size), generator).contiguous()

    def _turned(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not self.flip:
            return image
        draw = int(torch.randint(8, (), generator=generator))
        image = torch.rot90(image, draw % 4, (-2, -1))
        return image.flip(-1) if draw >= 4 else image


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
    """Draws photos by the square root of their area, which their headers tell: large ones have more to show. One
    without a readable header weighs as the average, so training reports it. `multinomial` would end at 2²⁴ photos."""

    def __init__(self, photos: Sequence[CleanPhoto]):
        areas = []
        for photo in photos:
            try:
                areas.append(float(math.prod(photo.size())))
            except DamagedPhotoError:
                areas.append(0.0)
        known = [area for area in areas if area]
        average = sum(known) / max(len(known), 1) or 1.0
        self.bounds = torch.tensor([area or average for area in areas], dtype=torch.float64).sqrt().cumsum(0)

    def draw(self, generator: torch.Generator) -> int:
        """Number of a photo."""
        point = torch.rand((), dtype=torch.float64, generator=generator) * self.bounds[-1]
        # The product may be rounded up to the last bound itself.
        return min(int(torch.searchsorted(self.bounds, point, right=True)), len(self.bounds) - 1)


@dataclass(frozen=True)
class PairMaker:
    """Makes one training sample from one photo. The crop is cut from a larger degraded piece of side `context_size`, so
    it shows what a part of a photo shows, such as the inside of a shadow or glass without drops."""

    degradations: Mapping[str, Degradation]
    crop_size: int
    context_size: int
    augmentation: Augmentation

    def synthesise(self, photo: CleanPhoto, class_name: str, generator: torch.Generator) -> Sample:
        """A crop of the photo under a synthetic degradation."""
        hq = self.augmentation.crop(photo.pixels(), self.context_size, generator)
        degradation = self.degradations[class_name]
        if isinstance(degradation, Clean):
            crop = random_crop(hq, self.crop_size, generator)
            return Sample(crop, crop.clone(), photo.caption, class_name, photo.name)
        lq, label = _degrade(hq, degradation, class_name, generator)
        piece = torch.stack([lq, hq])
        for _ in range(TRIES):  # beside a hole or between two drops a crop looks clean, and the label would be false
            crop = random_crop(piece, self.crop_size, generator)
            if (crop[0] - crop[1]).abs().max() > VISIBLE:
                break
        return Sample(self.augmentation.traced(crop[0], generator), crop[1], photo.caption, label, photo.name)

    def cut(self, photo: CleanPhoto, generator: torch.Generator) -> Sample:
        """A crop of the photo and of its own degraded version."""
        lq, hq = self.augmentation.crop_pair(_both(photo), self.crop_size, generator).split(3)
        return Sample(lq, hq, photo.caption, photo.class_name, photo.name)


@dataclass(frozen=True)
class Mix:
    """How often a class is shown, and how often as a real pair."""

    weights: Mapping[str, float] | None  # every class to its relative frequency; None shows all equally often
    real_share: float  # of real pairs, in [0, 1], for classes that also have a synthetic version

    def __post_init__(self) -> None:
        if not 0 <= self.real_share <= 1:
            raise DaclipError(f"data.mix.real_share must lie in [0, 1], got {self.real_share}")


class ClassSchedule:
    """The class of each sample of an endless stream, a function of its number alone: in turns; or, with weights, that
    in whose part of [0, 1) frac(i·φ) lies, φ the golden ratio, so that every batch keeps the proportions.
    >>> ClassSchedule(["rainy", "snowy"], None).class_name(7)
    'snowy'
    >>> schedule = ClassSchedule(["rainy", "snowy"], {"rainy": 3, "snowy": 1})
    >>> [schedule.class_name(i) for i in range(64)].count("rainy")
    48
    """

    def __init__(self, classes: Sequence[str], weights: Mapping[str, float] | None):
        self.classes = list(classes)
        self.bounds: list[float] | None = None
        if weights is None:
            return
        if set(weights) != set(classes):
            wrong = sorted(set(weights) ^ set(classes))
            raise DaclipError(f"data.mix.weights must name every class once: {', '.join(classes)}; check {wrong}")
        values = [float(weights[class_name]) for class_name in self.classes]
        if min(values) < 0 or not 0 < sum(values) < math.inf:
            raise DaclipError(f"data.mix.weights must be numbers of at least 0 and not all 0, got {dict(weights)}")
        self.bounds = [bound / sum(values) for bound in accumulate(values)]

    def class_name(self, index: int) -> str:
        """The class of sample `index`."""
        if self.bounds is None:
            return self.classes[index % len(self.classes)]
        place = bisect_right(self.bounds, index * GOLDEN % 1)
        return self.classes[min(place, len(self.classes) - 1)]  # the last bound may fall short of 1 by rounding


class TrainingPairs(Dataset[Sample]):
    """Random crops of clean photos in one endless stream, with the photo's own degraded version or else one of any
    class. Sample `index` depends on `(seed, index)` alone, whatever worker or rank makes it."""

    def __init__(self, photos: Sequence[CleanPhoto], maker: PairMaker, mix: Mix, length: int, seed: int):
        self.maker, self.real_share, self.length, self.seed = maker, mix.real_share, length, seed
        self.plain = [photo for photo in photos if not photo.class_name]
        self.real = by_class(photo for photo in photos if photo.class_name)
        self.plain_lottery = PhotoLottery(self.plain) if self.plain else None
        self.lotteries = {class_name: PhotoLottery(found) for class_name, found in self.real.items()}
        classes = [*(maker.degradations if self.plain else ()), *sorted(self.real)]
        self.schedule = ClassSchedule(list(dict.fromkeys(classes)), mix.weights)

    @property
    def classes(self) -> list[str]:
        """What takes turns: labels of real pairs and names of degradations."""
        return self.schedule.classes

    def __len__(self) -> int:
        """Samples of one epoch; larger indices belong to later epochs."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of the endless stream."""
        generator = generator_for(self.seed, index)
        class_name = self.schedule.class_name(index)
        synthetic = self.plain_lottery if class_name in self.maker.degradations else None
        real = self.real.get(class_name)
        if real and synthetic and float(torch.rand((), generator=generator)) >= self.real_share:
            real = None
        if real:
            return self.maker.cut(real[self.lotteries[class_name].draw(generator)], generator)
        assert synthetic is not None
        return self.maker.synthesise(self.plain[synthetic.draw(generator)], class_name, generator)


class ValidationPairs(Dataset[Sample]):
    """A fixed set: the same crops of side `size` of every validation photo, under every class or in its own degraded
    version. With `whole`, photos with a degraded version of their own are shown once each and uncut, as published
    scores are measured."""

    def __init__(
        self,
        photos: Sequence[CleanPhoto],
        degradations: Mapping[str, Degradation],
        size: int,
        crops: int,
        seed: int,
        whole: bool = False,
    ):
        if not photos:
            raise DaclipError("there is no validation photo; set data.photos.validation")
        self.photos = list(photos)
        self.degradations = dict(degradations)
        synthetic = vocabulary(self.degradations) if any(not photo.class_name for photo in self.photos) else []
        own = {class_name for photo in self.photos for class_name in split_classes(photo.class_name)}
        self.classes = [*synthetic, *sorted(own - {"", *synthetic})]
        self.size, self.crops, self.seed, self.whole = size, crops, seed, whole
        self._entries = [  # (crop, number of the class); -1 is the photo's own degraded version
            (number * crops + k, which)
            for number, photo in enumerate(self.photos)
            for k in range(1 if self._uncut(photo) else crops)
            for which in ([-1] if photo.class_name else range(len(self.degradations)))
        ]

    def __len__(self) -> int:
        """Photos times crops times classes; a photo with its own degraded version counts for one class."""
        return len(self._entries)

    def _uncut(self, photo: CleanPhoto) -> bool:
        return self.whole and bool(photo.class_name)

    def batches(self, most: int) -> list[list[int]]:
        """The numbers of all pairs in order: neighbours of equal size together, at most `most` of them."""
        photos = [self.photos[crop // self.crops] for crop, _ in self._entries]
        sizes = [photo.size() if self._uncut(photo) else (self.size, self.size) for photo in photos]
        runs = [list(run) for _, run in groupby(range(len(sizes)), sizes.__getitem__)]
        return [run[first : first + most] for run in runs for first in range(0, len(run), most)]

    def __getitem__(self, index: int) -> Sample:
        """Pair number `index`; classes vary fastest, then crops, then photos."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        crop, which = self._entries[index]
        photo = self.photos[crop // self.crops]
        try:
            return self._sample(photo, crop, which)
        except DamagedPhotoError as error:
            raise DaclipError(f"{error}; scores are measured on it, so data.max_damaged does not cover it") from None

    def _sample(self, photo: CleanPhoto, crop: int, which: int) -> Sample:
        # The crop's own key leaves the class out: every class is shown on the same crop.
        generator = generator_for(self.seed, crop)
        if which < 0:
            both = _both(photo)
            shown = both if self.whole else random_crop(both, self.size, generator)
            lq, hq = shown.float().div_(255).split(3)
            return Sample(lq, hq, photo.caption, photo.class_name, photo.name)
        class_name = list(self.degradations)[which]
        hq = random_crop(photo.pixels(), self.size, generator).float().div_(255)
        lq, label = _degrade(hq, self.degradations[class_name], class_name, generator_for(self.seed, crop, which))
        return Sample(lq, hq, photo.caption, label, photo.name)
