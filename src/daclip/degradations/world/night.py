"""Photos with too little light: dim, dark, partly lit, in the colour of lamps, with a small sensor's noise."""

import math
from collections.abc import Mapping, Sequence

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

from daclip.degradations.base import (
    Drawn,
    Span,
    choose,
    fraction,
    logarithms,
    pixels,
    ramp,
    scalar,
    smooth_noise,
    softened,
    span,
    uniform,
)
from daclip.degradations.compose import OneByOne
from daclip.degradations.weather import smoothstep
from daclip.pixels import quantise


class Night(OneByOne):
    """An exposure in linear light, gain·L, with Poisson-Gaussian noise of variance shot·L + read² (Foi et al.,
    "Practical Poissonian-Gaussian noise modeling", 2008), then the camera's processing: smoothing of the noise, tone
    curve, crushed blacks and 8 bit (Wei et al., "A Physics-based Noise Formation Model", 2020). With the chance
    `partial` the light is uneven: a lamp, a window, corners darker than the centre, or patches."""

    def __init__(
        self,
        gain: Span,
        shot: Span,
        read: Span,
        noiseless: float,
        tints: Mapping[str, Sequence[float]],
        contrast: Span,
        black: float,
        partial: float,
        smooth: float,
    ) -> None:
        self.gain = span(gain, "gain", least=1e-3, most=1)
        self.shot = span(shot, "shot", least=1e-9)
        self.read = span(read, "read", least=1e-9)
        self.noiseless = fraction(noiseless, "noiseless")
        self.tints = {name: torch.tensor([float(v) for v in tint]).view(1, 3, 1, 1) for name, tint in tints.items()}
        self.contrast = span(contrast, "contrast", least=0.1)
        self.black = fraction(black, "black")
        self.partial = fraction(partial, "partial")
        self.smooth = fraction(smooth, "smooth")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Gain of each pixel and channel `[1, 3, H, W]`, unit noise `[1, 3, H, W]`, and numbers `[1, 1, 1, 1]`."""
        # Perceived brightness goes with the logarithm of light, so severity moves log(gain) evenly.
        gain = ramp(logarithms(self.gain), severity, generator)
        uneven = uniform(0, 1, generator) < self.partial
        light = self._light(height, width, generator) if uneven else torch.zeros(height, width)
        tint = self.tints[choose(dict.fromkeys(self.tints, 1.0), generator)]
        tint = torch.lerp(torch.ones(()), tint, uniform(0, 1, generator) ** 3)  # mostly slight
        loud = uniform(0, 1, generator) >= self.noiseless
        # One sensitivity for both: a small or hot sensor has more of either noise.
        level = uniform(0, 1, generator)
        low, high = logarithms(self.shot), logarithms(self.read)
        return {
            "gain": tint * torch.exp(gain * (1 - light)),
            "shot": scalar(loud * math.exp(low[0] + (low[1] - low[0]) * level)),
            "read": scalar(loud * math.exp(high[0] + (high[1] - high[0]) * level)),
            "noise": torch.randn(1, 3, height, width, generator=generator),
            "smooth": scalar(max(uniform(-self.smooth, self.smooth, generator), 0.0)),
            "contrast": scalar(math.exp(uniform(*logarithms(self.contrast), generator))),
            "black": scalar(self.black * uniform(0, 1, generator) ** 2),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Expose `[B, 3, H, W]` in linear light, add noise, and develop it to 8-bit sRGB."""
        light = drawn["gain"] * rgb_to_linear_rgb(images)
        noisy = light + (drawn["shot"] * light + drawn["read"] ** 2).sqrt() * drawn["noise"]
        photo = linear_rgb_to_rgb(noisy.clamp(0, 1)).clamp(0, 1)
        photo = torch.lerp(photo, softened(photo, 1), drawn["smooth"]).pow(drawn["contrast"])
        return quantise((photo - drawn["black"]) / (1 - drawn["black"]))

    @staticmethod
    def _light(height: int, width: int, generator: torch.Generator) -> Tensor:
        """Where light still falls, `[H, W]` from 0 to 1."""
        rows, columns = pixels(height, width)
        top, left, tall, wide, strength = torch.rand(5, generator=generator).tolist()
        rows, columns = rows / height - (top - 0.5), columns / width - (left - 0.5)
        kind = int(torch.randint(4, (), generator=generator))
        if kind == 0:  # a lamp's cone or a spot
            light = torch.exp(-((rows / (0.1 + 0.4 * tall)) ** 2) - (columns / (0.1 + 0.4 * wide)) ** 2)
        elif kind == 1:  # a window, or a sky above dark ground
            inside = torch.minimum(0.1 + 0.4 * tall - rows.abs(), 0.1 + 0.4 * wide - columns.abs())
            light = smoothstep(0.5 + inside / uniform(0.02, 0.3, generator))
        elif kind == 2:  # darker towards the corners
            light = (1 + (1 + 4 * tall) * (rows**2 + columns**2)) ** -2
        else:
            patches = smooth_noise(height, width, max(height, width) / uniform(1, 4, generator), generator)
            light = smoothstep(patches / (0.5 + 2 * wide))
        return (0.3 + 0.7 * strength) * light
