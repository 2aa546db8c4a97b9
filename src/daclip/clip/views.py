"""How a photo of any size becomes square CLIP inputs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from daclip.errors import DaclipError

__all__ = ["VIEWS", "View", "crop", "multi_crop", "resize"]

View = Callable[[Tensor, int], Tensor]

MAX_CROPS_PER_SIDE = 3


def _shrink(images: Tensor, shorter: int) -> Tensor:
    """Resize so that the shorter side becomes `shorter` (bicubic, antialiased), the longer cut as torchvision does."""
    height, width = images.shape[-2:]
    size = (shorter * height // min(height, width), shorter * width // min(height, width))
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _centre(images: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def resize(images: Tensor, size: int) -> Tensor:
    """The whole photo, shrunk to CLIP's size, as the original does: `[B, 3, H, W]` to `[B, 1, 3, s, s]`.

    Fine corruptions such as noise or JPEG blocks vanish when a large photo is shrunk.
    """
    return _centre(_shrink(images, size), size)[:, None]


def crop(images: Tensor, size: int) -> Tensor:
    """The centre at full resolution: `[B, 3, H, W]` to `[B, 1, 3, s, s]`; small photos are enlarged."""
    return _centre(images if min(images.shape[-2:]) >= size else _shrink(images, size), size)[:, None]


def multi_crop(images: Tensor, size: int) -> Tensor:
    """An even grid of at most 3×3 crops at full resolution: `[B, 3, H, W]` to `[B, V, 3, s, s]`.

    The crops cover photos of up to three times CLIP's size and sample larger ones. A photo that already
    has CLIP's size is its own single view.
    """
    if min(images.shape[-2:]) < size:
        images = _shrink(images, size)

    def starts(length: int) -> list[int]:
        count = min(math.ceil(length / size), MAX_CROPS_PER_SIDE)
        return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]

    height, width = images.shape[-2:]
    corners = [(top, left) for top in starts(height) for left in starts(width)]
    return torch.stack([images[..., y : y + size, x : x + size] for y, x in corners], dim=1)


VIEWS: dict[str, View] = {"resize": resize, "crop": crop, "multi_crop": multi_crop}


def view_by_name(name: str) -> View:
    """The view called `name`.

    Raises:
        DaclipError: There is none of that name.
    """
    if name not in VIEWS:
        raise DaclipError(f"clip.view={name} is not known; choose from {', '.join(VIEWS)}")
    return VIEWS[name]
