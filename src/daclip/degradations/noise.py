"""Sensor noise."""

import torch
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, span

__all__ = ["GaussianNoise"]


class GaussianNoise(Degradation):
    """Additive white Gaussian noise, y = x + n with n ~ N(0, (σ/255)²), independent in pixels and channels.

    The model of most denoising benchmarks (Zhang et al., "Beyond a Gaussian Denoiser", 2017).

    Args:
        sigma: Standard deviation, in 8-bit units.
    """

    def __init__(self, sigma: Span) -> None:
        self.sigma = span(sigma, "sigma")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Noise `[1, 3, H, W]`, already scaled."""
        low, high = self.sigma
        sigma = low + (high - low) * severity  # no jitter: sigma is the severity
        return {"noise": torch.randn(1, 3, height, width, generator=generator) * (sigma / 255)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Add the noise to `[B, 3, H, W]` and clip."""
        return (images + drawn["noise"]).clamp(0, 1)
