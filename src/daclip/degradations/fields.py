"""Cheap random fields and shapes for the weather and light families, all on the CPU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WAVES = 10


def pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the centre: rows `[H, 1]` and columns `[1, W]`, in pixels."""
    rows = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32)[None, :] - (width - 1) / 2
    return rows, columns


def smooth_noise(height: int, width: int, cell: float, generator: torch.Generator) -> Tensor:
    """Smooth noise with structures of about `cell` pixels, `[H, W]`, mean 0 and standard deviation 1.

    A sum of plane waves of random direction and phase, which has no preferred directions; evaluated at a few points a
    wave and scaled up, far cheaper than at full size.
    """
    waves = torch.rand(3, WAVES, 1, 1, generator=generator)
    direction, phase = 2 * math.pi * waves[0], 2 * math.pi * waves[1]
    frequency = math.pi / cell * (0.5 + 0.7 * waves[2])  # half a wave is one structure
    shape = [max(round(6 * side / cell), 8) for side in (height, width)]
    rows, columns = pixels(*shape)
    rows, columns = rows * (height / shape[0]), columns * (width / shape[1])
    field = torch.cos(frequency * (direction.sin() * rows + direction.cos() * columns) + phase).sum(dim=0)
    field = F.interpolate(field[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def smoothstep(values: Tensor) -> Tensor:
    """A soft step: 0 below 0, 1 above 1, the cubic 3v² - 2v³ between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def patches(centres: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of `2·reach + 1` = P pixels a side around points (row, column) `[N, 2]`, to draw a shape at each.

    Returns the pixels' (row, column), `[N, P, 2]`, and their distance from the point along rows `[N, P, 1]` and along
    columns `[N, 1, P]`.
    """
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    places = centres.round()[:, None, :] + steps[None, :, None]
    offsets = places - centres[:, None, :]
    return places.long(), offsets[:, :, 0, None], offsets[:, None, :, 1]


def stamp(values: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """A picture `[H, W]` of non-negative squares `[N, P, P]` at the places of `patches`; the largest value wins."""
    shape = (*places.shape[:2], places.shape[1])
    rows, columns = places[:, :, None, 0].expand(shape), places[:, None, :, 1].expand(shape)
    return largest(values, rows, columns, height, width)


def largest(values: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The largest of the non-negative values at each pixel, `[H, W]`, 0 where there is none; places may lie outside."""
    # A margin of one pixel collects what falls outside, which is cheaper than selecting what falls inside.
    index = (rows.clamp(-1, height) + 1) * (width + 2) + columns.clamp(-1, width) + 1
    canvas = torch.zeros((height + 2) * (width + 2))
    canvas.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return canvas.view(height + 2, width + 2)[1:-1, 1:-1]
