"""Lack of light: everywhere, with the noise that then shows, or in cast shadows of any shape."""

import math

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne
from daclip.degradations.draws import choose, log_ramp, log_uniform, logarithms, ramp, scalar, uniform
from daclip.degradations.fields import fractal, pixels, polygon, smooth_noise, smoothstep, softened
from daclip.degradations.options import Colours, Number, Range, Weights, configured
from daclip.pixels import quantise

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


@configured
class LowLight(Degradation):
    """An underexposed photo: linear light L becomes gain·L^gamma plus Poisson-Gaussian noise of variance shot·L +
    read², in its Gaussian approximation (Foi et al., "Practical Poissonian-Gaussian noise modeling", 2008)."""

    gain: Range = Range(1e-4, 1)
    gamma: Range = Range(0.1)
    shot: Range = Range()
    read: Range = Range()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Unit noise `[1, 3, H, W]` and (gain, gamma, shot, read), each `[1, 1, 1, 1]`."""
        gamma, shot, read = (ramp(ends, severity, generator) for ends in (self.gamma, self.shot, self.read))
        # Perceived brightness goes with the logarithm of light, so severity moves log(gain) evenly.
        gain = log_ramp(self.gain, severity, generator)
        noise = torch.randn(1, 3, height, width, generator=generator)
        settings = {"gamma": gamma, "shot": shot, "read": read, "gain": gain}
        return {"noise": noise, **{name: scalar(value) for name, value in settings.items()}}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Darken `[B, 3, H, W]` in linear light, add noise, and go back to sRGB."""
        light = drawn["gain"] * rgb_to_linear_rgb(images).pow(drawn["gamma"])
        deviation = (drawn["shot"] * light + drawn["read"] ** 2).sqrt()
        return linear_rgb_to_rgb((light + deviation * drawn["noise"]).clamp(0, 1)).clamp(0, 1)


@configured
class Night(OneByOne):
    """An exposure in linear light, gain·L, with Poisson-Gaussian noise of variance shot·L + read² (Foi et al.,
    "Practical Poissonian-Gaussian noise modeling", 2008), then the camera's processing: smoothing of the noise, tone
    curve, crushed blacks and 8 bit (Wei et al., "A Physics-based Noise Formation Model", 2020). With the chance
    `partial` the light is uneven: a lamp, a window, corners darker than the centre, or patches."""

    gain: Range = Range(1e-3, 1)
    shot: Range = Range(1e-9)
    read: Range = Range(1e-9)
    noiseless: Number = Number(0, 1)
    tints: Colours = Colours()
    contrast: Range = Range(0.1)
    black: Number = Number(0, 1)
    partial: Number = Number(0, 1)
    smooth: Number = Number(0, 1)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
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
            "contrast": scalar(log_uniform(self.contrast, generator)),
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
    def _light(height: int, width: int, generator: Generator) -> Tensor:
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


@configured
class Shadow(Degradation):
    """A soft cast shadow, a blob or polygon: I = J·(light of each channel), in linear light, as behind ISTD (Wang et
    al., "Stacked Conditional GANs for Shadow Detection and Removal", 2018). `light` is the share that remains, `blue`
    the gain of blue and loss of red; `coverage` and `softness` (edge in pixels) do not follow severity."""

    light: Range = Range(most=1)
    coverage: Range = Range(most=1)
    softness: Range = Range(0.1)
    blue: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
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


@configured
class CastShadows(Degradation):
    """Sunlight is blocked, the sky's light remains: J·(1 - m·(1 - f)) in linear light, with a mask m of soft edges and
    a bluish factor f (Finlayson et al., "On the removal of shadows from images", 2006; ISTD: Wang et al., 2018). The
    penumbra widens with the distance of what casts it, so also along the edge. Nothing changes outside the mask."""

    names = ("polygon", "blob", "edge", "leaves", "bars", "person", "branches")

    light: Range = Range(1e-3, 1)
    kinds: Weights = Weights(names)
    further: Number = Number(0, 1)
    coverage: Range = Range(most=1)
    penumbra: Range = Range(0.1)
    blue: Number = Number(0, 1)
    bounce: Number = Number(0, 1)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Share of the light that each pixel and channel keeps, `[1, 3, H, W]`, 1 outside of the shadows."""
        light = log_ramp(self.light, severity, generator)
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

    def _shadow(self, height: int, width: int, generator: Generator) -> Tensor:
        """Mask `[H, W]` of one shadow, from 0 to 1."""
        field = self._field(choose(self.kinds, generator), height, width, generator)
        most = min(self.penumbra[1], min(height, width) / 4)
        low, high = logarithms((self.penumbra[0], max(most, self.penumbra[0])))
        rows, columns = pixels(height, width)
        angle, taper = uniform(0, 2 * math.pi, generator), max(uniform(-2, 2, generator), 0.0)
        along = taper * (math.sin(angle) * rows / height + math.cos(angle) * columns / width)
        soft = torch.exp((uniform(low, high, generator) + along).clamp(low, high))
        return smoothstep(0.5 + field / soft)

    def _field(self, kind: str, height: int, width: int, generator: Generator) -> Tensor:
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


def _bars(height: int, width: int, generator: Generator) -> Tensor:
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


def _person(side: int, generator: Generator) -> Tensor:
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


def _branches(side: int, generator: Generator) -> Tensor:
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
