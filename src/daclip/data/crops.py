"""Crops of clean photos and their random changes, before anything is degraded."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MOST_LEAVES = 4  # pieces laid over one crop


def lay(piece: Tensor, ground: Tensor, generator: torch.Generator) -> Tensor:
    """Lay a random part of one image over another, with an edge one pixel soft.

    A few photos are soon known by heart; objects that hide each other at random give their textures endless
    edges and neighbours (the dead leaves model of natural images, Lee et al. 2001; as training data: Achddou
    et al. 2021). The part is a half-plane, an ellipse or a rectangle, turned and placed at random.

    Args:
        piece: float32 `[3, H, W]` in [0, 1].
        ground: What it comes to lie on, same shape and range.
        generator: Source of all draws.

    Returns:
        float32 `[3, H, W]` in [0, 1].
    """
    height, width = ground.shape[-2:]
    kind = int(torch.randint(3, (), generator=generator))
    angle, top, left, tall, wide = torch.rand(5, generator=generator).tolist()
    y = torch.arange(height)[:, None] - top * height
    x = torch.arange(width)[None, :] - left * width
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    # Half axes from an eighth to a half of the shorter side.
    a, b = (min(height, width) * (0.125 + 0.375 * part) for part in (tall, wide))
    if kind == 0:
        distance = u
    elif kind == 1:
        distance = ((u / a).square() + (v / b).square()).sqrt().sub(1) * min(a, b)
    else:
        distance = torch.maximum(u.abs() - a, v.abs() - b)
    return torch.lerp(ground, piece, (0.5 - distance).clamp(0, 1))


def random_crop(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square crop at a random place of `[..., H, W]`."""
    height, width = pixels.shape[-2:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return pixels[..., top : top + side, left : left + side]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _resized(pixels: Tensor, size: int) -> Tensor:
    """uint8 `[C, h, w]` as float32 `[C, size, size]` in [0, 1]."""
    image = pixels.float().div_(255)
    if image.shape[-1] == size:
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0].clamp_(0, 1)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the clean photo before it is degraded.

    Attributes:
        zoom: Range of the factor by which a crop is shrunk: 1 keeps the photo's own resolution, 0.5
            shows twice as much of the scene. Drawn log-uniformly.
        colour: Strength of the random gain per channel and of the random gamma; 0 leaves colours alone.
        flip: Mirror and turn by multiples of 90°.
        permute: Share of the crops whose colour channels change places.
        collage: Share of the crops over which further pieces of the photo are laid, see `lay`.
    """

    zoom: tuple[float, float]
    colour: float
    flip: bool
    permute: float = 0.0
    collage: float = 0.0

    def crop(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and change one crop: uint8 `[3, H, W]` → float32 `[3, size, size]` in [0, 1]."""
        image = self._piece(pixels, size, generator)
        if self.collage and _uniform(0, 1, generator) < self.collage:
            for _ in range(int(torch.randint(1, MOST_LEAVES + 1, (), generator=generator))):
                image = lay(self._piece(pixels, size, generator), image, generator)
        return image.contiguous()

    def _piece(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        shorter = min(pixels.shape[-2:])
        low, high = np.log(self.zoom[0]), np.log(self.zoom[1])
        side = min(shorter, round(size / float(np.exp(_uniform(low, high, generator)))))
        image = self._turned(_resized(random_crop(pixels, side, generator), size), generator)
        if self.permute and _uniform(0, 1, generator) < self.permute:
            image = image[torch.randperm(3, generator=generator)]
        if self.colour:
            gain = 1 + self.colour * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
            gamma = float(np.exp(self.colour * _uniform(-1, 1, generator)))
            image = image.pow(gamma).mul_(gain).clamp_(0, 1)
        return image

    def crop_pair(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Cut and turn the same crop of a photo and its own degraded version.

        Neither zoom nor colour: shrinking would remove real grain and change the scale of real rain or blur.

        Args:
            pixels: uint8 `[6, H, W]`, the two on top of each other.
            size: Side of the crop; a smaller photo is enlarged.
            generator: Source of all draws.

        Returns:
            float32 `[6, size, size]` in [0, 1].
        """
        side = min(size, *pixels.shape[-2:])
        return self._turned(_resized(random_crop(pixels, side, generator), size), generator).contiguous()

    def _turned(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not self.flip:
            return image
        draw = int(torch.randint(8, (), generator=generator))
        image = torch.rot90(image, draw % 4, (-2, -1))
        return image.flip(-1) if draw >= 4 else image
