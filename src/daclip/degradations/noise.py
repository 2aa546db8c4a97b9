"""Noise: white, of photons, and of many other origins, as cameras and their processing leave it."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.digital import resaved
from daclip.degradations.draws import choose, log_ramp, logarithms, ramp, scalar, uniform
from daclip.degradations.options import Number, Range, Weights, configured
from daclip.pixels import LUMA

BILINEAR = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
"""Interpolation of red and blue from a quarter of the pixels (Malvar et al., 2004)."""

CROSS = torch.tensor([[0.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 0.0]])
"""Interpolation of green from half of the pixels."""

HUGE = 1e4  # noise that drives any pixel into black or white


@configured
class GaussianNoise(Degradation):
    """White Gaussian noise, y = x + n, n ~ N(0, (σ/255)²) (Zhang et al., "Beyond a Gaussian Denoiser", 2017). `gray` in
    [0, 1] is the chance that a sample's noise is the same in all channels."""

    sigma: Range = Range()
    gray: Number = Number(0, 1, default=0.0)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Noise `[1, 3, H, W]`, already scaled."""
        low, high = self.sigma
        sigma = low + (high - low) * severity  # no jitter: sigma is the severity
        noise, _ = _normal(height, width, self.gray, generator)
        return {"noise": noise * (sigma / 255)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Add the noise to `[B, 3, H, W]` and clip."""
        return (images + drawn["noise"]).clamp(0, 1)


@configured
class PoissonNoise(Degradation):
    """Photon noise, y = Poisson(peak·x) / peak, as a Gaussian of variance x / peak (Real-ESRGAN, Wang et al., 2021: its
    scale s is peak = 256 / s²). `gray` in [0, 1] is the chance that all channels share the noise of the luma."""

    peak: Range = Range(1)
    gray: Number = Number(0, 1, default=0.0)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
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


def _normal(height: int, width: int, gray: float, generator: Generator) -> tuple[Tensor, bool]:
    """Unit noise `[1, 3, H, W]`, and whether it has the same values in all channels, by the chance `gray`."""
    is_gray = gray > 0 and uniform(0, 1, generator) < gray
    noise = torch.randn(1, 1 if is_gray else 3, height, width, generator=generator)
    return noise.expand(1, 3, height, width), is_gray


@configured
class AnyNoise(Degradation):
    """y = (x^γ + n·√(v₀ + v₁·x^γ + v₂·x^2γ))^(1/γ), clipped, at 8 bit, with a noise field n of unit deviation: v₀ is
    read noise, v₁ that of photons, v₂ speckle (Foi et al., "Practical Poissonian-Gaussian noise modeling", 2008).
    `kinds` weigh: `plain` white Gaussian noise; `gray`, the same in all channels; `tinted`, with a σ a channel;
    `photons`; `speckle`; `impulses`, salt and pepper; `blotchy`, correlated over pixels, coarser in the colours;
    `camera`, shot and read noise in linear light through white balance, Bayer mosaic, colour matrix and tone curve
    (Brooks et al., "Unprocessing images for learned raw denoising", 2019); `mixed`. `sigma` (8-bit units, at mid grey)
    runs in equal ratios, as `camera_sigma` of `blotchy` and `camera`, but `plain_sigma` evenly; `impulses` is the share
    of pixels; `jpeg` the chance that a sample is saved as JPEG of `jpeg_quality`, except plain ones."""

    names = ("plain", "gray", "tinted", "photons", "speckle", "impulses", "blotchy", "camera", "mixed")

    kinds: Weights = Weights(names)
    sigma: Range = Range(0.1)
    plain_sigma: Range = Range()
    camera_sigma: Range = Range(0.1)
    impulses: Range = Range(most=1)
    jpeg: Number = Number(0, 1)
    jpeg_quality: Range = Range(1, 100)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Noise `[1, 3, H, W]`, variances v₀, v₁, v₂ of each channel `[1, 3, 3, 1, 1]`, γ `[1, 1, 1, 1]`, and JPEG's
        quality or 0, int64 `[1, 1]`."""
        kind = choose(self.kinds, generator)
        gamma, quality, channels = 1.0, 0, torch.ones(3)
        noise = torch.randn(3, height, width, generator=generator)
        if kind == "plain":
            sigma = self.plain_sigma[0] + (self.plain_sigma[1] - self.plain_sigma[0]) * severity
            parts = (1.0, 0.0, 0.0)
        else:
            sigmas = self.camera_sigma if kind in ("blotchy", "camera") else self.sigma
            sigma = log_ramp(sigmas, severity, generator)
            parts = self._parts(kind, generator)
            if uniform(0, 1, generator) < self.jpeg:
                quality = round(uniform(*self.jpeg_quality, generator))
        if kind == "gray" or (kind in ("photons", "speckle", "mixed") and uniform(0, 1, generator) < 0.3):
            noise = noise[:1].expand(3, -1, -1)
        elif kind in ("tinted", "mixed"):
            channels = torch.rand(3, generator=generator) * 1.6 + 0.2
        elif kind == "blotchy":
            noise = blotchy(noise, generator)
        elif kind == "camera":
            gamma = uniform(1.6, 2.4, generator)
            noise, channels = self._developed(noise, generator)
        if kind in ("impulses", "mixed"):
            share = ramp(self.impulses, severity**2, generator) * (1 if kind == "impulses" else 0.2)
            noise = with_impulses(noise * (kind == "mixed"), share, generator)
        # At mid grey the tone curve has the slope 0.5^(1 - γ) / γ, and all parts together the variance σ².
        deviation = sigma / 255 * gamma * 0.5 ** (gamma - 1)
        light = 0.5**gamma
        total = sum(part * light**power for power, part in enumerate(parts))
        variances = torch.tensor(parts) * (deviation**2 / total)
        return {
            "noise": noise[None].contiguous(),
            "variances": (channels.square()[:, None] * variances)[None, :, :, None, None],
            "gamma": scalar(gamma),
            "jpeg": torch.tensor([[quality]]),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Add noise to `[B, 3, H, W]` in its light; clip, and save at 8 bit."""
        gamma = drawn["gamma"]
        light = images.clamp(0, 1) if (gamma == 1).all() else images.clamp(1e-6, 1) ** gamma
        constant, photons, speckle = drawn["variances"].unbind(2)
        noisy = (light + drawn["noise"] * (constant + light * (photons + light * speckle)).sqrt()).clamp(0, 1)
        if not (gamma == 1).all():
            noisy = noisy ** (1 / gamma)
        return resaved(noisy, drawn["jpeg"]) if drawn["jpeg"].any() else (noisy * 255).round() / 255

    def _parts(self, kind: str, generator: Generator) -> tuple[float, float, float]:
        """v₀, v₁, v₂ up to a common factor."""
        numbers = torch.rand(3, generator=generator).tolist()
        if kind == "photons":
            return 0.0, 1.0, 0.0
        if kind == "speckle":
            return 0.0, 0.0, 1.0
        if kind == "mixed":
            return numbers[0], 2 * numbers[1], 4 * numbers[2]
        return (0.02 * numbers[0] ** 2, 1.0, 0.0) if kind == "camera" else (1.0, 0.0, 0.0)

    def _developed(self, noise: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Raw noise `[3, H, W]` after mosaic, interpolation, colour matrix and sometimes a denoiser that leaves
        blotches; and the gains of the white balance `[3]`."""
        numbers = torch.rand(8, generator=generator).tolist()
        noise = demosaiced(noise)
        # A colour matrix keeps grey: its rows sum to 1, negative off the diagonal.
        mix = torch.rand(3, 3, generator=generator) * -0.4
        mix.fill_diagonal_(0)
        mix = mix + torch.diag(1 - mix.sum(dim=1))
        noise = (mix @ noise.flatten(1)).view_as(noise)
        if numbers[0] < 0.75:
            noise = blotchy(noise, generator)
        if numbers[1] < 0.15:  # rows are read out together
            noise = noise + 0.5 * torch.randn(1, noise.shape[1], 1, generator=generator)
        gains = torch.tensor([1 + numbers[2], 1.0, 1 + numbers[3]]).sqrt()  # of photons' deviation
        return _unit(noise), gains


def blotchy(noise: Tensor, generator: Generator) -> Tensor:
    """Noise `[3, H, W]` smoothed by up to 1.2 pixels in its luma and up to 3.5 in its colours, of unit deviation: what
    processing that thinks little of colours leaves."""
    numbers = torch.rand(4, generator=generator).tolist()
    luma = noise.mean(dim=0, keepdim=True)
    colours = _smooth(noise - luma, 0.5 + 3 * numbers[0])
    luma = _smooth(luma, 0.2 + numbers[1])
    balance = 0.2 + 1.3 * numbers[2]
    return _unit(luma / luma.std() + balance * colours / colours.std())


def demosaiced(values: Tensor) -> Tensor:
    """Values `[3, H, W]` seen through a Bayer mosaic (RGGB) and interpolated from its neighbours bilinearly. Noise
    alone may go this way, since all is linear: the clean photo keeps its detail."""
    mosaic = torch.zeros_like(values)
    mosaic[0, ::2, ::2] = values[0, ::2, ::2]
    mosaic[1, ::2, 1::2] = values[1, ::2, 1::2]
    mosaic[1, 1::2, ::2] = values[1, 1::2, ::2]
    mosaic[2, 1::2, 1::2] = values[2, 1::2, 1::2]
    kernels = torch.stack((BILINEAR, CROSS, BILINEAR))[:, None]
    return F.conv2d(F.pad(mosaic[None], (1, 1, 1, 1), mode="reflect"), kernels, groups=3)[0]


def with_impulses(noise: Tensor, share: float, generator: Generator) -> Tensor:
    """Noise `[3, H, W]` with a share of its pixels far beyond black or white, in all channels or in each."""
    together = uniform(0, 1, generator) < 0.5
    salt = uniform(0.3, 0.7, generator) if uniform(0, 1, generator) < 0.8 else float(uniform(0, 1, generator) < 0.5)
    hits = torch.rand(1 if together else 3, *noise.shape[1:], generator=generator)
    noise = torch.where(hits < share, -HUGE, noise)
    return torch.where(hits < share * salt, HUGE, noise)


def _smooth(values: Tensor, sigma: float) -> Tensor:
    """Planes `[N, H, W]` under a Gaussian of σ pixels."""
    reach = math.ceil(2.5 * sigma)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(values[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def _unit(noise: Tensor) -> Tensor:
    return noise / noise.std()
