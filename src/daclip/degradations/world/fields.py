"""Random fields on a torus (no border), made in the Fourier domain: streaks at scattered points, and clouds."""

import math

import torch
from torch import Tensor


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


def strewn(kernels: Tensor, coverage: Tensor, light: Tensor, generator: torch.Generator) -> Tensor:
    """The sum `[H, W]` of kernels `[N, H, W]` at random points of the torus, within [0, 1]. The copies of one kernel
    have peaks of 0.3 to 1 times its `light` and cover its share of `coverage`, both `[N, 1, 1]`."""
    # Copies of total area a·H·W at random points cover 1 - exp(-a).
    density = -torch.log1p(-coverage) / kernels.sum(dim=(1, 2), keepdim=True)
    numbers = torch.rand(kernels.shape, generator=generator)
    points = (numbers < density) * (0.3 + 0.7 * numbers / density)  # below the density, a number is still uniform
    spectrum = torch.fft.rfft2(points) * torch.fft.rfft2(light * kernels)
    return torch.fft.irfft2(spectrum.sum(dim=0), s=kernels.shape[-2:]).clamp(0, 1)


def clouds(height: int, width: int, sizes: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
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
