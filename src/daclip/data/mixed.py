"""Several sources in one run: which word a sample shows, and whether it is real or synthetic."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.utils.data import Dataset

from daclip.data.pairs import PairMaker, PhotoLottery, Sample, SyntheticPairs
from daclip.data.photos import CleanPhoto, PhotoSource
from daclip.errors import DaclipError
from daclip.rng import generator_for

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Mix:
    """How often a word is shown, and how often as a real pair.

    Attributes:
        weights: Word to relative frequency, one for every word; None shows all words equally often.
        real_share: Share of real pairs, in [0, 1], among the samples of a word that has real pairs and a
            synthetic version.
    """

    weights: Mapping[str, float] | None
    real_share: float

    def __post_init__(self) -> None:
        if not 0 <= self.real_share <= 1:
            raise DaclipError(f"data.mix.real_share must lie in [0, 1], got {self.real_share}")


class ClassSchedule:
    """The word of each sample of an endless stream, a function of its number alone.

    Without weights the words take turns. With weights sample i takes the word into whose part of [0, 1) the
    number frac(i·φ) falls, φ the golden ratio: the best-spread sequence there is, so that every batch keeps the
    proportions and not only their average.

    >>> WordSchedule(["rainy", "snowy"], None).word(7)
    'snowy'
    >>> schedule = WordSchedule(["rainy", "snowy"], {"rainy": 3, "snowy": 1})
    >>> [schedule.word(i) for i in range(64)].count("rainy")
    48

    Args:
        classes: All words.
        weights: Word to relative frequency, at least 0; None for equal turns.

    Raises:
        DaclipError: The weights do not name exactly the words, or none is above 0.
    """

    def __init__(self, classes: Sequence[str], weights: Mapping[str, float] | None):
        self.classes = list(classes)
        self.bounds: list[float] | None = None
        if weights is None:
            return
        if set(weights) != set(classes):
            wrong = sorted(set(weights) ^ set(classes))
            raise DaclipError(f"data.mix.weights must name every word once: {', '.join(classes)}; check {wrong}")
        values = [float(weights[class_name]) for class_name in self.classes]
        if min(values) < 0 or not 0 < sum(values) < math.inf:
            raise DaclipError(f"data.mix.weights must be numbers of at least 0 and not all 0, got {dict(weights)}")
        self.bounds = [bound / sum(values) for bound in accumulate(values)]

    def class_name(self, index: int) -> str:
        """The word of sample `index`."""
        if self.bounds is None:
            return self.classes[index % len(self.classes)]
        place = bisect_right(self.bounds, index * GOLDEN % 1)
        # The last bound may fall short of 1 by rounding.
        return self.classes[min(place, len(self.classes) - 1)]


class MixedPairs(Dataset[Sample]):
    """Real pairs and synthesis in one stream; sample `index` depends on `(seed, index)` alone.

    A photo that comes with a degraded version is shown with it; from the others any word is synthesised.

    Args:
        photos: Clean photos, of which some have a degraded version.
        maker: Makes a sample from a photo.
        mix: How often each word.
        length: Samples of one epoch.
        seed: Changes every draw.
    """

    def __init__(self, photos: Sequence[CleanPhoto], maker: PairMaker, mix: Mix, length: int, seed: int):
        self.maker = maker
        self.real_share = mix.real_share
        self.length = length
        self.seed = seed
        plain = [photo for photo in photos if not photo.class_name]
        self.synthetic = SyntheticPairs(plain, maker, length, seed) if plain else None
        self.real: dict[str, list[CleanPhoto]] = {}
        for photo in photos:
            if photo.class_name:
                self.real.setdefault(photo.class_name, []).append(photo)
        self.lotteries = {class_name: PhotoLottery(found) for class_name, found in self.real.items()}
        classes = [*(self.synthetic.classes if self.synthetic else ()), *sorted(self.real)]
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
        synthetic = self.synthetic if self.synthetic and class_name in self.maker.degradations else None
        real = self.real.get(class_name)
        if real and synthetic and float(torch.rand((), generator=generator)) >= self.real_share:
            real = None
        if not real:
            assert synthetic is not None
            return synthetic.make(class_name, generator)
        photo = real[self.lotteries[class_name].draw(generator)]
        return self.maker.cut(photo, generator)


class MixedPhotos(PhotoSource):
    """The photos of several sources, real pairs among them; each source keeps its own split.

    Args:
        sources: Name to source; the name goes in front of the photos' names.

    Raises:
        DaclipError: There is no source, or one of them streams.
    """

    def __init__(self, sources: Mapping[str, PhotoSource]):
        if not sources:
            raise DaclipError("data.photos.sources is empty: give at least one source of photos")
        for name, source in sources.items():
            if source.streaming:
                raise DaclipError(f"data.photos.sources.{name} streams; only sources with streaming=false can be mixed")
        self.sources = dict(sources)
        self.has_plain = any(source.has_plain for source in sources.values())
        self.classes = list(dict.fromkeys(class_name for source in sources.values() for class_name in source.classes))

    def prepare(self) -> None:
        """Let every source prepare itself."""
        for source in self.sources.values():
            source.prepare()

    def train(self) -> Sequence[CleanPhoto]:
        """Photos to learn from, source by source."""
        return [photo for source in self.sources.values() for photo in source.train()]

    def validation(self) -> Sequence[CleanPhoto]:
        """Photos that training never sees, source by source."""
        return [photo for source in self.sources.values() for photo in source.validation()]
