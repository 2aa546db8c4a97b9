"""Photo files in and out with what they carry beside their colours: EXIF, ICC profile, alpha, gray, 16 bits."""

import io
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

import daclip.data.photos  # noqa: F401  it lets Pillow read HEIC where the plugin is installed
from daclip.errors import DaclipError
from daclip.restoring.deep_files import deep_bytes, read_deep
from daclip.restoring.pixels import Pixels, from_pil, shallow, to_pil

__all__ = ["FORMATS", "PhotoFile", "photo_size", "read_photo", "result_suffix", "write_photo"]

# Suffix → Pillow's format, for results.
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


@dataclass(frozen=True)
class PhotoFile:
    """What a photo file holds.

    Attributes:
        pixels: The photo, upright.
        exif: Its EXIF block without the orientation, which is applied; None if it has none.
        icc: Its colour profile, which belongs to the pixels as they are; None if it has none.
        notes: What the reader should know: frames left out, colours converted.
    """

    pixels: Pixels
    exif: bytes | None = None
    icc: bytes | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | Path) -> PhotoFile:
    """Read any photo file.

    Args:
        path: Any format that Pillow reads. Palettes become RGB; CMYK becomes sRGB through its profile; of
            several frames the first is taken.

    Raises:
        DaclipError: The file is missing, damaged, no image, or too large to open safely.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such file; check the path")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it repairs by itself, and between one and two times its limit of pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _read(image, path)
    except DaclipError as error:
        raise DaclipError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise DaclipError(f"{path}: not an image file that can be read; remove or replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DaclipError(f"{path}: more than {most} million pixels are not opened for safety; scale it down") from None
    except MemoryError:
        raise DaclipError(f"{path}: there is not enough memory to decode it; scale it down first") from None
    except Exception as error:
        # Decoders of damaged files raise whatever they stumble over: struct.error, IndexError, zlib.error, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DaclipError(f"{path}: the image is damaged ({reason}); remove or replace it") from None


def photo_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height as stored, from the header alone; None for what `read_photo` refuses at once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Exception:  # decoders raise anything
        return None


def _read(image: Image.Image, path: Path) -> PhotoFile:
    notes = []
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
    deep = read_deep(image, path, notes)
    if deep is not None:
        return PhotoFile(_upright(deep, orientation), exif, icc, tuple(notes))
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("CMYK", "LAB"):
        upright, converted = _to_srgb(upright, icc)
        notes.append(f"{image.mode} became sRGB" + ("" if converted else " without a colour profile"))
        icc = None
    pixels = from_pil(upright)
    if icc is not None and not _profile_fits(icc, pixels.gray):
        notes.append("its colour profile does not belong to such pixels and is left out")
        icc = None
    return PhotoFile(pixels, exif, icc, tuple(notes))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged blocks raise anything
        return 1
    return value if value in range(1, 9) else 1


def _exif(image: Image.Image, orientation: int, notes: list[str]) -> bytes | None:
    """The EXIF block as it will be written."""
    try:
        exif = image.getexif()
        folders = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_FOLDER, GPS_FOLDER)}
        camera = folders[EXIF_FOLDER]
        if orientation in (5, 6, 7, 8) and WIDTH_TAG in camera and HEIGHT_TAG in camera:
            camera[WIDTH_TAG], camera[HEIGHT_TAG] = camera[HEIGHT_TAG], camera[WIDTH_TAG]
        kept = Image.Exif()
        # Not everything: the other tags of a TIFF say where its strips lie, and the result has strips of its own.
        kept.update({tag: exif[tag] for tag in CAMERA_TAGS if tag in exif})
        kept.update({tag: folder for tag, folder in folders.items() if folder})
        content = kept.tobytes() if len(kept) else None
    except Exception:
        # As with pixels, a damaged block raises anything; the photo is worth more than its block.
        notes.append("its EXIF block is damaged and is left out")
        return None
    return content


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8)."""

    def turn(values: np.ndarray) -> np.ndarray:
        if orientation in (5, 6, 7, 8):
            values = values.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            values = values[::-1]
        return values[:, ::-1] if orientation in (2, 3, 6, 7) else values

    alpha = None if pixels.alpha is None else turn(pixels.alpha)
    return replace(pixels, colour=turn(pixels.colour), alpha=alpha)


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bool]:
    """RGB pixels, and whether the file's own profile could be used."""
    if icc is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
        else:
            return converted, True
    return image.convert("RGB"), False


def _profile_fits(icc: bytes, gray: bool) -> bool:
    """Whether a profile is of the colour space of the pixels (bytes 16 to 20 of its header)."""
    return icc[16:20] == (b"GRAY" if gray else b"RGB ")


def result_suffix(path: Path, wanted: str | None) -> str:
    """The suffix of a photo's result: its own where results can be written so, else `.png`.

    Args:
        path: The photo.
        wanted: A format that the user asks for, such as `png`; None keeps the photo's own.

    Raises:
        DaclipError: Results cannot be written in the wanted format.

    >>> result_suffix(Path("a.JPG"), None), result_suffix(Path("a.gif"), None), result_suffix(Path("a.jpg"), "webp")
    ('.JPG', '.png', '.webp')
    """
    if wanted is not None:
        suffix = "." + wanted.lower().removeprefix(".")
        if not _writable(suffix):
            known = ", ".join(name.removeprefix(".") for name in FORMATS if _writable(name))
            raise DaclipError(f"format={wanted} cannot be written; choose from {known}")
        return suffix
    return path.suffix if _writable(path.suffix) else ".png"


def _writable(suffix: str) -> bool:
    name = FORMATS.get(suffix.lower())
    Image.init()
    return name in Image.SAVE


def write_photo(photo: PhotoFile, path: str | Path) -> tuple[str, ...]:
    """Write a photo with its EXIF block and colour profile, so that a reader sees the whole file or none.

    Args:
        photo: What to write.
        path: The suffix decides the format. The folder is made if missing; a file in the way is replaced.

    Returns:
        What the format cannot hold and was left out.

    Raises:
        DaclipError: The format cannot hold the photo, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not _writable(suffix):
        raise DaclipError(f"{path}: '{path.suffix}' is no format that results can be written in; use .png or .jpg")
    content, notes = _encoded(photo, FORMATS[suffix], path)
    temporary = path.with_name(f".daclip-{os.getpid()}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DaclipError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary.exists():
            temporary.unlink()
    return notes


def _encoded(photo: PhotoFile, name: str, path: Path) -> tuple[bytes, tuple[str, ...]]:
    pixels, notes = photo.pixels, []
    if pixels.alpha is not None and name in ("JPEG", "BMP"):
        raise DaclipError(f"{path}: {name} cannot hold the photo's transparency; use format=png or webp")
    metadata = {key: value for key, value in (("exif", photo.exif), ("icc_profile", photo.icc)) if value}
    if name == "BMP" and metadata:
        notes.append("BMP holds no EXIF block and no colour profile")
        metadata = {}
    if pixels.colour.dtype != np.uint8:
        deep = deep_bytes(pixels, name, photo.exif, photo.icc)
        if deep is not None:
            return deep, tuple(notes)
        notes.append(f"{name} results have 8 bits a channel here")
        pixels = shallow(pixels)
    picture = to_pil(pixels)
    if name in ("WEBP", "HEIF") and picture.mode == "LA":
        picture = picture.convert("RGBA")
    buffer = io.BytesIO()
    # Pillow compresses a TIFF through libtiff, which cannot write an EXIF block.
    options = {} if name == "TIFF" and photo.exif else OPTIONS.get(name, {})
    try:
        picture.save(buffer, format=name, **options, **metadata)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DaclipError(f"{path}: {name} cannot hold the result ({reason}); use format=png") from None
    return buffer.getvalue(), tuple(notes)
