"""Image files: read, measure and write them safely."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from daclip.errors import DaclipError, DamagedPhotoError

__all__ = [
    "cached_pixels",
    "decode_pixels",
    "encoded_size",
    "find_images",
    "image_size",
    "load_image",
    "save_image",
    "to_pil",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic"})
EXIF_ORIENTATION = 0x0112
LYING_ORIENTATIONS = frozenset({5, 6, 7, 8})  # the camera was turned by 90°


def _register_heic() -> None:
    """Let Pillow read HEIC files where the optional plugin is installed (extra `heic`)."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


_register_heic()


@contextmanager
def _opened(source: Path | BytesIO, name: str | Path) -> Iterator[Image.Image]:
    """An image whose header has been read; whatever is wrong with it becomes one line that names it."""
    if isinstance(source, Path) and not source.exists():
        raise DaclipError(f"{name}: no such file; check the path")
    try:
        with warnings.catch_warnings(), Image.open(source) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield image
    except UnidentifiedImageError:
        raise DamagedPhotoError(f"{name}: not an image file that can be read; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DamagedPhotoError(f"{name}: the image is too large to open safely; scale it down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedPhotoError(f"{name}: the image is damaged ({reason}); remove or replace it") from None


def _rgb(source: Path | BytesIO, name: str | Path) -> Tensor:
    """uint8 `[H, W, 3]`, RGB, with its EXIF orientation applied."""
    with _opened(source, name) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB")))


def _size(source: Path | BytesIO, name: str | Path) -> tuple[int, int]:
    with _opened(source, name) as image:
        width, height = image.size
        # The base class's reader: that of PNG decodes the whole picture to look for a tag behind it.
        orientation = Image.Image.getexif(image).get(EXIF_ORIENTATION)
        # Pillow states the size of a TIFF after turning it.
        lies = orientation in LYING_ORIENTATIONS and image.format != "TIFF"
    return (width, height) if lies else (height, width)


@lru_cache(maxsize=2**17)
def image_size(path: Path) -> tuple[int, int]:
    """Height and width as `load_image` would give them, from the file's header alone.

    Raises:
        DaclipError: The file is missing or its header is not that of an image.
    """
    return _size(path, path)


def encoded_size(content: bytes, name: str) -> tuple[int, int]:
    """`image_size` of an image file's content; `name` is what errors call it."""
    return _size(BytesIO(content), name)


def decode_pixels(content: bytes, name: str) -> Tensor:
    """Decode an image file's content.

    Args:
        content: The bytes of the file.
        name: What errors call it.

    Returns:
        uint8 `[3, H, W]`, RGB.

    Raises:
        DaclipError: The content is damaged or not an image.
    """
    return _rgb(BytesIO(content), name).permute(2, 0, 1).contiguous()


def load_image(path: str | Path) -> Tensor:
    """Read an image file.

    Args:
        path: Any format Pillow reads; gray, palette and alpha images become RGB.

    Returns:
        float32 `[3, H, W]`, RGB in [0, 1].

    Raises:
        DaclipError: The file is missing, damaged or not an image.
    """
    return _rgb(Path(path), path).permute(2, 0, 1).float().div_(255)


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


@lru_cache(maxsize=64)
def cached_pixels(path: Path) -> Tensor:
    """The decoded photo, uint8 `[3, H, W]`; the last 64 stay in memory because crops revisit photos."""
    return _rgb(path, path).permute(2, 0, 1).contiguous()
