"""Cast shadows of things in and out of the picture: hard and soft, one or several, of any shape."""

import math
from collections.abc import Mapping

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

from daclip.degradations.base import (
    Degradation,
    Drawn,
    Span,
    choose,
    fractal,
    fraction,
    logarithms,
    pixels,
    ramp,
    smooth_noise,
    span,
    uniform,
    weights_of,
)
from daclip.degradations.light import polygon
from daclip.degradations.weather import smoothstep

BODY = torch.tensor(  # of a standing person, in heights: ends (across, up) of each limb and its half-width
    [
        [0.0, 0.93, 0.0, 0.94, 0.07],  # head
        [0.0, 0.78, 0.0, 0.5, 0.1],
        [-0.06, 0.45, -0.09, 0.0, 0.05],
        [0.06, 0.45, 0.09, 0.0, 0.05],
        [-0.11, 0.78, -0.17, 0.45, 0.035],
        [0.11, 0.78, 0.17, 0.45, 0.035],
    ]
)
BRANCHES = 7  # a stem that divides twice


class CastShadows(Degradation):
    """Sunlight is blocked, the sky's light remains: J·(1 - m·(1 - f)) in linear light, with a mask m of soft edges and
    a bluish factor f (Finlayson et al., "On the removal of shadows from images", 2006; ISTD: Wang et al., 2018). The
    penumbra widens with the distance of what casts it, so also along the edge. Nothing changes outside the mask."""

    kinds = ("polygon", "blob", "edge", "leaves", "bars", "person", "branches")

    def __init__(
        self,
        light: Span,
        kinds: Mapping[str, float],
        further: float,
        coverage: Span,
        penumbra: Span,
        blue: float,
        bounce: float,
    ) -> None:
        self.light = span(light, "light", least=1e-3, most=1)
        self.weights = weights_of(self.kinds, kinds)
        self.further = fraction(further, "further")
        self.coverage = span(coverage, "coverage", most=1)
        self.penumbra = span(penumbra, "penumbra", least=0.1)
        self.blue = fraction(blue, "blue")
        self.bounce = fraction(bounce, "bounce")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Share of the light that each pixel and channel keeps, `[1, 3, H, W]`, 1 outside of the shadows."""
        light = math.exp(ramp(logarithms(self.light), severity, generator))
        mask = torch.zeros(height, width)
        while True:  # shadows of one sun do not add up: where two overlap the sun is hidden once
            mask = torch.maximum(mask, self._shadow(height, width, generator))
            if uniform(0, 1, generator) >= self.further:
                break
        # The deeper the shadow, the more of its light comes from the sky.
        blue = uniform(-0.2, 1, generator) * self.blue
        colour = light ** torch.tensor([1 + blue, 1.0, 1 - blue]).view(3, 1, 1)
        # Walls and ground around send some light back, to one part of the shadow more than to another.
        uneven = uniform(0, self.bounce, generator) * smooth_noise(height, width, max(height, width) / 2, generator)
        factor = (colour * torch.exp(uneven)).clamp(0, 1)
        return {"factor": (1 - mask * (1 - factor))[None]}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Darken `[B, 3, H, W]` in linear light."""
        shaded = linear_rgb_to_rgb(rgb_to_linear_rgb(images) * drawn["factor"]).clamp(0, 1)
        return torch.where(drawn["factor"] < 1, shaded, images)

    def _shadow(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Mask `[H, W]` of one shadow, from 0 to 1."""
        field = self._field(choose(self.weights, generator), height, width, generator)
        most = min(self.penumbra[1], min(height, width) / 4)
        low, high = logarithms((self.penumbra[0], max(most, self.penumbra[0])))
        rows, columns = pixels(height, width)
        angle, taper = uniform(0, 2 * math.pi, generator), max(uniform(-2, 2, generator), 0.0)
        along = taper * (math.sin(angle) * rows / height + math.cos(angle) * columns / width)
        soft = torch.exp((uniform(low, high, generator) + along).clamp(low, high))
        return smoothstep(0.5 + field / soft)

    def _field(self, kind: str, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Distance to the shadow's edge in pixels `[H, W]`, roughly; positive inside."""
        rows, columns = pixels(height, width)
        side = min(height, width)
        if kind == "bars":
            field = _bars(height, width, generator)
        elif kind in ("person", "branches"):
            limbs = _person(side, generator) if kind == "person" else _branches(side, generator)
            field = _limbs(limbs, rows, columns)
            field = field + (0.04 * side - field.max()).clamp(min=0)  # thick and near enough to be seen
        else:
            if kind == "polygon":
                field = -polygon(height, width, generator)
            elif kind == "blob":
                cell = max(height, width) / uniform(1.2, 3, generator)
                field = smooth_noise(height, width, cell, generator) * (cell / 3)  # a slope of about 1 a pixel
            elif kind == "leaves":
                cell = side / uniform(2, 8, generator)
                field = fractal(height, width, cell, uniform(0.3, 0.7, generator), generator) * (cell / 4)
            else:
                angle = uniform(0, 2 * math.pi, generator)
                field = math.sin(angle) * rows + math.cos(angle) * columns
                wobble = uniform(0, 0.05, generator) * side
                field = field + wobble * smooth_noise(height, width, side / uniform(1, 6, generator), generator)
            # A level that leaves the wanted share above it; every fourth pixel tells it well enough.
            level = torch.quantile(field[::4, ::4], 1 - uniform(*self.coverage, generator))
            field = field - level
        return field


def _bars(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A fence, blinds or a window's frame: the distance of `CastShadows._field`."""
    rows, columns = pixels(height, width)
    angle, phase = uniform(0, 2 * math.pi, generator), uniform(0, 1, generator)
    period = min(height, width) / math.exp(uniform(0, math.log(8), generator))
    share = uniform(0.2, 0.7, generator)
    field = torch.full((height, width), -math.inf)
    for turn in (0.0, math.pi / 2)[: 1 + (uniform(0, 1, generator) < 0.4)]:
        across = math.sin(angle + turn) * rows + math.cos(angle + turn) * columns
        field = torch.maximum(field, (share / 2 - ((across / period + phase) % 1 - 0.5).abs()) * period)
    return field


def _limbs(limbs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Distance `[H, W]` to the edge of the union of limbs, positive inside. A limb is a segment with round ends: its
    two points (row, column) and half-width, `[N, 5]`."""
    top, left, bottom, right, half = limbs.T[:, :, None, None]
    down, across = bottom - top, right - left
    length = (down**2 + across**2).clamp(min=1e-6)
    place = (((rows - top) * down + (columns - left) * across) / length).clamp(0, 1)
    distance = ((rows - top - place * down) ** 2 + (columns - left - place * across) ** 2).sqrt()
    return (half - distance).max(dim=0).values


def _person(side: int, generator: torch.Generator) -> Tensor:
    """Limbs of a person, lying as a shadow at any angle and length, as in `_limbs`."""
    tall = side * math.exp(uniform(math.log(0.5), math.log(2.5), generator))
    wide = tall * uniform(0.7, 1.3, generator)
    angle = uniform(0, 2 * math.pi, generator)
    pose = BODY + 0.04 * torch.randn(BODY.shape, generator=generator) * torch.tensor([1.0, 0.3, 1.0, 0.3, 0.0])
    # The middle of the body lies near the middle of the picture.
    shift = side * (torch.rand(2, generator=generator) - 0.5)
    across, up = wide * pose[:, 0:4:2], tall * (pose[:, 1:4:2] - 0.6)
    rows = shift[0] + math.cos(angle) * up + math.sin(angle) * across
    columns = shift[1] + math.cos(angle) * across - math.sin(angle) * up
    return torch.cat((torch.stack((rows, columns), dim=2).flatten(1), wide * pose[:, 4:]), dim=1)


def _branches(side: int, generator: torch.Generator) -> Tensor:
    """Limbs of a tree or an arm with fingers, thinner towards the ends, as in `_limbs`."""
    angle = uniform(0, 2 * math.pi, generator)
    start = torch.tensor([-math.sin(angle), -math.cos(angle)]) * side * uniform(0.4, 0.7, generator)
    nodes = [(start, angle, side * uniform(0.4, 0.7, generator), side * math.exp(uniform(-3.5, -2.2, generator)))]
    limbs = []
    for number in range(BRANCHES):
        begin, angle, length, half = nodes[number]
        end = begin + length * torch.tensor([math.sin(angle), math.cos(angle)])
        limbs.append(torch.cat([begin, end, torch.tensor([half])]))
        for hand in (-1, 1):
            turned = angle + hand * uniform(0.1, 0.9, generator)
            shorter, thinner = uniform(0.5, 0.9, generator), uniform(0.5, 0.8, generator)
            nodes.append((end, turned, shorter * length, thinner * half))
    return torch.stack(limbs)
