"""Photos inside a page: scaled, with a zoomed crop, as data addresses."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from daclip.images import load_image, to_pil

WIDEST = 480  # pixels of a picture in the page
ZOOMED = 288  # side of the zoomed crop in the page
LOSSLESS_AREA = 256 * 256


@dataclass(frozen=True)
class Shown:
    """One photo of a page.

    Attributes:
        whole: Picture (`lq`, `restored`, `hq`) to the data address of the whole photo with the crop's frame.
        zoom: Picture to the data address of the crop.
    """

    whole: dict[str, str]
    zoom: dict[str, str]


def _address(picture: Image.Image) -> str:
    content = io.BytesIO()
    kind = "PNG" if picture.width * picture.height <= LOSSLESS_AREA else "JPEG"
    picture.save(content, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _place(before: torch.Tensor, after: torch.Tensor, side: int) -> tuple[int, int]:
    """Left and top of the square in which two photos `[3, H, W]` differ most."""
    difference = (before - after).abs().mean(0)[None, None]
    mean = F.avg_pool2d(difference, side, stride=max(side // 8, 1))[0, 0]
    row, column = divmod(int(mean.argmax()), mean.shape[1])
    return column * max(side // 8, 1), row * max(side // 8, 1)


def show(folder: Path, files: Mapping[str, str], side: int) -> Shown:
    """Read the pictures of one photo and zoom to where the degradation, or what is left of it, is strongest.

    Args:
        folder: Holds the files.
        files: Picture to file name; `restored` and `hq` at least.
        side: Of the crop in pixels of the photo.

    Raises:
        DaclipError: A file is missing or damaged.
    """
    images = {name: load_image(folder / file) for name, file in files.items()}
    side = min(side, *images["hq"].shape[1:])
    left, top = _place(images.get("lq", images["restored"]), images["hq"], side)
    whole, zoom = {}, {}
    for name, image in images.items():
        picture = to_pil(image)
        crop = picture.crop((left, top, left + side, top + side))
        zoom[name] = _address(crop.resize((ZOOMED, ZOOMED), Image.Resampling.NEAREST))
        scale = min(1.0, WIDEST / picture.width)
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        frame = [round(v * scale) for v in (left, top, left + side - 1, top + side - 1)]
        ImageDraw.Draw(small).rectangle(frame, outline="#ffd400", width=2)
        whole[name] = _address(small)
    return Shown(whole, zoom)
