"""Scenes that no photo shows: pieces laid over each other."""

import math

import torch
from torch import Tensor

__all__ = ["lay"]


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
