"""Sources of clean photos, split by photo into train and held-out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from daclip.data.captions import CaptionFile, embedded_captions
from daclip.data.images import cached_pixels, find_images, image_size, load_image, save_image, to_pil
from daclip.errors import DaclipError

__all__ = [
    "CleanPhoto",
    "EmbeddedPhotos",
    "Photo",
    "PhotoFolder",
    "PhotoSource",
    "find_images",
    "held_out_names",
    "load_image",
    "name_fraction",
    "save_image",
    "to_pil",
]


class CleanPhoto(Protocol):
    """What pairs are made from: one clean photo, which may come with its own degraded version.

    Attributes:
        name: Unique within its source; stays the same across runs.
        caption: What it shows; empty if unknown.
        word: The degradation of its own degraded version; empty where there is none.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def caption(self) -> str: ...  # noqa: D102

    @property
    def word(self) -> str: ...  # noqa: D102

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
        word: The degradation of `degraded`; empty where there is none.
        degraded: The file of its own degraded version.
    """

    name: str
    path: Path
    caption: str = ""
    word: str = ""
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
        words: Degradations of the photos that come with a degraded version.
        streaming: Whether training photos are read in passing (`daclip.data.stream`) instead of listed by `train`.
    """

    has_plain: bool = True
    words: Sequence[str] = ()
    streaming: bool = False

    def prepare(self) -> object:
        """Whatever takes long and is needed once, such as captions; one process of several calls it first."""
        return None

    @abstractmethod
    def train(self) -> Sequence[CleanPhoto]:
        """Photos to learn from."""

    @abstractmethod
    def held_out(self) -> Sequence[CleanPhoto]:
        """Photos that training never sees."""


class EmbeddedPhotos(PhotoSource):
    """The colour photographs inside scikit-image's wheel: no download needed.

    Two views of one motorcycle are one scene, so they are on the same side of the split.

    Args:
        held_out: File names of the photos that training never sees.
    """

    def __init__(self, held_out: Sequence[str]):
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        captions = embedded_captions()
        unknown = sorted(set(held_out) - set(captions))
        if unknown:
            raise DaclipError(f"no embedded photo is called {unknown}; choose from {sorted(captions)}")
        photos = [Photo(Path(name).stem, folder / name, caption) for name, caption in captions.items()]
        self._train = [photo for photo in photos if photo.path.name not in held_out]
        self._held_out = [photo for photo in photos if photo.path.name in held_out]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def held_out(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._held_out


def name_fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def held_out_names(names: Iterable[str], share: float) -> set[str]:
    """The photos that training never sees: those whose name's hash falls below the share.

    Both sides get at least one photo; beyond that, adding photos moves none from one side to the other.

    Args:
        names: Names of photos; of less than two different ones none is held out.
        share: Expected share of held-out photos, in (0, 1).

    Raises:
        DaclipError: The share is not in (0, 1).

    >>> sorted(held_out_names(["a", "b", "c", "d", "e"], 0.2))
    ['c', 'd']
    """
    if not 0 < share < 1:
        raise DaclipError(f"data.photos.held_out must be a share between 0 and 1, got {share}")
    ordered = sorted(set(names), key=name_fraction)
    count = sum(name_fraction(name) < share for name in ordered)
    return set(ordered[: min(max(count, 1), max(len(ordered) - 1, 0))])


class PhotoFolder(PhotoSource):
    """Every image file below a folder of the user's.

    A photo is held out by the hash of its relative path, so that adding photos later moves none from
    one side to the other.

    Args:
        root: The folder; searched recursively.
        held_out: Share of photos that training never sees, in (0, 1); at least one photo.
        captions: A csv or jsonl file of captions; None reads a `.txt` file beside a photo where present.

    Raises:
        DaclipError: The folder is missing, holds no images, or fewer than two.
    """

    def __init__(self, root: str | Path | None, held_out: float, captions: str | Path | None = None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        root = Path(root)
        paths = find_images(root)
        chosen = held_out_names((path.relative_to(root).as_posix() for path in paths), held_out)
        if not chosen:
            raise DaclipError(f"{root}: one photo cannot be split into train and held-out; add more photos")
        texts = CaptionFile(captions) if captions else None
        photos = []
        for path in paths:
            name = path.relative_to(root).as_posix()
            photos.append(Photo(name, path, texts.get(name) if texts else CaptionFile.sidecar(path)))
        self._train = [photo for photo in photos if photo.name not in chosen]
        self._held_out = [photo for photo in photos if photo.name in chosen]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def held_out(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._held_out
