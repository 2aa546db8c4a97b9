"""Weather between the camera and the scene: haze, rain, snow, and drops on the glass."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, pixels, ramp, scalar, smooth_noise, span, uniform


class Haze(Degradation):
    """Atmospheric scattering, I = J·t + A·(1 - t), t = exp(-β·d): Koschmieder's law as in RESIDE (Li et al.,
    "Benchmarking Single-Image Dehazing and Beyond", 2019). Depth d is drawn, from `nearest` to 1 (a slope rising to the
    top, smooth variation). Airlight A does not follow severity; `tint` is the largest deviation of its channels."""

    def __init__(self, beta: Span, nearest: float, airlight: Span, tint: float) -> None:
        self.beta = span(beta, "beta")
        self.nearest = float(nearest)
        self.airlight = span(airlight, "airlight", most=1)
        self.tint = float(tint)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Transmission `[1, 1, H, W]` in (0, 1] and airlight `[1, 3, 1, 1]`."""
        rows, columns = pixels(height, width)
        lean = uniform(-0.5, 0.5, generator)
        slope = lean * columns / width - rows / height
        distance = slope + 0.25 * smooth_noise(height, width, max(height, width) / 3, generator)
        distance = (distance - distance.min()) / (distance.max() - distance.min())
        distance = self.nearest + (1 - self.nearest) * distance
        transmission = torch.exp(-ramp(self.beta, severity, generator) * distance)
        brightness = uniform(*self.airlight, generator)
        airlight = brightness + self.tint * (2 * torch.rand(1, 3, 1, 1, generator=generator) - 1)
        return {"transmission": transmission[None, None], "airlight": airlight.clamp(0, 1)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Blend `[B, 3, H, W]` with the airlight by the transmission."""
        return torch.lerp(drawn["airlight"], images, drawn["transmission"]).clamp(0, 1)


class Rain(Degradation):
    """Streaks of rain in `layers` depths, under a grey `veil` of farther rain (Yang et al., "Deep Joint Rain Detection
    and Removal", 2017). `length` (pixels, at most half of the shorter side) and `opacity` are those of the nearest
    streaks; `opacity` and `veil` are in [0, 1], `tilt` in degrees from the vertical."""

    def __init__(self, coverage: Span, length: Span, opacity: Span, veil: Span, tilt: float, layers: int) -> None:
        self.coverage = span(coverage, "coverage", most=0.9)
        self.length = span(length, "length", least=3)
        self.opacity = span(opacity, "opacity", most=1)
        self.veil = span(veil, "veil", most=1)
        self.tilt = float(tilt)
        self.layers = int(layers)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
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


class Snow(Degradation):
    """Soft bright flakes of an `opacity` in [0, 1], drawn out up to `stretch` times, under a white `veil` in [0, 1]
    (Liu et al., "DesnowNet", 2018, Snow100K). `radii` in pixels, one `[smallest, largest]` a layer, far to near."""

    def __init__(
        self, coverage: Span, radii: Sequence[Sequence[float]], opacity: Span, veil: Span, stretch: float
    ) -> None:
        self.coverage = span(coverage, "coverage", most=0.9)
        self.radii = tuple(span(layer, "radii", least=0.5) for layer in radii)
        self.opacity = span(opacity, "opacity", most=1)
        self.veil = span(veil, "veil", most=1)
        self.stretch = float(stretch)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Opacity of the flakes `[1, 1, H, W]` and the veil `[1, 1, 1, 1]`."""
        coverage = ramp(self.coverage, severity, generator) / len(self.radii)
        opacity = ramp(self.opacity, severity, generator)
        veil = ramp(self.veil, severity, generator)
        wind = uniform(-math.pi / 4, math.pi / 4, generator)
        stretch = uniform(1, self.stretch, generator)
        flakes = torch.zeros(height, width)
        for small, large in self.radii:
            mean_area = math.pi * stretch * ((small + large) / 2) ** 2
            count = max(round(coverage * height * width / mean_area), 1)
            numbers = torch.rand(count, 6, generator=generator).T  # the first flakes do not depend on the count
            centres = numbers[:2].T * torch.tensor([height, width])
            radius = (small + (large - small) * numbers[2])[:, None, None]
            places, down, right = patches(centres, math.ceil(1.5 * large * stretch))
            # Every flake has its own direction near the wind's, so that they do not line up like rain.
            angle = (wind + 0.8 * (numbers[3] - 0.5))[:, None, None]
            along = down * angle.cos() + right * angle.sin()
            across = right * angle.cos() - down * angle.sin()
            squash = 0.7 + 0.3 * numbers[4][:, None, None]
            distance = ((along / stretch) ** 2 + (across / squash) ** 2).sqrt() / radius
            brightness = 0.6 + 0.4 * numbers[5][:, None, None]
            layer = stamp(brightness * smoothstep((1.4 - distance) / 0.9), places, height, width)
            flakes = torch.maximum(flakes, layer)
        return {"flakes": (opacity * flakes)[None, None], "veil": scalar(veil)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Veil `[B, 3, H, W]`, then cover it with white flakes."""
        white = torch.ones_like(drawn["veil"])
        veiled = torch.lerp(images, 0.9 * white, drawn["veil"])
        return torch.lerp(veiled, white, drawn["flakes"]).clamp(0, 1)


def _streaks(
    length: float, breadth: float, angle: float, coverage: float, height: int, width: int, generator: torch.Generator
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


class Raindrops(Degradation):
    """Drops that show the scene upside down, wider and out of focus, with soft edges (Qian et al., "Attentive
    Generative Adversarial Network for Raindrop Removal", 2018). On a height map h a pixel p sees p + (1 + k)·∇h; for
    the bump h = (r² - |p - c|²)/2 that is c - k·(p - c). `bend` is the range of k, whatever the severity; `radius` is
    in pixels, at most a fifth of the shorter side; `shine` is the largest change of brightness."""

    def __init__(self, coverage: Span, radius: Span, bend: Span, opacity: Span, shine: float) -> None:
        self.coverage = span(coverage, "coverage", most=0.9)
        self.radius = span(radius, "radius", least=2)
        self.bend = span(bend, "bend")
        self.opacity = span(opacity, "opacity", most=1)
        self.shine = float(shine)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Opacity and shine `[1, 1, H, W]`, and where each pixel looks `[1, H, W, 2]`, in [-1, 1]."""
        coverage = ramp(self.coverage, severity, generator)
        opacity = ramp(self.opacity, severity, generator)
        bend = uniform(*self.bend, generator)
        lump, body = self._drops(coverage, height, width, generator)
        down, right = torch.gradient(lump)
        rows, columns = pixels(height, width)
        x = (columns + (1 + bend) * right) * (2 / width)
        y = (rows + (1 + bend) * down) * (2 / height)
        # Brighter below and darker above, as the sky stands on its head in a drop; bright at the rim.
        size = lump.sqrt().clamp(min=1)
        rim = 4 * body * (1 - body)
        shine = self.shine * (0.5 * rim - (down / size).clamp(-1, 1) * body)
        look = torch.stack((x, y), dim=-1)
        return {"opacity": (opacity * body)[None, None], "shine": shine[None, None], "look": look[None]}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Blend `[B, 3, H, W]` with the refracted, blurred scene inside the drops."""
        # The drop is out of focus and shows more scene than it has pixels: both ask for a blurred source.
        blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
        seen = F.grid_sample(blurred, drawn["look"], padding_mode="reflection", align_corners=False)
        return torch.lerp(images, seen + drawn["shine"], drawn["opacity"]).clamp(0, 1)

    def _drops(self, coverage: float, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Height map in pixels² and softened outline in [0, 1], both `[H, W]`."""
        smallest, largest = (min(radius, min(height, width) / 5) for radius in self.radius)
        # Small drops are more frequent than large ones: r = smallest + (largest - smallest)·u².
        gap = largest - smallest
        mean_area = math.pi * (smallest**2 + 2 * smallest * gap / 3 + gap**2 / 5)
        mean_area = 0.72 * mean_area  # a drop hides half of the light at 0.85 of its radius (see `body`)
        # Overlaps: N random discs of total area a·H·W cover 1 - exp(-a).
        count = max(round(-math.log(1 - coverage) * height * width / mean_area), 1)
        numbers = torch.rand(count, 5, generator=generator).T  # the first drops do not depend on the count
        centres = numbers[:2].T * torch.tensor([height, width])
        radius = smallest + gap * numbers[2] ** 2
        radius[0] = (smallest + largest) / 2  # one drop of fair size is always well inside
        centres[0] = torch.tensor([height, width]) * (0.2 + 0.6 * numbers[:2, 0])
        places, down, right = patches(centres, math.ceil(largest / (1 - 0.14)))  # 0.14: both lobes below
        angle = torch.atan2(down, right)  # water on glass is not quite round: an outline with two and three lobes
        lobes = 0.08 * torch.cos(2 * angle + 6.3 * numbers[3][:, None, None])
        lobes = lobes + 0.06 * torch.cos(3 * angle + 6.3 * numbers[4][:, None, None])
        squared = (down**2 + right**2) * (1 + lobes) ** 2
        fill = 1 - squared / (radius**2)[:, None, None]
        lump = stamp((fill * (radius**2)[:, None, None] / 2).clamp(min=0), places, height, width)
        # The camera focuses on the scene, so a drop's edge is a third of its radius wide.
        body = stamp(smoothstep(1.8 * fill), places, height, width)
        return lump, body


def smoothstep(values: Tensor) -> Tensor:
    """A soft step: 0 below 0, 1 above 1, the cubic 3v² - 2v³ between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def patches(centres: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of `2·reach + 1` = P pixels a side around points (row, column) `[N, 2]`: the pixels' (row, column)
    `[N, P, 2]`, and their distance from the point along rows `[N, P, 1]` and along columns `[N, 1, P]`."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    places = centres.round()[:, None, :] + steps[None, :, None]
    offsets = places - centres[:, None, :]
    return places.long(), offsets[:, :, 0, None], offsets[:, None, :, 1]


def stamp(values: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """A picture `[H, W]` of non-negative squares `[N, P, P]` at the places of `patches`; the largest value wins."""
    shape = (*places.shape[:2], places.shape[1])
    rows, columns = places[:, :, None, 0].expand(shape), places[:, None, :, 1].expand(shape)
    return largest(values, rows, columns, height, width)


def largest(values: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The largest of the non-negative values at each pixel, `[H, W]`, 0 where there is none; places may lie outside."""
    # A margin of one pixel collects what falls outside, which is cheaper than selecting what falls inside.
    index = (rows.clamp(-1, height) + 1) * (width + 2) + columns.clamp(-1, width) + 1
    canvas = torch.zeros((height + 2) * (width + 2))
    canvas.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return canvas.view(height + 2, width + 2)[1:-1, 1:-1]
