"""What a photo file holds: pixels in the depth they came in, exchanged with Pillow, numpy and tensors; and metadata."""

import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from daclip.errors import DaclipError
from daclip.holes import from_around

# Rows converted at once: a photo of 24 million pixels is never held in float32 twice.
BAND = 256

AROUND = 32  # pixels beside missing ones from which they are drawn
DEPTHS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601), as in Pillow's own conversion to gray."""

ORIENTATION, WIDTH_TAG, HEIGHT_TAG, EXIF_FOLDER, GPS_FOLDER = 0x0112, 0xA002, 0xA003, 0x8769, 0x8825
IPTC_TAG = 33723  # of TIFF
IPTC_RESOURCE = 0x0404  # of Photoshop's block in a JPEG

# Description, make, model, resolution, software, date, artist, copyright.
CAMERA_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)


def quantise(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 values that a saved picture can hold."""
    return images.float().clamp(0, 1).mul(255).round().div(255)


@dataclass(frozen=True)
class Pixels:
    """The pixels of one photo."""

    colour: np.ndarray  # RGB, `[H, W, 3]`: uint8, uint16, or float32 in [0, 1]
    alpha: np.ndarray | None = None  # opacity, `[H, W]` of the same type
    gray: bool = False  # one channel of brightness: the three colours are equal

    @classmethod
    def of(cls, values: np.ndarray) -> "Pixels":
        """The pixels of an array `[H, W]` or `[H, W, C]` with 1 (gray), 2 (gray, alpha), 3 or 4 channels."""
        values = values[..., None] if values.ndim == 2 else values
        gray = values.shape[2] <= 2
        colour = np.broadcast_to(values[..., :1], (*values.shape[:2], 3)) if gray else values[..., :3]
        return cls(colour, values[..., -1] if values.shape[2] in (2, 4) else None, gray)

    @classmethod
    def from_pil(cls, image: Image.Image) -> "Pixels":
        """The pixels of a Pillow image of any mode; its EXIF orientation is not looked at."""
        if image.mode.startswith("I") or image.mode == "F":
            return deep(np.array(image))
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            if image.mode in ("RGBa", "La"):  # premultiplied colours
                image = image.convert(image.mode.replace("a", "A"))
            values = np.array(image.convert("RGBA"))
            return cls(values[..., :3], values[..., 3], image.mode in ("L", "LA"))
        return cls.of(np.array(image.convert("L" if image.mode in ("1", "L") else "RGB")))

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.colour.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.colour.shape[1])

    def crop(self, top: int = 0, bottom: int | None = None, left: int = 0, right: int | None = None) -> Tensor:
        """A window as float32 `[3, h, w]` in [0, 1]; by default the whole photo."""
        window = self.colour[top:bottom, left:right].astype(np.float32)
        window /= DEPTHS[self.colour.dtype]
        return torch.from_numpy(window).permute(2, 0, 1)

    def channels(self) -> np.ndarray:
        """`[H, W, C]` with the channels that the photo has: gray, gray and alpha, RGB, or RGBA."""
        channels = self.colour[..., :1] if self.gray else self.colour
        return channels if self.alpha is None else np.concatenate([channels, self.alpha[..., None]], axis=2)

    def recoloured(self, image: Tensor) -> "Pixels":
        """The same kind of photo with the colours of `image`, `[3, H, W]` in [0, 1]: depth, gray and alpha are kept."""
        if tuple(image.shape) != (3, self.height, self.width):
            raise ValueError(f"expected an image of shape {(3, self.height, self.width)}, got {tuple(image.shape)}")
        most = DEPTHS[self.colour.dtype]
        colour = np.empty((self.height, self.width, 1 if self.gray else 3), self.colour.dtype)
        for top in range(0, self.height, BAND):
            band = image[:, top : top + BAND].clamp(0, 1)
            if self.gray:
                band = (band * LUMA).sum(0, keepdim=True)
            values = band.permute(1, 2, 0).numpy()
            colour[top : top + BAND] = values if most == 1 else np.rint(values * most)
        return Pixels(np.broadcast_to(colour, (self.height, self.width, 3)), self.alpha, self.gray)

    def filled(self, mask: np.ndarray, value: float | None) -> "Pixels":
        """The photo with one value in [0, 1] where the mask, bool `[H, W]`, is true, or (None) what lies around."""
        colour = self.colour.copy()
        if value is None:
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            window = tuple(slice(max(found[0] - AROUND, 0), found[-1] + AROUND) for found in (rows, columns))
            missing = mask[window]
            for channel in np.moveaxis(colour[window], -1, 0):
                around = from_around(channel.astype(np.float32), missing)[missing]
                channel[missing] = around if colour.dtype == np.float32 else np.rint(around)
        else:
            colour[mask] = value if self.colour.dtype == np.float32 else round(value * DEPTHS[self.colour.dtype])
        return replace(self, colour=colour)

    def upright(self, orientation: int) -> "Pixels":
        """The photo after an EXIF orientation, 1 to 8."""
        if orientation == 1:
            return self

        def turn(values: np.ndarray) -> np.ndarray:
            if orientation >= 5:
                values = values.swapaxes(0, 1)
            if orientation in (3, 4, 7, 8):
                values = values[::-1]
            return values[:, ::-1] if orientation in (2, 3, 6, 7) else values

        alpha = None if self.alpha is None else turn(self.alpha)
        return replace(self, colour=turn(self.colour), alpha=alpha)

    @property
    def opaque(self) -> bool:
        """Nothing shows through."""
        return self.alpha is None or bool((self.alpha == DEPTHS[self.alpha.dtype]).all())

    def on_white(self) -> "Pixels":
        """The photo without alpha, as it looks on white paper: colours below full transparency are never seen."""
        if self.alpha is None or self.opaque:
            return replace(self, alpha=None)
        most = DEPTHS[self.colour.dtype]
        colour = np.empty(self.colour.shape, self.colour.dtype)
        for top in range(0, self.height, BAND):
            share = self.alpha[top : top + BAND, :, None].astype(np.float32) / most
            band = self.colour[top : top + BAND] * share + most * (1 - share)
            colour[top : top + BAND] = band if most == 1 else np.rint(band)
        return Pixels(colour, gray=self.gray)

    def shallow(self) -> "Pixels":
        """The photo with 8 bits a channel."""
        if self.colour.dtype == np.uint8:
            return self
        scale = 255 / DEPTHS[self.colour.dtype]

        def convert(values: np.ndarray) -> np.ndarray:
            bands = range(0, len(values), BAND)
            return np.concatenate([np.rint(values[top : top + BAND] * scale).astype(np.uint8) for top in bands])

        return Pixels(convert(self.colour), None if self.alpha is None else convert(self.alpha), self.gray)

    def to_pil(self) -> Image.Image:
        """A Pillow image: L, LA, RGB or RGBA for 8 bits, I;16 or F for deep gray; deep colour becomes 8-bit."""
        if self.colour.dtype != np.uint8:
            if self.gray and self.alpha is None:
                return Image.fromarray(np.ascontiguousarray(self.colour[..., 0]))
            return self.shallow().to_pil()
        channels = self.channels()
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels.shape[2]]
        return Image.frombytes(mode, (self.width, self.height), np.ascontiguousarray(channels).tobytes())


def deep(values: np.ndarray, most: int = 65535) -> Pixels:
    """Pixels of more than 8 bits, shaped as in `Pixels.of`, by the one rule: floats lie in [0, 1], integers of whatever
    type in [0, `most`], stretched to 65535. Values outside would be clipped and are refused."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise DaclipError(f"its floating-point pixels lie in [{low:g}, {high:g}], not in [0, 1]; scale them")
        values = values.astype(np.float32)
    else:
        if low < 0 or high > most:
            raise DaclipError(f"its integer pixels lie in [{low}, {high}], not in [0, {most}]; scale them")
        values = (values if most == 65535 else np.rint(values * (65535 / most))).astype(np.uint16)
    return Pixels.of(values)


@dataclass(frozen=True)
class PhotoFile:
    """The content of a photo file: its pixels, and what else it says, which is kept where the result can hold it."""

    pixels: Pixels  # upright
    exif: bytes | None = None  # without the orientation, which is applied
    icc: bytes | None = None  # the colour profile of the pixels as they are
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None  # pixels an inch, across and down
    comment: str | None = None
    text: Mapping[str, str] | None = None  # named texts of a PNG
    gamma: float | None = None
    notes: tuple[str, ...] = ()  # remarks for the user: frames left out, colours converted
    # Format → options of its writer under which the file was made: subsampling of colours, lossless coding.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def info(self) -> dict[str, Any]:
        """What there is of EXIF block, profile, XMP and resolution, by Pillow's names."""
        kept = {"exif": self.exif, "icc_profile": self.icc, "xmp": self.xmp, "dpi": self.dpi}
        return {key: value for key, value in kept.items() if value}


@dataclass(frozen=True)
class Header:
    """The size of a photo as `read_photo` gives it, known before anything is decoded."""

    width: int
    height: int
    channel_bytes: int = 1  # in memory


def orientation_of(image: Image.Image, header: bool = False) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read. `header` never decodes pixels, as Pillow
    does with a PNG to look for a block behind them."""
    try:
        exif = Image.Image.getexif(image) if header else image.getexif()
        value = exif.get(ORIENTATION, 1)
    except Exception:  # damaged blocks raise anything
        return 1
    return value if value in range(1, 9) else 1


def exif_block(exif: Image.Exif, orientation: int) -> bytes | None:
    """The block as it is written, for a photo that was turned by `orientation`; None if nothing is in it. A damaged
    one raises anything."""
    folders = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_FOLDER, GPS_FOLDER)}
    camera = folders[EXIF_FOLDER]
    if orientation >= 5 and WIDTH_TAG in camera and HEIGHT_TAG in camera:
        camera[WIDTH_TAG], camera[HEIGHT_TAG] = camera[HEIGHT_TAG], camera[WIDTH_TAG]
    kept = Image.Exif()
    # Not everything: the other tags of a TIFF say where its strips lie, and the result has strips of its own.
    kept.update({tag: exif[tag] for tag in CAMERA_TAGS if tag in exif})
    kept.update({tag: folder for tag, folder in folders.items() if folder})
    return kept.tobytes() if len(kept) else None


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """What Pillow has found in a decoded image besides EXIF block and profile, by the names of `PhotoFile`; damaged
    parts raise anything."""
    info: dict[Any, Any] = image.info
    photoshop = info.get("photoshop")
    tags = getattr(image, "tag_v2", {})
    iptc = photoshop.get(IPTC_RESOURCE) if isinstance(photoshop, dict) else tags.get(IPTC_TAG)
    if isinstance(iptc, tuple):  # Photoshop calls the bytes of a TIFF's tag 32-bit numbers
        iptc = struct.pack(f"<{len(iptc)}I", *iptc) if isinstance(iptc[0], int) else iptc[0]
    dpi, comment = info.get("dpi"), info.get("comment")
    found = getattr(image, "text", {}) if image.format == "PNG" else {}
    text = {str(key): str(value) for key, value in found.items() if not key.startswith(("XML:com.adobe", "Raw"))}
    return {
        "xmp": _upright_xmp(info.get("xmp")),
        "iptc": iptc if isinstance(iptc, bytes) else None,
        "dpi": (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        "comment": text.pop("Comment", None) or (_text(comment) if comment else None),
        "text": text,
        "gamma": info.get("gamma"),
    }


def _text(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
    """The packet with the orientation of an upright photo: viewers would turn it again."""
    content = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)\d", rb"\g<1>1", content) if content else None


Pack = Callable[[Pixels], Any]


def unpack(photos: Any) -> tuple[list[Pixels], list[Pack], bool]:
    """The pixels of photos of the kinds that `Restorer.restore` names, for each a function that turns pixels back into
    its kind, and whether it was a single one. A Pillow image is turned upright, and keeps what its `info` says."""
    if isinstance(photos, (list, tuple)):
        if not photos:
            raise DaclipError("there is no photo in the list; give at least one")
        singles = [unpack(photo) for photo in photos]
        if not all(single for _, _, single in singles):
            raise DaclipError("a list of photos must hold single photos, not batches")
        return [pixels[0] for pixels, _, _ in singles], [packs[0] for _, packs, _ in singles], False
    if isinstance(photos, Pixels):
        return [photos], [lambda pixels: pixels], True
    if isinstance(photos, Image.Image):
        upright = ImageOps.exif_transpose(photos)
        # The profile of other colours than RGB and gray does not belong to the result.
        names = ("xmp", "dpi") if upright.mode in ("CMYK", "LAB", "YCbCr", "HSV") else ("xmp", "dpi", "icc_profile")
        info = {name: upright.info[name] for name in names if name in upright.info}
        with suppress(Exception):  # a damaged block raises anything, and the photo is worth more
            block = exif_block(photos.getexif(), orientation_of(photos))
            info |= {"exif": block} if block else {}
        return [Pixels.from_pil(upright)], [partial(_as_image, info=info)], True
    if isinstance(photos, Tensor):
        if photos.ndim not in (3, 4):
            raise DaclipError(f"expected a tensor [C, H, W] or [B, C, H, W], got shape {tuple(photos.shape)}")
        plain = photos.detach().cpu()
        pixels, _, single = unpack((plain.float() if plain.is_floating_point() else plain).movedim(-3, -1).numpy())
        return pixels, [partial(_as_tensor, device=photos.device)] * len(pixels), single
    if isinstance(photos, np.ndarray):
        arrays = list(photos) if photos.ndim == 4 else [photos]
        pack = partial(_as_array, flat=photos.ndim == 2)
        return [_from_array(array) for array in arrays], [pack] * len(arrays), photos.ndim != 4
    raise DaclipError(f"expected a Pillow image, a numpy array or a tensor, got {type(photos).__name__}")


def _as_image(pixels: Pixels, info: dict[str, Any]) -> Image.Image:
    image = pixels.to_pil()
    image.info.update(info)
    return image


def _as_array(pixels: Pixels, flat: bool = False) -> np.ndarray:
    return np.ascontiguousarray(pixels.colour[..., 0] if flat else pixels.channels())


def _as_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    return torch.from_numpy(pixels.channels().copy()).movedim(-1, -3).contiguous().to(device)


def _from_array(array: np.ndarray) -> Pixels:
    shaped = array[..., None] if array.ndim == 2 else array
    if shaped.ndim != 3 or shaped.shape[2] not in (1, 3, 4) or 0 in shaped.shape:
        raise DaclipError(f"expected 1, 3 or 4 channels and at least one pixel, got an array of shape {array.shape}")
    if shaped.dtype.kind == "f":
        low, high = float(shaped.min()), float(shaped.max())
        # Rounding of a resize may step over the ends a little.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise DaclipError(f"floating-point photos must lie in [0, 1], got values from {low:g} to {high:g}")
        shaped = shaped.clip(0, 1).astype(np.float32)
    if shaped.dtype not in DEPTHS:
        raise DaclipError(f"photos must be uint8, uint16 or float, got {array.dtype}")
    return Pixels.of(shaped)
