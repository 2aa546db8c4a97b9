"""The one reader and writer of image files: tensors for training, whole photo files for restoring."""

import io
import struct
import tempfile
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import kornia_rs.io
import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from daclip.errors import DaclipError, DamagedPhotoError
from daclip.files import one_line, write_bytes
from daclip.pixels import Pixels

# Suffix → Pillow's format.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".heic": "HEIF",
}

# Pillow's options where the format loses pixels, or is large without them.
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "HEIF": {"quality": 95},
    "TIFF": {"compression": "tiff_deflate"},
}

ORIENTATION, WIDTH_TAG, HEIGHT_TAG, EXIF_FOLDER, GPS_FOLDER = 0x0112, 0xA002, 0xA003, 0x8769, 0x8825

# Description, make, model, resolution, software, date, artist, copyright.
CAMERA_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)


with suppress(ImportError):  # the extra `heic`
    from pillow_heif import register_heif_opener

    register_heif_opener()


# Reading


@contextmanager
def _opened(source: Path | bytes, name: str | Path) -> Iterator[Image.Image]:
    """An image whose header has been read; whatever is wrong with it becomes one line that names it."""
    if isinstance(source, Path) and not source.is_file():
        raise DaclipError(f"{name}: no such file; check the path")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it repairs by itself, and between one and two times its limit of pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except DaclipError:
        raise
    except UnidentifiedImageError:
        raise DamagedPhotoError(f"{name}: not an image file that can be read; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DamagedPhotoError(
            f"{name}: more than {most} million pixels are not opened for safety; scale it down"
        ) from None
    except MemoryError:
        raise DaclipError(f"{name}: there is not enough memory to decode it; scale it down first") from None
    except Exception as error:
        # Decoders of damaged files raise whatever they stumble over: struct.error, IndexError, zlib.error, …
        raise DamagedPhotoError(f"{name}: the image is damaged ({one_line(error)}); remove or replace it") from None


def _orientation(image: Image.Image, header: bool = False) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        # Pillow decodes a whole PNG to look for a block behind its pixels; the header alone is enough for a size.
        exif = Image.Image.getexif(image) if header else image.getexif()
        value = exif.get(ORIENTATION, 1)
    except Exception:  # damaged blocks raise anything
        return 1
    return value if value in range(1, 9) else 1


def _rgb(source: Path | bytes, name: str | Path) -> Tensor:
    """uint8 `[3, H, W]`, RGB, upright."""
    with _opened(source, name) as image:
        values = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return torch.from_numpy(values).permute(2, 0, 1)


def _size(source: Path | bytes, name: str | Path) -> tuple[int, int]:
    with _opened(source, name) as image:
        width, height = image.size
        # The camera was turned by 90°. Pillow states the size of a TIFF after turning it.
        lies = _orientation(image, header=True) >= 5 and image.format != "TIFF"
    return (width, height) if lies else (height, width)


@lru_cache(maxsize=2**17)
def image_size(path: Path) -> tuple[int, int]:
    """Height and width as `load_image` would give them, from the file's header alone."""
    return _size(path, path)


def encoded_size(content: bytes, name: str) -> tuple[int, int]:
    """`image_size` of an image file's content; `name` is what errors call it."""
    return _size(content, name)


def decode_pixels(content: bytes, name: str) -> Tensor:
    """uint8 `[3, H, W]`, RGB, of an image file's content; `name` is what errors call it."""
    return _rgb(content, name).contiguous()


def load_image(path: str | Path) -> Tensor:
    """float32 `[3, H, W]` in [0, 1] of an image file; gray, palette and alpha images become RGB."""
    return _rgb(Path(path), path).float().div_(255)


class PixelCache:
    """The last used decoded photos, up to `limit` bytes in all, for crops that revisit photos."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._photos: OrderedDict[Path, Tensor] = OrderedDict()

    def __call__(self, path: Path) -> Tensor:
        """The decoded photo, uint8 `[3, H, W]`."""
        if path in self._photos:
            self._photos.move_to_end(path)
            return self._photos[path]
        photo = _rgb(path, path).contiguous()
        self._photos[path] = photo
        self.size += photo.nbytes
        while self.size > self.limit:
            self.size -= self._photos.popitem(last=False)[1].nbytes
        return photo


cached_pixels = PixelCache(512 * 2**20)


# Whole photo files


@dataclass(frozen=True)
class PhotoFile:
    """The content of a photo file."""

    pixels: Pixels  # upright
    exif: bytes | None = None  # without the orientation, which is applied
    icc: bytes | None = None  # the colour profile of the pixels as they are
    notes: tuple[str, ...] = ()  # remarks for the user: frames left out, colours converted


def read_photo(path: str | Path) -> PhotoFile:
    """Read a photo in its own depth, with its EXIF block and colour profile. Palettes become RGB; CMYK becomes sRGB
    through its profile; of several frames the first is taken."""
    path, notes = Path(path), []
    with _opened(path, path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"the first of {frames} frames is restored")
            image.seek(0)
        # Pillow turns a TIFF while it decodes it, and other formats may hold the block behind their pixels.
        before = _orientation(image)
        image.load()
        icc = image.info.get("icc_profile") or None
        orientation = before if before > 1 else _orientation(image)
        exif = _exif(image, orientation, notes)
        deep = _deep_colour(image, path, notes)
        if deep is not None:
            return PhotoFile(_upright(deep, orientation), exif, icc, tuple(notes))
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("CMYK", "LAB"):
            converted = _to_srgb(upright, icc)
            notes.append(f"{image.mode} became sRGB" + (" without a colour profile" if converted is None else ""))
            upright, icc = converted or upright.convert("RGB"), None
        try:
            pixels = Pixels.from_pil(upright)
        except DaclipError as error:
            raise DaclipError(f"{path}: {error}") from None
    # Bytes 16 to 20 of a profile's header name the colour space of its pixels.
    if icc is not None and icc[16:20] != (b"GRAY" if pixels.gray else b"RGB "):
        notes.append("its colour profile does not belong to such pixels and is left out")
        icc = None
    return PhotoFile(pixels, exif, icc, tuple(notes))


def photo_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height as stored, from the header alone; None for what `read_photo` refuses at once."""
    try:
        with _opened(Path(path), path) as image:
            return image.size
    except DaclipError:
        return None


def _exif(image: Image.Image, orientation: int, notes: list[str]) -> bytes | None:
    """The EXIF block as it will be written."""
    try:
        exif = image.getexif()
        folders = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_FOLDER, GPS_FOLDER)}
        camera = folders[EXIF_FOLDER]
        if orientation >= 5 and WIDTH_TAG in camera and HEIGHT_TAG in camera:
            camera[WIDTH_TAG], camera[HEIGHT_TAG] = camera[HEIGHT_TAG], camera[WIDTH_TAG]
        kept = Image.Exif()
        # Not everything: the other tags of a TIFF say where its strips lie, and the result has strips of its own.
        kept.update({tag: exif[tag] for tag in CAMERA_TAGS if tag in exif})
        kept.update({tag: folder for tag, folder in folders.items() if folder})
        return kept.tobytes() if len(kept) else None
    except Exception:
        # As with pixels, a damaged block raises anything; the photo is worth more than its block.
        notes.append("its EXIF block is damaged and is left out")
        return None


def _deep_colour(image: Image.Image, path: Path, notes: list[str]) -> Pixels | None:
    """Pixels of a file with 16 bits a colour, for which Pillow has no mode and cuts them to 8; None for other files."""
    values: np.ndarray | None = None
    if image.format == "PNG":
        with path.open("rb") as file:
            depth, colour = file.read(26)[24:]
        if depth != 16 or colour == 0:
            return None
        kind = {2: "rgb", 6: "rgba"}.get(colour)
        if kind is not None and "transparency" not in image.info:
            values = np.asarray(kornia_rs.io.read_image_png_u16(str(path), kind))
    elif image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (8,))
        if len(bits) < 3 or set(bits) != {16}:
            return None
        if len(bits) == 3 and tags.get(262) == 2 and tags.get(284, 1) == 1:  # RGB, its channels side by side
            values = np.asarray(kornia_rs.io.read_image_tiff_u16(str(path), "rgb"))
    else:
        return None
    if values is None:
        notes.append("its 16 bits a channel are read as 8")
        return None
    return Pixels(values[..., :3], values[..., 3] if values.shape[2] == 4 else None)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8)."""

    def turn(values: np.ndarray) -> np.ndarray:
        if orientation >= 5:
            values = values.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            values = values[::-1]
        return values[:, ::-1] if orientation in (2, 3, 6, 7) else values

    alpha = None if pixels.alpha is None else turn(pixels.alpha)
    return replace(pixels, colour=turn(pixels.colour), alpha=alpha)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image | None:
    """The image in sRGB by its own profile; None if it has none that can be used."""
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        if icc is not None:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return None


# Writing


def to_pil(image: Tensor) -> Image.Image:
    """Round `[3, H, W]` in [0, 1] to an 8-bit RGB picture; values outside are clipped."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def save_image(image: Tensor | Image.Image, path: str | Path) -> None:
    """Write `[3, H, W]` in [0, 1], or a Pillow image, as `write_photo` does."""
    picture = to_pil(image) if isinstance(image, Tensor) else image
    write_photo(PhotoFile(Pixels.from_pil(picture)), path)


def result_suffix(path: Path, wanted: str | None) -> str:
    """The suffix of a photo's result: the `wanted` one, else the photo's own where it can be written, else `.png`.

    >>> result_suffix(Path("a.JPG"), None), result_suffix(Path("a.gif"), None), result_suffix(Path("a.jpg"), "webp")
    ('.JPG', '.png', '.webp')
    """
    if wanted is not None:
        suffix = "." + wanted.lower().removeprefix(".")
        if not _writable(suffix):
            known = ", ".join(name.removeprefix(".") for name in FORMATS if _writable(name))
            raise DaclipError(f"--format {wanted} cannot be written; choose from {known}")
        return suffix
    return path.suffix if _writable(path.suffix) else ".png"


def _writable(suffix: str) -> bool:
    Image.init()
    return FORMATS.get(suffix.lower()) in Image.SAVE


def write_photo(photo: PhotoFile, path: str | Path) -> tuple[str, ...]:
    """Write a photo atomically, with EXIF block and profile, by its suffix; returns what the format cannot hold."""
    path, notes = Path(path), []
    if not _writable(path.suffix):
        raise DaclipError(f"{path}: '{path.suffix}' is no image format that can be written; use .png or .jpg")
    name, pixels = FORMATS[path.suffix.lower()], photo.pixels
    if pixels.alpha is not None and name in ("JPEG", "BMP"):
        raise DaclipError(f"{path}: {name} cannot hold the photo's transparency; use --format png or webp")
    if name == "BMP" and (photo.exif or photo.icc):
        notes.append("BMP holds no EXIF block and no colour profile")
        photo = replace(photo, exif=None, icc=None)
    # Pillow writes one deep channel of its own, in the modes I;16 and F.
    if pixels.colour.dtype == np.uint16 and name == "PNG":
        content = _deep_png(photo)
    elif pixels.colour.dtype != np.uint8 and name == "TIFF" and pixels.alpha is None and not pixels.gray:
        buffer, colour = io.BytesIO(), np.ascontiguousarray(pixels.colour)
        tifffile.imwrite(buffer, colour, photometric="rgb", compression="zlib", iccprofile=photo.icc, metadata=None)
        content = buffer.getvalue()
    else:
        if pixels.colour.dtype != np.uint8 and not (name == "TIFF" and pixels.gray and pixels.alpha is None):
            notes.append(f"{name} results have 8 bits a channel here")
            pixels = pixels.shallow()
        content = _encoded(pixels.to_pil(), name, photo, path)
    write_bytes(path, content)
    return tuple(notes)


def _encoded(picture: Image.Image, name: str, photo: PhotoFile, path: Path) -> bytes:
    """The picture as Pillow writes it in the format `name`, with the photo's EXIF block and profile."""
    if name in ("WEBP", "HEIF") and picture.mode == "LA":
        picture = picture.convert("RGBA")
    # Pillow compresses a TIFF through libtiff, which cannot write an EXIF block.
    options = {} if name == "TIFF" and photo.exif else OPTIONS.get(name, {})
    metadata = {key: value for key, value in (("exif", photo.exif), ("icc_profile", photo.icc)) if value}
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=name, **options, **metadata)
    except (OSError, ValueError, RuntimeError) as error:
        raise DaclipError(f"{path}: {name} cannot hold the result ({one_line(error)}); use --format png") from None
    return buffer.getvalue()


def _deep_png(photo: PhotoFile) -> bytes:
    # There is no mode of gray with alpha.
    values = replace(photo.pixels, gray=photo.pixels.gray and photo.pixels.alpha is None).channels()
    mode = {1: "mono", 3: "rgb", 4: "rgba"}[values.shape[2]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.png"
        kornia_rs.io.write_image_png_u16(str(path), np.ascontiguousarray(values), mode)
        content = path.read_bytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # Signature and header are 33 bytes; both chunks belong right behind them (PNG specification, section 5.6).
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(photo.icc)) if photo.icc else b""
    exif = chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0")) if photo.exif else b""
    return content[:33] + profile + exif + content[33:]
