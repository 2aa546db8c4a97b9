"""Water on the glass before the lens: drops in and out of focus, trails, wet film, spatter of water and mud."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.draws import choose, log_ramp, log_uniform, ramp, scalar, tint, uniform
from daclip.degradations.fields import clouds, patches, pixels, smoothstep, stamp
from daclip.degradations.options import Count, Number, Range, Weights, configured

WATER, MUD = (0.72, 0.78, 0.84), (0.32, 0.24, 0.15)  # colours of spatter
CHAIN = 40  # drops that make up a trail


@configured
class Raindrops(Degradation):
    """Drops that show the scene upside down, wider and out of focus, with soft edges (Qian et al., "Attentive
    Generative Adversarial Network for Raindrop Removal", 2018). On a height map h a pixel p sees p + (1 + k)·∇h; for
    the bump h = (r² - |p - c|²)/2 that is c - k·(p - c). `bend` is the range of k, whatever the severity; `radius` is
    in pixels, at most a fifth of the shorter side; `shine` is the largest change of brightness."""

    coverage: Range = Range(most=0.9)
    radius: Range = Range(2)
    bend: Range = Range()
    opacity: Range = Range(most=1)
    shine: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
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

    def _drops(self, coverage: float, height: int, width: int, generator: Generator) -> tuple[Tensor, Tensor]:
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


@configured
class WaterOnGlass(Degradation):
    """The scene J through glass with water of opacity Z, I = J·(1 - Z) + R·Z. A drop is a lens of wide angle: R is the
    scene upside down and out of focus, dark above and lit by the sky below (Qian et al., "Attentive Generative
    Adversarial Network for Raindrop Removal", 2018; Roser & Geiger, "Video-Based Raindrop Detection", 2009). `kinds`
    are relative frequencies of drops with soft edges, `discs` far out of focus, a `film` of waves, and `spatter`, whose
    share of `mud` is brown. Severity moves `coverage` and `opacity`, both in [0, 1]. Each sample draws its typical
    `radius` in pixels (at most an eighth of the shorter side), the `view` of a drop (share of the shorter side), the
    `edge` over which it fades (share of its radius), the brightness of the `sky`, up to `trails` running drops and up
    to `glass`, the share of a blurred scene that dirty glass adds everywhere."""

    names = ("drops", "discs", "film", "spatter")

    kinds: Weights = Weights(names)
    coverage: Range = Range(0.001, 0.9)
    opacity: Range = Range(most=1)
    radius: Range = Range(1)
    view: Range = Range(most=2)
    edge: Range = Range(0.01)
    sky: Range = Range(most=1)
    trails: Count = Count()
    mud: Number = Number(0, 1)
    glass: Number = Number(0, 1)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity, darkness and glow of the water `[1, 1, H, W]`, where each pixel looks `[1, H, W, 2]` in [-1, 1], the
        colours of glow and stain `[1, 3, 1, 1]`, and the shares of stain, blur and glass."""
        coverage = log_ramp(self.coverage, severity, generator)
        opacity = ramp(self.opacity, severity, generator)
        kind = choose(self.kinds, generator)
        side = min(height, width)
        view = side * uniform(*self.view, generator)
        sky = uniform(*self.sky, generator) + tint(0.04, generator)
        lean = uniform(-0.5, 0.5, generator)  # of the light, in radians from the vertical
        stain, colour = 0.0, WATER
        if kind in ("drops", "discs"):
            body, down, right = self._drops(kind, coverage, view, height, width, generator)
        else:
            finest = side / 30 if kind == "spatter" else side / 6
            body, down, right = _patches(kind, coverage, finest, height, width, generator)
            if kind == "spatter":
                muddy = uniform(0, 1, generator) < self.mud
                colour = MUD if muddy else WATER
                stain = uniform(0.5, 1, generator) if muddy else uniform(0, 0.6, generator)
            view = 3 * float((down.square() + right.square()).mean().sqrt())  # a few slopes are steeper
        # Slopes of -1 to 1 from one edge of a drop to the other; upside down, the sky shines from below.
        slope = -(down * math.cos(lean) + right * math.sin(lean)) / view
        contrast = uniform(0.2, 1, generator)
        glow = contrast * (uniform(0, 0.4, generator) + 0.6 * smoothstep((slope - uniform(-0.2, 0.4, generator)) / 0.5))
        dark = uniform(0.2, 0.7, generator) * smoothstep(-slope / 0.8)
        if kind == "discs":
            glow, dark = torch.full_like(slope, 0.7 * contrast), torch.zeros_like(slope)
        rows, columns = pixels(height, width)
        look = torch.stack(((columns + right) * (2 / width), (rows + down) * (2 / height)), dim=-1)
        muddied = uniform(0.7, 1.1, generator) * torch.tensor(colour).view(1, 3, 1, 1)
        return {
            "opacity": (opacity * body)[None, None],
            "dark": dark[None, None],
            "glow": glow[None, None],
            "look": look[None],
            "sky": sky.clamp(0, 1),
            "colour": muddied.clamp(0, 1),
            "stain": scalar(stain),
            "blur": scalar(uniform(0, 1, generator) if kind != "discs" else 1.0),
            "glass": scalar(ramp((0, self.glass), severity, generator) * uniform(0, 1, generator) ** 2),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Blur `[B, 3, H, W]` a little by the glass, then cover it with water."""
        fine, coarse = _blurred(images, 3), _blurred(images, 8)
        seen = F.grid_sample(
            torch.lerp(fine, coarse, drawn["blur"]), drawn["look"], padding_mode="reflection", align_corners=False
        )
        seen = torch.lerp(seen * (1 - drawn["dark"]), drawn["sky"], drawn["glow"])
        seen = torch.lerp(seen, drawn["colour"] * (1 - drawn["dark"]), drawn["stain"])
        return torch.lerp(torch.lerp(images, fine, drawn["glass"]), seen, drawn["opacity"]).clamp(0, 1)

    def _drops(
        self, kind: str, coverage: float, view: float, height: int, width: int, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outline in [0, 1], and by how many pixels the water moves the view down and right; each `[H, W]`."""
        most = min(height, width) / 8
        typical = log_uniform((min(self.radius[0], most), min(self.radius[1], most)), generator)
        edge = log_uniform(self.edge, generator) if kind == "drops" else uniform(0.15, 0.9, generator)
        ragged = uniform(0, 0.3, generator)
        stretch = uniform(1, 1.5, generator)
        # Half of the cover by large drops, half by droplets; N random discs of total area a·H·W cover 1 - exp(-a).
        cover = -math.log(1 - coverage) * height * width
        share = uniform(0.3, 1, generator) if kind == "drops" else 1.0
        body, lump = torch.zeros(height, width), torch.zeros(height, width)
        for radius, part in ((typical, share), (max(typical / 3, 1.5), 1 - share)):
            count = max(round(cover * part / (1.4 * math.pi * radius**2)), 1)
            numbers = torch.rand(count, 6, generator=generator).T  # the first drops do not depend on the count
            centres = numbers[:2].T * torch.tensor([height, width])
            sizes = radius * (0.5 + 1.3 * numbers[2] ** 2)
            lens = torch.ones(count)
            if radius == typical:
                centres[0] = torch.tensor([height, width]) * (0.2 + 0.6 * numbers[:2, 0])  # one drop is well inside
            elif kind == "drops":
                chains = self._trails(radius, height, width, generator)
                centres, sizes = torch.cat((centres, chains[:, :2])), torch.cat((sizes, chains[:, 2]))
                lens = torch.cat((lens, torch.zeros(len(chains))))  # a trail is a film, its drops are not apart
                numbers = torch.cat((numbers, torch.full((6, len(chains)), 0.5)), dim=1)
            places, down, right = patches(centres, math.ceil(1.8 * radius * (1 + ragged / 2 + edge / 2)))
            sizes = sizes[:, None, None]
            far = (down.square() + right.square() + 0.01).sqrt()
            sine = right / far
            first, second = (numbers[row, :, None, None] - 0.5 for row in (3, 4))
            # An outline of two and three lobes, and a drop that hangs: longer than wide.
            lobes = ragged * (first * (2 * sine.square() - 1) + second * sine * (3 - 4 * sine.square()))
            distance = far * (1 + lobes) * (1 + (stretch - 1) * sine.square()) / sizes
            outline = smoothstep((1 - distance) / edge + 0.5)
            light = 1.0 if kind == "drops" else 0.3 + 0.6 * numbers[5, :, None, None]
            body = torch.maximum(body, stamp(light * outline, places, height, width))
            hill = view * lens[:, None, None] * sizes * (1 - distance.square()).clamp(min=0) / 2
            lump = torch.maximum(lump, stamp(hill, places, height, width))
        down, right = torch.gradient(lump)
        return body, down.clamp(-view, view), right.clamp(-view, view)

    def _trails(self, radius: float, height: int, width: int, generator: Generator) -> Tensor:
        """Running drops, each a chain that becomes thinner upwards: row, column and radius `[N, 3]`."""
        count = int((self.trails + 1) * uniform(0, 1, generator) ** 4)  # none in most samples
        numbers = torch.rand(4, count, 1, generator=generator)
        place = torch.linspace(0, 1, CHAIN)
        rows = height * numbers[0] - place * CHAIN * 0.6 * radius
        columns = width * numbers[1] + radius * torch.sin(6 * numbers[2] + (2 + 4 * numbers[3]) * place)
        sizes = (radius * (1 - 0.7 * place)).expand_as(rows)
        return torch.stack((rows, columns, sizes), dim=-1).view(-1, 3)


def _patches(
    kind: str, coverage: float, finest: float, height: int, width: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A film of water over `coverage` of the picture, as `_drops` has it: irregular patches of several scales."""
    sizes = finest * torch.tensor([1.0, 2.0, 4.0])
    field = clouds(height, width, sizes, 0.5 + torch.rand(3, generator=generator), generator)
    field = field - torch.quantile(field.flatten()[::7], 1 - coverage)
    thick = uniform(0.1, 0.6, generator) if kind == "spatter" else uniform(0.6, 1.5, generator)  # of the edge
    body = smoothstep(field / thick + 0.5) * (0.7 + 0.3 * smoothstep(field))
    down, right = torch.gradient(field)
    scale = finest * uniform(0.3, 1.5, generator)
    return body, scale * down, scale * right


def _blurred(images: Tensor, factor: int) -> Tensor:
    """Photos `[B, 3, H, W]` averaged over squares of `factor` pixels, smooth between them."""
    size = [max(side // factor, 4) for side in images.shape[-2:]]
    small = F.interpolate(images, size, mode="area")
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
