"""Sixteen bits and more a channel, where Pillow has no mode for the colours."""

import io
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
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
from daclip.pixels import Pixels, pixels_from_pil, pixels_to_pil, shallow

# Colour types of a PNG header that kornia-rs reads in 16 bits.
PNG_COLOURS = {2: "rgb", 6: "rgba"}


def read_deep(image: Image.Image, path: Path, notes: list[str]) -> Pixels | None:
    """Pixels of a file with 16 bits a colour, which Pillow cuts to 8; None for every other file.

    Args:
        image: The file as Pillow opened and decoded it.
        path: The file.
        notes: Gets a remark if the file cannot be read in 16 bits.
    """
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(26)
        depth, colour = header[24], header[25]
        if depth != 16 or colour == 0:
            return None
        kind = PNG_COLOURS.get(colour)
        if kind is not None and "transparency" not in image.info:
            return _pixels(np.asarray(kornia_rs.io.read_image_png_u16(str(path), kind)))
    elif image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (8,))
        if len(bits) < 3 or set(bits) != {16}:
            return None
        if len(bits) == 3 and tags.get(262) == 2 and tags.get(284, 1) == 1:
            return _pixels(np.asarray(kornia_rs.io.read_image_tiff_u16(str(path), "rgb")))
    else:
        return None
    notes.append("its 16 bits a channel are read as 8")
    return None


def _pixels(values: np.ndarray) -> Pixels:
    return Pixels(values[..., :3], values[..., 3] if values.shape[2] == 4 else None)


def deep_bytes(pixels: Pixels, name: str, exif: bytes | None, icc: bytes | None) -> bytes | None:
    """A file of more than 8 bits a channel; None if the format has none here.

    Args:
        pixels: uint16 or float32.
        name: Pillow's name of the format.
        exif: EXIF block.
        icc: Colour profile.
    """
    if name == "TIFF" and pixels.alpha is None:
        buffer = io.BytesIO()
        if pixels.gray:
            pixels_to_pil(pixels).save(buffer, format="TIFF", **_given(exif=exif, icc_profile=icc))
        else:
            colour = np.ascontiguousarray(pixels.colour)
            tifffile.imwrite(buffer, colour, photometric="rgb", compression="zlib", iccprofile=icc, metadata=None)
        return buffer.getvalue()
    if name == "PNG" and pixels.colour.dtype == np.uint16:
        return _png(pixels, exif, icc)
    return None


def _given(**values: bytes | None) -> dict[str, bytes]:
    return {key: value for key, value in values.items() if value}


def _png(pixels: Pixels, exif: bytes | None, icc: bytes | None) -> bytes:
    if pixels.alpha is not None:
        values, mode = np.concatenate([pixels.colour, pixels.alpha[..., None]], axis=2), "rgba"
    elif pixels.gray:
        values, mode = pixels.colour[..., :1], "mono"
    else:
        values, mode = pixels.colour, "rgb"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.png"
        kornia_rs.io.write_image_png_u16(str(path), np.ascontiguousarray(values), mode)
        content = path.read_bytes()
    # Signature and header are 33 bytes; both chunks belong right behind them (PNG specification, section 5.6).
    extra = b""
    if icc:
        extra += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
    if exif:
        extra += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return content[:33] + extra + content[33:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


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
        raise DamagedPhotoError(f"{name}: the image is damaged ({one_line(error)}); remove or replace it") from None


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
    buffer = io.BytesIO()
    picture.save(buffer, format=Image.registered_extensions()[path.suffix.lower()], **options)
    write_bytes(path, buffer.getvalue())


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
        raise DaclipError(f"{path}: the image is damaged ({one_line(error)}); remove or replace it") from None


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
    pixels = pixels_from_pil(upright)
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
    write_bytes(path, content)
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
    picture = pixels_to_pil(pixels)
    if name in ("WEBP", "HEIF") and picture.mode == "LA":
        picture = picture.convert("RGBA")
    buffer = io.BytesIO()
    # Pillow compresses a TIFF through libtiff, which cannot write an EXIF block.
    options = {} if name == "TIFF" and photo.exif else OPTIONS.get(name, {})
    try:
        picture.save(buffer, format=name, **options, **metadata)
    except (OSError, ValueError, RuntimeError) as error:
        raise DaclipError(f"{path}: {name} cannot hold the result ({one_line(error)}); use format=png") from None
    return buffer.getvalue(), tuple(notes)
