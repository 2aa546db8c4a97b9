"""Sources of clean photos, split by photo into train and held-out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from daclip.errors import DaclipError
from daclip.images import cached_pixels, image_size


class CleanPhoto(Protocol):
    """What pairs are made from: one clean photo, which may come with its own degraded version.

    Attributes:
        name: Unique within its source; stays the same across runs.
        caption: What it shows; empty if unknown.
        class_name: The degradation of its own degraded version; empty where there is none.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def caption(self) -> str: ...  # noqa: D102

    @property
    def class_name(self) -> str: ...  # noqa: D102

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB; do not change it, it may be shared."""

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, as `pixels`; only where `word` is not empty."""


@dataclass(frozen=True)
class Photo:
    """A clean photo on disk, see `CleanPhoto`.

    Attributes:
        name: Unique within its source; stays the same across runs.
        path: The image file.
        caption: What it shows; empty if unknown.
        class_name: The degradation of `degraded`; empty where there is none.
        degraded: The file of its own degraded version.
    """

    name: str
    path: Path
    caption: str = ""
    class_name: str = ""
    degraded: Path | None = None

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""
        return image_size(self.path)

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB."""
        return cached_pixels(self.path)

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, uint8 `[3, H, W]`, RGB."""
        assert self.degraded is not None
        return cached_pixels(self.degraded)


class PhotoSource(ABC):
    """Clean photos with a fixed split by photo, never by crop.

    Attributes:
        has_plain: Whether there are photos without a degraded version of their own, to synthesise from.
        classes: Degradations of the photos that come with a degraded version.
        streaming: Whether training photos are read in passing (`daclip.data.stream`) instead of listed by `train`.
    """

    has_plain: bool = True
    classes: Sequence[str] = ()
    streaming: bool = False

    def prepare(self) -> object:
        """Whatever takes long and is needed once, such as captions; one process of several calls it first."""
        return None

    @abstractmethod
    def train(self) -> Sequence[CleanPhoto]:
        """Photos to learn from."""

    @abstractmethod
    def validation(self) -> Sequence[CleanPhoto]:
        """Photos that training never sees."""


def name_fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def validation_names(names: Iterable[str], share: float) -> set[str]:
    """The photos that training never sees: those whose name's hash falls below the share.

    Both sides get at least one photo; beyond that, adding photos moves none from one side to the other.

    Args:
        names: Names of photos; of less than two different ones none is held out.
        share: Expected share of held-out photos, in (0, 1).

    Raises:
        DaclipError: The share is not in (0, 1).

    >>> sorted(validation_names(["a", "b", "c", "d", "e"], 0.2))
    ['c', 'd']
    """
    if not 0 < share < 1:
        raise DaclipError(f"data.photos.validation must be a share between 0 and 1, got {share}")
    ordered = sorted(set(names), key=name_fraction)
    count = sum(name_fraction(name) < share for name in ordered)
    return set(ordered[: min(max(count, 1), max(len(ordered) - 1, 0))])
