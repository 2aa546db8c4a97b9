"""What restoring returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daclip.pixels import Pack


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

    @property
    def degradation(self) -> str:
        """The most likely class."""
        return next(iter(self.probabilities))

    def packed(self, pack: Pack) -> "Restoration":
        """The same with other kinds of pictures."""
        passes = tuple(replace(one, image=pack(one.image)) for one in self.passes)
        return replace(self, image=pack(self.image), samples=tuple(map(pack, self.samples)), passes=passes)


class Restored(Sequence[Restoration]):
    """The results for several photos, in their order."""

    def __init__(self, restorations: Sequence[Restoration]):
        self._restorations = list(restorations)

    def __getitem__(self, index: Any) -> Any:
        return self._restorations[index]

    def __len__(self) -> int:
        return len(self._restorations)

    @property
    def images(self) -> Any:
        """The restored photos: one tensor `[B, C, H, W]` or array `[B, H, W, C]` where they can be stacked."""
        images = [restoration.image for restoration in self._restorations]
        if len({getattr(image, "shape", None) for image in images}) == 1:
            if isinstance(images[0], Tensor):
                return torch.stack(images)
            if isinstance(images[0], np.ndarray):
                return np.stack(images)
        return images

    @property
    def probabilities(self) -> list[dict[str, float]]:
        """For each photo its classes with probabilities, most likely first."""
        return [restoration.probabilities for restoration in self._restorations]

    @property
    def classes(self) -> list[str]:
        """The most likely class of each photo."""
        return [restoration.degradation for restoration in self._restorations]
