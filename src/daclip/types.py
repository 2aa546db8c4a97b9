"""The records that rooms hand to each other: batches of photos, DA-CLIP's embeddings of them, results of restoring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class RestorationBatch:
    """Degraded photos `lq` and clean `hq`, float32 `[B, 3, H, W]`, RGB in [0, 1], with texts for each. `caption` is
    empty where none is known, `degradation` a class such as `"rainy"`, `name` the photo a sample comes from."""

    lq: Tensor
    hq: Tensor
    caption: list[str]
    degradation: list[str]
    name: list[str]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.lq)


@dataclass
class Conditioning:
    """DA-CLIP's embeddings of degraded photos (not normalised); None leaves a part out, zeros mean "not known".
    `content` `[B, D]` is what the clean photo would have, `degradation` `[B, D]` that of the degradation, `patches`
    `[B, N, D]` the content tower's patch tokens in the same space. Networks learn zeros by conditioning drop-out."""

    content: Tensor | None = None
    degradation: Tensor | None = None
    patches: Tensor | None = None

    def kept(self, keep: Tensor | float) -> "Conditioning":
        """The embeddings where `keep`, `[B]` or one value for all photos, is 1, and zeros where it is 0."""

        def one(value: Tensor) -> Tensor:
            return value * (keep.to(value).view(-1, *[1] * (value.ndim - 1)) if isinstance(keep, Tensor) else keep)

        return _joined([self], lambda values: one(values[0]))

    def rows(self, indices: list[int]) -> "Conditioning":
        """The embeddings of some photos, in that order, repeated where an index is."""
        return _joined([self], lambda values: values[0][indices])

    @staticmethod
    def stacked(parts: "Sequence[Conditioning]") -> "Conditioning":
        """The embeddings of several batches as one."""
        return _joined(parts, torch.cat)


def _joined(parts: Sequence[Conditioning], join: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    found = {one.name: [getattr(part, one.name) for part in parts] for one in fields(Conditioning)}
    return Conditioning(**{name: None if values[0] is None else join(values) for name, values in found.items()})


@dataclass(frozen=True)
class Pass:
    """One of several repairs in turn."""

    degradation: str
    confidence: float  # of recognition, before the pass
    image: Any  # after it


@dataclass(frozen=True)
class Restoration:
    """The result for one photo."""

    image: Any  # the restored photo, of the kind that was given (Pillow image, array, tensor; Pillow for a path)
    probabilities: dict[str, float]  # recognised classes, most likely first
    seed: int
    seconds: float  # wall time
    samples: tuple[Any, ...] = ()  # all restorations if several were asked for; `image` is the first
    # Per-pixel standard deviation over the samples, float32 `[H, W]`, in units of an image in [0, 1].
    uncertainty: np.ndarray | None = None
    notes: tuple[str, ...] = ()  # such as a class that the restorer did not learn
    repaired: tuple[str, ...] = ()  # classes that an instruction let be repaired
    left: tuple[str, ...] = ()  # classes that it let be, though they were recognised or named
    shares: dict[str, float] = field(default_factory=dict)  # of the change, if it asked for less than all
    network: str | None = None  # of others, where one restored the photo: its architecture and file
    passes: tuple[Pass, ...] = ()  # where several were asked for
    share: float = 1.0  # of the change wanted, as certainty allowed it; of several samples in the first

    @property
    def degradation(self) -> str:
        """The most likely class."""
        return next(iter(self.probabilities))

    def packed(self, pack: Callable[[Any], Any]) -> "Restoration":
        """The same with other kinds of pictures."""
        passes = tuple(replace(one, image=pack(one.image)) for one in self.passes)
        return replace(self, image=pack(self.image), samples=tuple(map(pack, self.samples)), passes=passes)


class Restored(tuple[Restoration, ...]):
    """The results for several photos, in their order."""

    @property
    def images(self) -> Any:
        """The restored photos: one tensor `[B, C, H, W]` or array `[B, H, W, C]` where they can be stacked."""
        images = [one.image for one in self]
        if len({getattr(image, "shape", None) for image in images}) == 1:
            if isinstance(images[0], Tensor):
                return torch.stack(images)
            if isinstance(images[0], np.ndarray):
                return np.stack(images)
        return images

    @property
    def probabilities(self) -> list[dict[str, float]]:
        """For each photo its classes with probabilities, most likely first."""
        return [one.probabilities for one in self]

    @property
    def classes(self) -> list[str]:
        """The most likely class of each photo."""
        return [one.degradation for one in self]
