"""Rain: layers of falling streaks under a veil of farther rain or mist."""

import math

import torch
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.draws import log_ramp, log_uniform, ramp, scalar, tint, uniform
from daclip.degradations.fields import largest, smooth_noise, streak, strewn, torus
from daclip.degradations.options import Count, Number, Range, configured

TAPER = (0.1, 0.5)  # share of its length over which a streak fades at either end


@configured
class Rain(Degradation):
    """Streaks of rain in `layers` depths, under a grey `veil` of farther rain (Yang et al., "Deep Joint Rain Detection
    and Removal", 2017). `length` (pixels, at most half of the shorter side) and `opacity` are those of the nearest
    streaks; `opacity` and `veil` are in [0, 1], `tilt` in degrees from the vertical."""

    coverage: Range = Range(most=0.9)
    length: Range = Range(3)
    opacity: Range = Range(most=1)
    veil: Range = Range(most=1)
    tilt: Number = Number()
    layers: Count = Count()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity of the streaks `[1, 1, H, W]`, their brightness and the veil, both `[1, 1, 1, 1]`."""
        length = min(ramp(self.length, severity, generator), min(height, width) / 2)
        coverage = ramp(self.coverage, severity, generator) / self.layers
        opacity = ramp(self.opacity, severity, generator)
        veil = ramp(self.veil, severity, generator)
        angle = math.radians(uniform(-self.tilt, self.tilt, generator))
        streaks = torch.zeros(height, width)
        for layer in range(self.layers):
            nearness = 1 - 0.6 * layer / max(self.layers - 1, 1)
            breadth = 2.0 if layer == 0 else 1.0
            falling = _streaks(length * nearness, breadth, angle, coverage, height, width, generator)
            streaks = torch.maximum(streaks, opacity * nearness * falling)
        light = uniform(0.85, 1.0, generator)
        return {"streaks": streaks[None, None], "light": scalar(light), "veil": scalar(veil)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Veil `[B, 3, H, W]`, then blend with the light of the streaks."""
        veiled = torch.lerp(images, 0.8 * drawn["light"], drawn["veil"])
        return torch.lerp(veiled, drawn["light"], drawn["streaks"]).clamp(0, 1)


def _streaks(
    length: float, breadth: float, angle: float, coverage: float, height: int, width: int, generator: Generator
) -> Tensor:
    """Parallel streaks at random places, `[H, W]` in [0, 1]; the angle from the vertical is in radians."""
    taps = math.ceil(length)  # a streak is drawn row by row, sharing its light among the columns it touches
    lean = math.tan(angle) * taps
    # Streaks also begin outside: above the picture, and on the side that they come from.
    area = (height + taps) * (width + abs(lean))
    count = max(round(coverage * area / (0.8 * taps * breadth)), 1)
    numbers = torch.rand(count, 4, generator=generator).T[:, :, None]
    down = torch.arange(taps, dtype=torch.float32)
    rows = (numbers[0] * (height + taps) - taps).floor() + down
    middle = numbers[1] * (width + abs(lean)) - max(lean, 0.0) + math.tan(angle) * down
    # Bright in the middle, fading to both ends; lengths and brightnesses differ.
    place = down / taps / (0.6 + 0.4 * numbers[2])
    light = (0.4 + 0.6 * numbers[3]) * torch.sin(math.pi * place.clamp(max=1)).clamp(min=0).sqrt()
    columns = middle.floor()[:, :, None] + torch.arange(-1, 3)
    share = ((breadth + 1) / 2 - (columns - middle[:, :, None]).abs()).clamp(0, 1)
    rows = rows[:, :, None].expand_as(columns)
    return largest(light[:, :, None] * share, rows.long(), columns.long(), height, width)


@configured
class Rainfall(Degradation):
    """Streaks S of falling drops before a scene J in mist, I = J·(1 - k·S) + L·S: opaque for k = 1, additive for k = 0,
    as the exposure is long or the drop lit (Garg & Nayar, "Vision and Rain", 2007; Yang et al., "Deep Joint Rain
    Detection and Removal", 2017; Fu et al., "Removing Rain from Single Images via a Deep Detail Network", 2017).
    Severity moves `coverage`, `opacity` and `veil`, all in [0, 1]. Every sample draws the `length` and `width` of its
    nearest streaks (pixels; the length is at most half of the shorter side), their angle to the vertical (up to `tilt`
    degrees) and how much it varies between the `layers` (up to `spread` degrees). Streaks and mist are lit by a sky of
    `light` in [0, 1], whose channels deviate by up to `tint`."""

    coverage: Range = Range(0.001, 0.9)
    opacity: Range = Range(most=1)
    veil: Range = Range(most=1)
    length: Range = Range(2)
    width: Range = Range(0.5)
    tilt: Number = Number()
    spread: Number = Number()
    light: Range = Range(most=1)
    tint: Number = Number()
    layers: Count = Count()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity of the streaks and of the mist, both `[1, 1, H, W]`; their light `[1, 3, 1, 1]`, and k."""
        coverage = log_ramp(self.coverage, severity, generator)
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

    def _light(self, generator: Generator) -> Tensor:
        """A colour of the sky, `[1, 3, 1, 1]`."""
        deviation = tint(self.tint, generator)
        return (uniform(*self.light, generator) + deviation).clamp(0, 1)

    def _streaks(self, coverage: float, height: int, width: int, generator: Generator) -> Tensor:
        """All layers `[H, W]` in [0, 1]; the farther, the smaller and fainter."""
        length = log_uniform(self.length, generator)
        # A drop falls many times its size, which tells rain from driven snow.
        breadth = min(log_uniform(self.width, generator), length / 8)
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
