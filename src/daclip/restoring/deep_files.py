"""Sixteen bits and more a channel, where Pillow has no mode for the colours."""

import io
import struct
import tempfile
import zlib
from pathlib import Path

import kornia_rs.io
import numpy as np
import tifffile
from PIL import Image

from daclip.restoring.pixels import Pixels, to_pil

__all__ = ["deep_bytes", "read_deep"]

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
            to_pil(pixels).save(buffer, format="TIFF", **_given(exif=exif, icc_profile=icc))
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
