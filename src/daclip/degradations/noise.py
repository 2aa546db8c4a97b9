"""Noise of a camera's sensor."""

import math

import torch
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, fraction, logarithms, ramp, span, uniform
from daclip.pixels import LUMA


class GaussianNoise(Degradation):
    """White Gaussian noise, y = x + n, n ~ N(0, (σ/255)²) (Zhang et al., "Beyond a Gaussian Denoiser", 2017). `gray` in
    [0, 1] is the chance that a sample's noise is the same in all channels."""

    def __init__(self, sigma: Span, gray: float = 0.0) -> None:
        self.sigma = span(sigma, "sigma")
        self.gray = fraction(gray, "gray")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Noise `[1, 3, H, W]`, already scaled."""
        low, high = self.sigma
        sigma = low + (high - low) * severity  # no jitter: sigma is the severity
        noise, _ = _normal(height, width, self.gray, generator)
        return {"noise": noise * (sigma / 255)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Add the noise to `[B, 3, H, W]` and clip."""
        return (images + drawn["noise"]).clamp(0, 1)


class PoissonNoise(Degradation):
    """Photon noise, y = Poisson(peak·x) / peak, as a Gaussian of variance x / peak (Real-ESRGAN, Wang et al., 2021: its
    scale s is peak = 256 / s²). `gray` in [0, 1] is the chance that all channels share the noise of the luma."""

    def __init__(self, peak: Span, gray: float = 0.0) -> None:
        self.peak = span(peak, "peak", least=1)
        self.gray = fraction(gray, "gray")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Noise of a white pixel `[1, 3, H, W]`, and whether it is gray, bool `[1, 1, 1, 1]`."""
        # In equal ratios: noise goes with the square root of the peak.
        deviation = math.exp(-0.5 * ramp(logarithms(self.peak), severity, generator))
        noise, is_gray = _normal(height, width, self.gray, generator)
        return {"noise": noise * deviation, "gray": torch.tensor([is_gray]).view(1, 1, 1, 1)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Add noise to `[B, 3, H, W]` by the light of each pixel, and clip."""
        luma = (LUMA.to(images.device) * images).sum(dim=1, keepdim=True)
        light = torch.where(drawn["gray"], luma, images)
        return (images + light.sqrt() * drawn["noise"]).clamp(0, 1)


def _normal(height: int, width: int, gray: float, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Unit noise `[1, 3, H, W]`, and whether it has the same values in all channels, by the chance `gray`."""
    is_gray = gray > 0 and uniform(0, 1, generator) < gray
    noise = torch.randn(1, 1 if is_gray else 3, height, width, generator=generator)
    return noise.expand(1, 3, height, width), is_gray
