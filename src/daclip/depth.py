"""Pixels of more than 8 bits a channel, for which Pillow has no mode of colour and cuts them."""

import io
import logging
import struct
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import kornia_rs.io
import numpy as np
import tifffile
from PIL import Image

from daclip.errors import UnknownKindError
from daclip.pixels import Pixels, deep

# tifffile reports what Pillow and we report again, or what nobody has to know.
logging.getLogger("tifffile").disabled = True


def deep_colour(image: Image.Image, content: bytes, name: str | Path, notes: list[str]) -> tuple[Pixels, bool] | None:
    """Deep pixels, and whether they are upright; None for other files."""
    if image.format == "PNG":
        return _png(image, content)
    if image.format == "TIFF":
        return _tiff(content, name, image, notes)
    if image.format == "HEIF":
        import pillow_heif  # it is there, or there would be no such image

        file = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False)
        primary = file[file.primary_index]
        return (deep(np.asarray(primary)), False) if ";16" in primary.mode else None
    cut = False
    if image.format == "AVIF":
        place = content.find(b"av1C")
        cut = place >= 0 and bool(content[place + 6] & 0x40)
    elif image.format == "JPEG2000" and not image.mode.startswith("I"):
        place = content.find(b"\xff\x51")  # the marker SIZ; the depth of the first channel lies 40 bytes on
        cut = place >= 0 and content[place + 40] & 0x7F > 7
    elif image.format == "PPM" and image.mode == "RGB":
        cut = int(content.split(maxsplit=4)[3]) > 255 if b"#" not in content[:64] else False
    if cut:
        notes.append("its bits above 8 a channel are lost: Pillow reads colour of this format with 8")
    return None


def _png(image: Image.Image, content: bytes) -> tuple[Pixels, bool] | None:
    depth, colour = content[24:26]
    if depth != 16:
        return None
    if colour in (2, 6):
        values = kornia_rs.io.decode_image_png_u16(content, (image.height, image.width), {2: "rgb", 6: "rgba"}[colour])
    else:
        # Gray of 16 bits has the bytes, and so the filters, of 8-bit gray with alpha; with alpha those of RGBA.
        header = content[12:24] + bytes([8, {0: 4, 4: 6}[colour]]) + content[26:29]
        plain = content[:8] + content[8:12] + header + struct.pack(">I", zlib.crc32(header))
        with Image.open(io.BytesIO(plain + _pixel_chunks(content)), formats=["PNG"]) as shallow:
            values = np.ascontiguousarray(shallow).view(">u2")
    values = np.asarray(values)
    key = image.info.get("transparency")
    if key is not None and colour in (0, 2):
        alpha = np.where((values == np.asarray(key)).all(-1, keepdims=True), 0, 65535)
        values = np.concatenate([values, alpha.astype(values.dtype)], axis=-1)
    return deep(values if values.shape[-1] > 1 else values[..., 0]), False


def _pixel_chunks(content: bytes) -> bytes:
    """Pixels and end of a PNG."""
    kept, place = [], 8
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if kind in (b"IDAT", b"IEND"):
            kept.append(content[place : place + size + 12])
        place += size + 12
    return b"".join(kept)


def tiff_page(file: BinaryIO) -> Any:
    """The first page as tifffile sees it; None where it is no TIFF, has 8 bits or fewer, or is only a preview."""
    try:
        page: Any = tifffile.TiffFile(file).pages[0]
    except Exception:  # as decoders do
        return None
    return page if page.bitspersample > 8 and page.photometric in (0, 1, 2) and not page.subfiletype & 1 else None


def _stored(page: Any) -> np.ndarray | None:
    """The values of a page; None in a compression for which tifffile needs another package."""
    try:
        values: np.ndarray = page.asarray()
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            return None
        raise
    return values


def strange_tiff(content: bytes) -> Pixels | None:
    """A TIFF that Pillow does not know, such as colour in floats; None for what tifffile does not know either."""
    page = tiff_page(io.BytesIO(content))
    values = None if page is None else _stored(page)
    return None if values is None else upright(_pixels(page, values), page.tags.valueof(274, default=1))


def _tiff(content: bytes, name: str | Path, image: Any, notes: list[str]) -> tuple[Pixels, bool] | None:
    """The first page of a deep TIFF through tifffile, or, in a compression that it does not know, through others."""
    bits = max(image.tag_v2.get(258, (1,)))
    if bits <= 8:
        return None
    page = tiff_page(io.BytesIO(content))
    if page is not None:
        values = _stored(page)
        turned = values is None and image.mode.startswith(("I", "F"))  # Pillow turns what it decodes
        if turned:
            values = np.asarray(image)
        elif values is None and page.planarconfig == 1 and page.samplesperpixel == 3 and bits == 16:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "deep.tif"
                path.write_bytes(content)
                values = np.asarray(kornia_rs.io.read_image_tiff_u16(str(path), "rgb"))
        if values is not None:
            return _pixels(page, values), turned
    if image.tag_v2.get(284, 1) == 2:
        raise UnknownKindError(name, "a compressed TIFF of separate deep channels")
    notes.append(f"its {bits} bits a channel are read as 8")
    return None


def _pixels(page: Any, values: np.ndarray) -> Pixels:
    """Pixels from the stored values of a page of gray or RGB, with or without alpha."""
    if values.ndim == 3 and page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    whole = 1 if values.dtype.kind == "f" else 2 ** min(page.bitspersample, 16) - 1
    if page.photometric == 0:  # white is zero
        values = whole - values
    if values.ndim == 3:
        colours = 3 if page.photometric == 2 else 1
        if page.extrasamples[:1] == (1,):  # colours are multiplied by the alpha beside them
            share = values[..., colours : colours + 1] / whole
            colour = values[..., :colours] / np.where(share > 0, share, 1)
            values = np.concatenate([colour.clip(0, whole).astype(values.dtype), values[..., colours:]], axis=-1)
        kept = colours + (page.extrasamples[:1] in ((1,), (2,)))
        values = values[..., :kept] if kept > 1 else values[..., 0]
    return deep(values, whole)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8)."""
    if orientation == 1:
        return pixels

    def turn(values: np.ndarray) -> np.ndarray:
        if orientation >= 5:
            values = values.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            values = values[::-1]
        return values[:, ::-1] if orientation in (2, 3, 6, 7) else values

    alpha = None if pixels.alpha is None else turn(pixels.alpha)
    return replace(pixels, colour=turn(pixels.colour), alpha=alpha)
