"""Photo files as tensors for training and scoring, and the one writer of them: what a photo carries is kept where the
format can hold it, and named where not."""

import io
import struct
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import kornia_rs.io
import numpy as np
import torch
from PIL import Image, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from daclip.decoding import decode_photo, photo_header, read_photo
from daclip.errors import DaclipError
from daclip.files import FORMATS, one_line, write_bytes
from daclip.pixels import IPTC_RESOURCE, IPTC_TAG, PhotoFile, Pixels

# Pillow's options by format, before those of the photo's own file. x265's slower presets take seven times as long for a
# file that is a tenth smaller and looks the same.
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 95},
    "TIFF": {},
    "BMP": {},
    "HEIF": {"quality": 95, "enc_params": {"preset": "ultrafast"}},
    "AVIF": {"quality": 95},
}

# What a format holds besides pixels, and how remarks call it.
WORDS = {
    "exif": "EXIF block",
    "icc": "colour profile",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "resolution",
    "comment": "comment",
    "text": "texts",
    "gamma": "gamma",
}
HOLDS: dict[str, set[str]] = {
    "JPEG": {"exif", "icc", "xmp", "iptc", "dpi", "comment"},
    "PNG": {"exif", "icc", "xmp", "dpi", "comment", "text", "gamma"},
    "WEBP": {"exif", "icc", "xmp"},
    "TIFF": {"exif", "icc", "xmp", "iptc", "dpi"},
    "BMP": {"dpi"},
    "HEIF": {"exif", "icc", "xmp"},
    "AVIF": {"exif", "icc", "xmp"},
}
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536, "HEIF": 16_384}
SEGMENT = 65_500  # bytes that fit into one segment of a JPEG, with what names it
STRIP = 2**20  # bytes of pixels in a strip of a TIFF


@lru_cache(maxsize=2**17)
def image_size(path: Path) -> tuple[int, int]:
    """Height and width as `load_image` would give them, from the file's header alone."""
    header = photo_header(path, path)
    return header.height, header.width


def encoded_size(content: bytes, name: str) -> tuple[int, int]:
    """`image_size` of an image file's content; `name` is what errors call it."""
    header = photo_header(content, name)
    return header.height, header.width


def _rgb(photo: PhotoFile) -> Tensor:
    """uint8 `[3, H, W]`, RGB, on white where the photo is transparent."""
    colour = photo.pixels.on_white().shallow().colour
    return torch.from_numpy(colour.copy()).permute(2, 0, 1)


def decode_pixels(content: bytes, name: str) -> Tensor:
    """uint8 `[3, H, W]`, RGB, of an image file's content; `name` is what errors call it."""
    return _rgb(decode_photo(content, name)).contiguous()


def load_image(path: str | Path) -> Tensor:
    """float32 `[3, H, W]` in [0, 1] of an image file at its own depth; gray, palette and alpha images become RGB, on
    white where they are transparent."""
    return read_photo(path).pixels.on_white().crop()


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
        photo = _rgb(read_photo(path)).contiguous()
        self._photos[path] = photo
        self.size += photo.nbytes
        while self.size > self.limit:
            self.size -= self._photos.popitem(last=False)[1].nbytes
        return photo


cached_pixels = PixelCache(512 * 2**20)


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
    name = FORMATS.get(suffix.lower())
    return name in OPTIONS and name in Image.SAVE


def refuse_unwritable(pixels: Pixels, path: str | Path) -> None:
    """Say before the work that a result of such pixels does not fit into the format of a file."""
    suffix = Path(path).suffix
    if not _writable(suffix):
        raise DaclipError(f"{path}: '{suffix}' is no image format that can be written; use .png or .jpg")
    name = FORMATS[suffix.lower()]
    if name in ("JPEG", "BMP") and not pixels.opaque:
        raise DaclipError(f"{path}: {name} cannot hold the photo's transparency; use --format png or webp")
    if max(pixels.width, pixels.height) > LONGEST_SIDE.get(name, 2**31):
        raise DaclipError(
            f"{path}: {name} cannot hold {pixels.width} x {pixels.height} pixels; use --format png or tiff"
        )


def write_photo(photo: PhotoFile, path: str | Path) -> tuple[str, ...]:
    """Write a photo atomically by its suffix; returns what the format cannot hold."""
    refuse_unwritable(photo.pixels, path)
    path, pixels = Path(path), photo.pixels
    name, notes = FORMATS[path.suffix.lower()], []
    if pixels.opaque and name in ("JPEG", "BMP"):
        pixels = replace(pixels, alpha=None)
    if pixels.colour.dtype != np.uint8 and not (name == "TIFF" or (name == "PNG" and pixels.colour.dtype == np.uint16)):
        notes.append(f"{name} results have 8 bits a channel here")
        pixels = pixels.shallow()
    photo, lost = _holdable(replace(photo, pixels=pixels), name)
    if lost:
        notes.append(f"{name} cannot hold, and the result loses: {', '.join(lost)}")
    try:
        content = WRITERS[name](photo) if name in WRITERS else _encoded(photo, name)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise DaclipError(f"{path}: {name} cannot hold the result ({one_line(error)}); use --format png") from None
    write_bytes(path, content)
    return tuple(notes)


def _holdable(photo: PhotoFile, name: str) -> tuple[PhotoFile, list[str]]:
    """The photo with what the format holds, and words for the rest."""
    lost = {part for part in WORDS if getattr(photo, part)} - HOLDS[name]
    if name == "JPEG":  # whose segments are short
        sizes = {"exif": photo.exif, "xmp": photo.xmp, "iptc": photo.iptc, "comment": (photo.comment or "").encode()}
        lost |= {part for part, content in sizes.items() if content and len(content) > SEGMENT}
    nothing: dict[str, Any] = dict.fromkeys(lost)
    return replace(photo, **nothing), [WORDS[part] for part in WORDS if part in lost]


def _encoded(photo: PhotoFile, name: str) -> bytes:
    """The photo as Pillow writes it."""
    picture = photo.pixels.to_pil()
    if name in ("WEBP", "HEIF", "AVIF") and picture.mode == "LA":
        picture = picture.convert("RGBA")
    options = {**OPTIONS[name], **photo.options.get(name, {}), **photo.info}
    if name == "JPEG":
        options |= {"comment": photo.comment.encode()} if photo.comment else {}
        options |= {"extra": _iptc_segment(photo.iptc)} if photo.iptc else {}
    buffer = io.BytesIO()
    picture.save(buffer, format=name, **options)
    return buffer.getvalue()


def _iptc_segment(iptc: bytes) -> bytes:
    resource = b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def _png(photo: PhotoFile) -> bytes:
    pixels = photo.pixels
    if pixels.colour.dtype == np.uint8:
        buffer = io.BytesIO()
        pixels.to_pil().save(buffer, format="PNG")
        content = buffer.getvalue()
    else:
        # There is no mode of gray with alpha.
        values = replace(pixels, gray=pixels.gray and pixels.alpha is None).channels()
        mode = {1: "mono", 3: "rgb", 4: "rgba"}[values.shape[2]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep.png"
            kornia_rs.io.write_image_png_u16(str(path), np.ascontiguousarray(values), mode)
            content = path.read_bytes()
    # Signature and header are 33 bytes; all of these belong right behind them (PNG specification, section 5.6).
    return content[:33] + b"".join(_png_chunks(photo)) + content[33:]


def _png_chunks(photo: PhotoFile) -> Iterator[bytes]:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    if photo.icc:
        yield chunk(b"iCCP", b"icc\0\0" + zlib.compress(photo.icc))
    if photo.gamma:
        yield chunk(b"gAMA", struct.pack(">I", round(photo.gamma * 100_000)))
    if photo.dpi:
        yield chunk(b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in photo.dpi), 1))
    if photo.exif:
        yield chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0"))
    texts = PngImagePlugin.PngInfo()
    if photo.xmp:
        texts.add_itxt("XML:com.adobe.xmp", photo.xmp.decode("utf-8", "replace"))
    for key, value in {**(photo.text or {}), **({"Comment": photo.comment} if photo.comment else {})}.items():
        texts.add_text(key, value)  # as iTXt where it is not Latin-1
    for name, data, *_ in texts.chunks:
        yield chunk(name, data)


def _tiff(photo: PhotoFile) -> bytes:
    """A TIFF in deflated strips: Pillow writes no deep colour, and no EXIF block beside a compression."""
    pixels = photo.pixels
    values = np.ascontiguousarray(pixels.channels())
    height, width, channels = values.shape
    bits, floats = values.dtype.itemsize * 8, values.dtype.kind == "f"
    tags: dict[int, Any] = {}
    if photo.exif:
        exif = Image.Exif()
        exif.load(photo.exif)
        tags = {tag: exif.get_ifd(tag) if tag in (0x8769, 0x8825) else value for tag, value in exif.items()}
    rows = max(STRIP // values[0].nbytes, 1)
    strips = []
    for top in range(0, height, rows):
        strip = values[top : top + rows]
        if not floats:  # each pixel as the difference to its left neighbour, which deflates better
            strip = np.concatenate([strip[:, :1], np.diff(strip, axis=1)], axis=1)
        strips.append(zlib.compress(strip.astype(strip.dtype.newbyteorder("<")).tobytes()))
    places = np.cumsum([0, *map(len, strips[:-1])]).tolist()
    tags |= {
        256: width,
        257: height,
        258: (bits,) * channels,
        259: 8,  # deflate
        262: 1 if channels < 3 else 2,
        273: tuple(places),  # behind the directory, which Pillow adds
        277: channels,
        278: rows,
        279: tuple(map(len, strips)),
        284: 1,
        317: 1 if floats else 2,
        339: (3 if floats else 1,) * channels,
    }
    tags |= {338: (2,)} if channels in (2, 4) else {}
    if photo.dpi:
        tags |= {282: photo.dpi[0], 283: photo.dpi[1], 296: 2}
    tags |= {tag: part for tag, part in ((700, photo.xmp), (IPTC_TAG, photo.iptc), (34675, photo.icc)) if part}
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[tag] = value
    return b"II*\0\x08\0\0\0" + directory.tobytes(8) + b"".join(strips)


WRITERS = {"PNG": _png, "TIFF": _tiff}
