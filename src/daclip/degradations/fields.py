"""Pictures of numbers that the families share: coordinates, random fields, shapes and soft steps."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from daclip.degradations.draws import uniform

WAVES = 10  # of smooth noise


def pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the centre: rows `[H, 1]` and columns `[1, W]`, in pixels."""
    rows = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32)[None, :] - (width - 1) / 2
    return rows, columns


def smooth_noise(height: int, width: int, cell: float, generator: Generator) -> Tensor:
    """Smooth noise `[H, W]`, structures of about `cell` pixels, mean 0, standard deviation 1: plane waves of random
    direction and phase, so without preferred directions; computed at a few points a wave and scaled up."""
    waves = torch.rand(3, WAVES, 1, 1, generator=generator)
    direction, phase = 2 * math.pi * waves[0], 2 * math.pi * waves[1]
    frequency = math.pi / cell * (0.5 + 0.7 * waves[2])  # half a wave is one structure
    shape = [max(round(6 * side / cell), 8) for side in (height, width)]
    rows, columns = pixels(*shape)
    rows, columns = rows * (height / shape[0]), columns * (width / shape[1])
    field = torch.cos(frequency * (direction.sin() * rows + direction.cos() * columns) + phase).sum(dim=0)
    field = F.interpolate(field[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def fractal(height: int, width: int, cell: float, roughness: float, generator: Generator) -> Tensor:
    """Cloudy noise `[H, W]`, mean 0, standard deviation 1: midpoint displacement (Fournier et al. 1982) from structures
    of `cell` pixels down to two; each octave has `roughness` times the amplitude of the one before."""
    field, amplitude = torch.zeros(1, 1, 2, 2), 1.0
    while True:
        shape = [max(round(side / cell), 2) for side in (height, width)]
        field = F.interpolate(field, shape, mode="bicubic", align_corners=False)
        field = field + amplitude * torch.randn(1, 1, *shape, generator=generator)
        if cell <= 4:
            break
        cell, amplitude = cell / 2, amplitude * roughness
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=False)[0, 0]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def softened(images: Tensor, reach: int) -> Tensor:
    """Mean `[B, C, H, W]` of the square of `2·reach + 1` pixels a side; by sums of slices, several times faster on a
    CPU than `avg_pool2d`."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = sum((padded[..., i : i + height, :] for i in range(1, 2 * reach + 1)), padded[..., :height, :])
    total = sum((rows[..., i : i + width] for i in range(1, 2 * reach + 1)), rows[..., :width])
    return total / (2 * reach + 1) ** 2


def torus(height: int, width: int) -> tuple[int, int]:
    """Sides of a torus that holds the picture: multiples of 32, which transform fast."""
    return -(-height // 32) * 32, -(-width // 32) * 32


def streak(size: tuple[int, int], length: Tensor, breadth: Tensor, angle: Tensor, taper: float) -> Tensor:
    """Streaks `[N, H, W]` of peak 1 around the corner of a torus. Length and breadth (at half of the peak) in pixels
    and the angle from the vertical in radians are `[N, 1, 1]`; `taper` is the share of the length that fades."""
    rows, columns = (torch.fft.fftfreq(side, 1 / side) for side in size)  # pixels from the corner, the short way
    rows, columns = rows[:, None], columns[None, :]
    along = (rows * angle.cos() + columns * angle.sin()).abs()
    across = columns * angle.cos() - rows * angle.sin()
    ends = ((length / 2 - along) / (taper * length).clamp(min=1) + 0.5).clamp(0, 1)
    return ends * (1 - (across / breadth) ** 2).clamp(min=0) ** 2  # a bell without tails, which cost time as denormals


def strewn(kernels: Tensor, coverage: Tensor, light: Tensor, generator: Generator) -> Tensor:
    """The sum `[H, W]` of kernels `[N, H, W]` at random points of the torus, within [0, 1]. The copies of one kernel
    have peaks of 0.3 to 1 times its `light` and cover its share of `coverage`, both `[N, 1, 1]`."""
    # Copies of total area a·H·W at random points cover 1 - exp(-a).
    density = -torch.log1p(-coverage) / kernels.sum(dim=(1, 2), keepdim=True)
    numbers = torch.rand(kernels.shape, generator=generator)
    points = (numbers < density) * (0.3 + 0.7 * numbers / density)  # below the density, a number is still uniform
    spectrum = torch.fft.rfft2(points) * torch.fft.rfft2(light * kernels)
    return torch.fft.irfft2(spectrum.sum(dim=0), s=kernels.shape[-2:]).clamp(0, 1)


def clouds(height: int, width: int, sizes: Tensor, weights: Tensor, generator: Generator) -> Tensor:
    """White noise blurred to structures of several sizes in pixels and of given weights (both `[N]`), without steps in
    its slope; `[H, W]` of mean 0 and standard deviation 1."""
    noise = torch.randn(torus(height, width), generator=generator)
    rows, columns = torch.fft.fftfreq(noise.shape[0]), torch.fft.rfftfreq(noise.shape[1])
    squared = rows[:, None] ** 2 + columns**2
    # A Gaussian of a third of the size as its spectrum, times σ so that all sizes vary as much; without denormals.
    sigma = sizes[:, None, None] / 3
    pass_band = (
        weights[:, None, None] * sigma * torch.exp((-2 * (math.pi * sigma) ** 2 * squared).clamp(min=-60))
    ).sum(dim=0)
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * pass_band, s=noise.shape)[:height, :width]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def smoothstep(values: Tensor) -> Tensor:
    """A soft step: 0 below 0, 1 above 1, the cubic 3v² - 2v³ between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def patches(centres: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of `2·reach + 1` = P pixels a side around points (row, column) `[N, 2]`: the pixels' (row, column)
    `[N, P, 2]`, and their distance from the point along rows `[N, P, 1]` and along columns `[N, 1, P]`."""
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


def polygon(height: int, width: int, generator: Generator) -> Tensor:
    """Distance in pixels `[H, W]` from the inside of a convex polygon of three to five sides."""
    rows, columns = pixels(height, width)
    sides = int(torch.randint(3, 6, (), generator=generator))
    turn = uniform(0, 2 * math.pi, generator)
    shift = (uniform(-0.3, 0.3, generator) * height, uniform(-0.3, 0.3, generator) * width)
    field = torch.full((height, width), -math.inf)
    for side in range(sides):
        angle = turn + 2 * math.pi * (side + uniform(-0.3, 0.3, generator)) / sides
        offset = uniform(0, 0.3, generator) * min(height, width)
        line = (rows - shift[0]) * math.sin(angle) + (columns - shift[1]) * math.cos(angle) - offset
        field = torch.maximum(field, line)
    return field
