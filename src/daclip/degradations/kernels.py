"""Formulas of blur kernels; all return `[K, K]` of unit sum, where K = 2·reach + 1."""

import math

import torch
from torch import Tensor

__all__ = ["box", "defocus", "elliptic", "gaussian", "line", "plateau", "sinc"]


def gaussian(squared: Tensor, shape: float) -> Tensor:
    """Generalised Gaussian, exp(-(r²)^shape / 2); shape 1 is the Gaussian, below it has heavier tails.

    Args:
        squared: Elliptic distance r² from `elliptic`.
        shape: Exponent β (Liu et al., "Estimating generalized Gaussian blur kernels for out-of-focus image
            deblurring", 2020).
    """
    return _unit(torch.exp(-0.5 * squared.pow(shape)))


def plateau(squared: Tensor, shape: float) -> Tensor:
    """A flat top with soft sides, 1 / (1 + (r²)^shape), as in Real-ESRGAN.

    Args:
        squared: Elliptic distance r² from `elliptic`.
        shape: Exponent; larger makes the sides steeper.
    """
    return _unit(1 / (1 + squared.pow(shape)))


def sinc(reach: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass filter, ω·J₁(ω·r) / (2π·r): ringing and overshoot, as sharpening leaves them.

    Args:
        reach: Pixels from the centre to the border of the kernel.
        cutoff: ω in radians a pixel, up to π.
    """
    rows, columns = _grid(reach)
    distance = (rows**2 + columns**2).sqrt()
    ringing = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    ringing[reach, reach] = cutoff**2 / (4 * math.pi)  # the limit at r = 0
    return _unit(ringing)


def defocus(reach: int, radius: float) -> Tensor:
    """A disc with an edge one pixel wide: the image of a point by a lens out of focus.

    Args:
        reach: Pixels from the centre to the border of the kernel.
        radius: Of the disc, in pixels.
    """
    rows, columns = _grid(reach)
    return _unit((radius + 0.5 - (rows**2 + columns**2).sqrt()).clamp(0, 1))


def line(reach: int, length: float, angle: float) -> Tensor:
    """A straight stroke, one pixel wide.

    Args:
        reach: Pixels from the centre to the border of the kernel.
        length: Of the stroke, in pixels.
        angle: Its direction in radians.
    """
    rows, columns = _grid(reach)
    along = (rows * math.sin(angle) + columns * math.cos(angle)).abs()
    across = (rows * math.cos(angle) - columns * math.sin(angle)).abs()
    return _unit((length / 2 + 0.5 - along).clamp(0, 1) * (1 - across).clamp(min=0))


def box(reach: int, width: float) -> Tensor:
    """A square of equal weights, its border pixels weighed by what it covers of them.

    Args:
        reach: Pixels from the centre to the border of the kernel.
        width: Side of the square in pixels.
    """
    rows, columns = _grid(reach)
    return _unit((width / 2 + 0.5 - rows.abs()).clamp(0, 1) * (width / 2 + 0.5 - columns.abs()).clamp(0, 1))


def elliptic(reach: int, along: float, across: float, angle: float) -> Tensor:
    """Squared distance from the centre, in units of two standard deviations' axes, `[K, K]`.

    Args:
        reach: Pixels from the centre to the border of the kernel.
        along: Scale in the direction of the angle, in pixels.
        across: Scale across it.
        angle: In radians.
    """
    rows, columns = _grid(reach)
    first = rows * math.sin(angle) + columns * math.cos(angle)
    second = rows * math.cos(angle) - columns * math.sin(angle)
    return (first / along) ** 2 + (second / across) ** 2


def _grid(reach: int) -> tuple[Tensor, Tensor]:
    """Pixels from the centre: rows `[K, 1]` and columns `[1, K]`."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return steps[:, None], steps[None, :]


def _unit(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
