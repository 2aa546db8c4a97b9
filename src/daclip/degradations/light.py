"""Lack of light: everywhere, or in a cast shadow."""

import math

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

from daclip.degradations.base import (
    Degradation,
    Drawn,
    Span,
    logarithms,
    pixels,
    ramp,
    scalar,
    smooth_noise,
    span,
    uniform,
)


class LowLight(Degradation):
    """An underexposed photo: linear light L becomes gain·L^gamma plus Poisson-Gaussian noise of variance shot·L +
    read², in its Gaussian approximation (Foi et al., "Practical Poissonian-Gaussian noise modeling", 2008)."""

    def __init__(self, gain: Span, gamma: Span, shot: Span, read: Span) -> None:
        self.gain = span(gain, "gain", least=1e-4, most=1)
        self.gamma = span(gamma, "gamma", least=0.1)
        self.shot = span(shot, "shot")
        self.read = span(read, "read")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Unit noise `[1, 3, H, W]` and (gain, gamma, shot, read), each `[1, 1, 1, 1]`."""
        gamma, shot, read = (ramp(ends, severity, generator) for ends in (self.gamma, self.shot, self.read))
        # Perceived brightness goes with the logarithm of light, so severity moves log(gain) evenly.
        gain = math.exp(ramp(logarithms(self.gain), severity, generator))
        noise = torch.randn(1, 3, height, width, generator=generator)
        settings = {"gamma": gamma, "shot": shot, "read": read, "gain": gain}
        return {"noise": noise, **{name: scalar(value) for name, value in settings.items()}}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Darken `[B, 3, H, W]` in linear light, add noise, and go back to sRGB."""
        light = drawn["gain"] * rgb_to_linear_rgb(images).pow(drawn["gamma"])
        deviation = (drawn["shot"] * light + drawn["read"] ** 2).sqrt()
        return linear_rgb_to_rgb((light + deviation * drawn["noise"]).clamp(0, 1)).clamp(0, 1)


class Shadow(Degradation):
    """A soft cast shadow, a blob or polygon: I = J·(light of each channel), in linear light, as behind ISTD (Wang et
    al., "Stacked Conditional GANs for Shadow Detection and Removal", 2018). `light` is the share that remains, `blue`
    the gain of blue and loss of red; `coverage` and `softness` (edge in pixels) do not follow severity."""

    def __init__(self, light: Span, coverage: Span, softness: Span, blue: float) -> None:
        self.light = span(light, "light", most=1)
        self.coverage = span(coverage, "coverage", most=1)
        self.softness = span(softness, "softness", least=0.1)
        self.blue = float(blue)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Shadow mask `[1, 1, H, W]` in [0, 1] and sRGB factors in the shadow `[1, 3, 1, 1]`."""
        light = ramp(self.light, severity, generator)
        colour = torch.tensor([1 - self.blue, 1.0, 1 + self.blue]) * light
        if uniform(0, 1, generator) < 0.5:
            cell = max(height, width) / uniform(1.5, 3.0, generator)
            # Scaled to a typical slope of 1 a pixel, so that levels are distances.
            field = smooth_noise(height, width, cell, generator) * (cell / 3)
        else:
            field = polygon(height, width, generator)
        # The level that leaves the wanted share below it: every crop has shadow, light and an edge.
        level = torch.quantile(field, uniform(*self.coverage, generator))
        mask = torch.sigmoid((level - field) * (4 / uniform(*self.softness, generator)))
        # sRGB is close to a power 1/2.2 of light, and a power of a product is a product of powers: scaling
        # light by f is scaling sRGB by f^(1/2.2), without converting the picture.
        return {"mask": mask[None, None], "factor": colour.clamp(0, 1).pow(1 / 2.2).view(1, 3, 1, 1)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Multiply `[B, 3, H, W]` by 1 outside and by the factors inside the shadow."""
        return (images * (1 - drawn["mask"] * (1 - drawn["factor"]))).clamp(0, 1)


def polygon(height: int, width: int, generator: torch.Generator) -> Tensor:
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
