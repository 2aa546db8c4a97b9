"""Drops of water on the glass in front of the lens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, ramp, span, uniform
from daclip.degradations.fields import patches, pixels, smoothstep, stamp

__all__ = ["Raindrops"]


class Raindrops(Degradation):
    """Drops that refract the scene: each shows it upside down, wider and out of focus, with soft edges.

    What Qian et al. photographed through wet glass ("Attentive Generative Adversarial Network for Raindrop
    Removal", 2018). A drop is a bump on a height map h; light bends by its gradient, so a pixel p sees
    p + (1 + k)·∇h. For the paraboloid h = (r² - |p - c|²)/2 that is c - k·(p - c): the scene around the
    drop's centre, flipped and k times as wide.

    Args:
        coverage: Share of the picture under drops.
        radius: Drop radii `[smallest, largest]` in pixels; at most a fifth of the picture's shorter side.
        bend: Range of k, how much wider than the drop the scene in it is; independent of severity.
        opacity: How much of the scene the middle of a drop hides, in [0, 1].
        shine: Largest change of brightness across a drop.
    """

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
        return {
            "opacity": (opacity * body)[None, None],
            "shine": shine[None, None],
            "look": torch.stack((x, y), dim=-1)[None],
        }

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
        # Water on glass is not quite round: an outline with two and three lobes.
        angle = torch.atan2(down, right)
        lobes = 0.08 * torch.cos(2 * angle + 6.3 * numbers[3][:, None, None])
        lobes = lobes + 0.06 * torch.cos(3 * angle + 6.3 * numbers[4][:, None, None])
        squared = (down**2 + right**2) * (1 + lobes) ** 2
        fill = 1 - squared / (radius**2)[:, None, None]
        lump = stamp((fill * (radius**2)[:, None, None] / 2).clamp(min=0), places, height, width)
        # The camera focuses on the scene, so a drop's edge is a third of its radius wide.
        body = stamp(smoothstep(1.8 * fill), places, height, width)
        return lump, body
