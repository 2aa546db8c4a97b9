"""Load and save image files; sources of clean photos split by photo into train and held-out."""

import hashlib
import os
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from daclip.data.captions import CaptionFile, embedded_captions
from daclip.errors import DaclipError

__all__ = [
    "EmbeddedPhotos",
    "Photo",
    "PhotoFolder",
    "PhotoSource",
    "find_images",
    "load_image",
    "save_image",
    "to_pil",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic"})


@dataclass(frozen=True)
class Photo:
    """One clean photo on disk.

    Attributes:
        name: Unique within its source; stays the same across runs.
        path: The image file.
        caption: What it shows; empty if unknown.
    """

    name: str
    path: Path
    caption: str = ""


def _register_heic() -> None:
    """Let Pillow read HEIC files where the optional plugin is installed (extra `heic`)."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


_register_heic()


def _read_rgb(path: Path) -> np.ndarray:
    """The file as uint8 `[H, W, 3]` RGB with its EXIF orientation applied."""
    if not path.exists():
        raise DaclipError(f"{path}: no such file; check the path")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise DaclipError(f"{path}: not an image file that can be read; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DaclipError(f"{path}: the image is too large to open safely; scale it down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DaclipError(f"{path}: the image is damaged ({reason}); remove or replace it") from None


def load_image(path: str | Path) -> Tensor:
    """Read an image file.

    Args:
        path: Any format Pillow reads; gray, palette and alpha images become RGB.

    Returns:
        float32 `[3, H, W]`, RGB in [0, 1].

    Raises:
        DaclipError: The file is missing, damaged or not an image.
    """
    return torch.from_numpy(_read_rgb(Path(path))).permute(2, 0, 1).float().div_(255)


def to_pil(image: Tensor) -> Image.Image:
    """Round `[3, H, W]` in [0, 1] to an 8-bit RGB picture; values outside are clipped."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def save_image(image: Tensor | Image.Image, path: str | Path) -> None:
    """Write an image so that a reader sees the whole file or none.

    Args:
        image: `[3, H, W]` in [0, 1], or a Pillow image.
        path: The suffix decides the format. The folder is made if missing.

    Raises:
        DaclipError: The folder cannot be written or the suffix is not a known image format.
    """
    path = Path(path)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    if path.suffix.lower() not in Image.registered_extensions():
        raise DaclipError(f"{path}: '{path.suffix}' is no image format; use .png or .jpg")
    options = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg", ".webp"} else {}
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=path.suffix, prefix=".daclip-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            picture.save(file, format=Image.registered_extensions()[path.suffix.lower()], **options)
        # mkstemp makes the file private; a saved picture follows the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DaclipError(f"{path}: cannot be written ({error.strerror or error})") from None


def find_images(root: str | Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files are left out.

    Raises:
        DaclipError: The folder does not exist or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise DaclipError(f"{root}: no such folder; check the path")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DaclipError(f"{root}: the folder holds no images (looked for {kinds})")
    return found


class PhotoSource(ABC):
    """Clean photos with a fixed split by photo, never by crop."""

    @abstractmethod
    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""

    @abstractmethod
    def held_out(self) -> Sequence[Photo]:
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


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


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
        if not 0 < held_out < 1:
            raise DaclipError(f"data.photos.held_out must be a share between 0 and 1, got {held_out}")
        root = Path(root)
        paths = find_images(root)
        if len(paths) < 2:
            raise DaclipError(f"{root}: one photo cannot be split into train and held-out; add more photos")
        texts = CaptionFile(captions) if captions else None
        photos = []
        for path in paths:
            name = path.relative_to(root).as_posix()
            photos.append(Photo(name, path, texts.get(name) if texts else CaptionFile.sidecar(path)))
        ordered = sorted(photos, key=lambda photo: _fraction(photo.name))
        count = sum(_fraction(photo.name) < held_out for photo in photos)
        chosen = {photo.name for photo in ordered[: min(max(count, 1), len(photos) - 1)]}
        self._train = [photo for photo in photos if photo.name not in chosen]
        self._held_out = [photo for photo in photos if photo.name in chosen]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def held_out(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._held_out


@lru_cache(maxsize=64)
def cached_pixels(path: Path) -> Tensor:
    """The decoded photo, uint8 `[3, H, W]`; the last 64 stay in memory because crops revisit photos."""
    return torch.from_numpy(_read_rgb(path)).permute(2, 0, 1).contiguous()
