"""What comes of restoring photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Restoration", "Restored", "Stopped"]


class Stopped(Exception):  # noqa: N818  it is no error
    """Raised by a caller's `on_progress` to end the work: nobody waits for the result any more."""


@dataclass(frozen=True)
class Restoration:
    """What came of one photo.

    Attributes:
        image: The restored photo, of the kind that was given (Pillow image, array, tensor).
        probabilities: Degradation words with probabilities as recognised, most likely first.
        seed: Seed of the noise.
        seconds: Wall time.
        samples: All restorations if several were asked for; `image` is the first.
        uncertainty: Per-pixel standard deviation over the samples, float32 `[H, W]`, in units of an image in
            [0, 1]; None for a single sample.
        notes: Remarks, such as a word that the restorer did not learn.
    """

    image: Any
    probabilities: dict[str, float]
    seed: int
    seconds: float
    samples: tuple[Any, ...] = ()
    uncertainty: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The most likely degradation word."""
        return next(iter(self.probabilities))


class Restored(Sequence[Restoration]):
    """What came of several photos, in their order."""

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
        """For each photo its degradation words with probabilities, most likely first."""
        return [restoration.probabilities for restoration in self._restorations]

    @property
    def words(self) -> list[str]:
        """The most likely degradation word of each photo."""
        return [restoration.word for restoration in self._restorations]
