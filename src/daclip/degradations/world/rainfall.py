"""Rain of all exposures: layers of streaks in several directions, under mist."""

import math

import torch
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, logarithms, ramp, scalar, smooth_noise, span, uniform
from daclip.degradations.world.fields import streak, strewn, torus

TAPER = (0.1, 0.5)  # share of its length over which a streak fades at either end


class Rainfall(Degradation):
    """Streaks S of falling drops before a scene J in mist, I = J·(1 - k·S) + L·S: opaque for k = 1, additive for k = 0,
    as the exposure is long or the drop lit (Garg & Nayar, "Vision and Rain", 2007; Yang et al., "Deep Joint Rain
    Detection and Removal", 2017; Fu et al., "Removing Rain from Single Images via a Deep Detail Network", 2017).
    Severity moves `coverage`, `opacity` and `veil`, all in [0, 1]. Every sample draws the `length` and `width` of its
    nearest streaks (pixels; the length is at most half of the shorter side), their angle to the vertical (up to `tilt`
    degrees) and how much it varies between the `layers` (up to `spread` degrees). Streaks and mist are lit by a sky of
    `light` in [0, 1], whose channels deviate by up to `tint`."""

    def __init__(
        self,
        coverage: Span,
        opacity: Span,
        veil: Span,
        length: Span,
        width: Span,
        tilt: float,
        spread: float,
        light: Span,
        tint: float,
        layers: int,
    ) -> None:
        self.coverage = span(coverage, "coverage", least=0.001, most=0.9)
        self.opacity = span(opacity, "opacity", most=1)
        self.veil = span(veil, "veil", most=1)
        self.length = span(length, "length", least=2)
        self.width = span(width, "width", least=0.5)
        self.tilt = float(tilt)
        self.spread = float(spread)
        self.light = span(light, "light", most=1)
        self.tint = float(tint)
        self.layers = int(layers)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Opacity of the streaks and of the mist, both `[1, 1, H, W]`; their light `[1, 3, 1, 1]`, and k."""
        coverage = math.exp(ramp(logarithms(self.coverage), severity, generator))
        opacity = ramp(self.opacity, severity, generator)
        veil = ramp(self.veil, severity, generator) * uniform(0, 1, generator) ** 2
        streaks = opacity * self._streaks(coverage, height, width, generator)
        # Rain comes in sheets, and mist with them.
        sheets = torch.sigmoid(1.5 * smooth_noise(height, width, max(height, width) / 2, generator))
        lit, grey = (self._light(generator) for _ in range(2))
        return {
            "streaks": (streaks * (0.4 + 0.6 * sheets))[None, None],
            "veil": (veil * (0.5 + sheets))[None, None].clamp(max=1),
            "light": lit,
            "mist": grey * uniform(0.75, 1, generator),
            "opaque": scalar(uniform(0, 1, generator)),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Mist over `[B, 3, H, W]`, then the streaks; too much light saturates."""
        veiled = torch.lerp(images, drawn["mist"], drawn["veil"])
        streaks = drawn["streaks"]
        return (veiled * (1 - drawn["opaque"] * streaks) + drawn["light"] * streaks).clamp(0, 1)

    def _light(self, generator: torch.Generator) -> Tensor:
        """A colour of the sky, `[1, 3, 1, 1]`."""
        tint = self.tint * (2 * torch.rand(1, 3, 1, 1, generator=generator) - 1)
        return (uniform(*self.light, generator) + tint).clamp(0, 1)

    def _streaks(self, coverage: float, height: int, width: int, generator: torch.Generator) -> Tensor:
        """All layers `[H, W]` in [0, 1]; the farther, the smaller and fainter."""
        length = math.exp(uniform(*logarithms(self.length), generator))
        # A drop falls many times its size, which tells rain from driven snow.
        breadth = min(math.exp(uniform(*logarithms(self.width), generator)), length / 8)
        tilt = self.tilt * uniform(-1, 1, generator) * uniform(0, 1, generator)
        spread = self.spread * uniform(0, 1, generator) ** 2
        nearness = torch.linspace(1, uniform(0.3, 0.9, generator), self.layers)[:, None, None]
        numbers = torch.rand(4, self.layers, 1, 1, generator=generator)
        breadths = (breadth * nearness * (0.8 + 0.4 * numbers[1])).clamp(min=self.width[0])
        kernels = streak(
            torus(height, width),
            (length * nearness * (0.7 + 0.6 * numbers[0])).clamp(2, min(height, width) / 2),
            breadths,
            torch.deg2rad(tilt + spread * (2 * numbers[2] - 1)),
            uniform(*TAPER, generator),
        )
        share = numbers[3] + 0.2
        light = nearness * (1.5 / breadths).clamp(max=1).sqrt()  # a streak out of focus is wider and fainter
        return strewn(kernels, coverage * share / share.sum(), light, generator)[:height, :width]
