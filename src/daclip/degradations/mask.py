"""Missing parts of a picture, for inpainting."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, fraction, ramp, span, uniform


class Inpainting(Degradation):
    """Free-form holes of the value `fill`: strokes (Yu et al., "Free-Form Image Inpainting with Gated Convolution",
    2019), blocks with chance `blocks`, or with chance `halves` a missing side, half the picture at severity 1
    (Lugmayr et al., "RePaint", 2022). `brush` is in pixels, up to an eighth of the shorter side, at any severity."""

    def __init__(self, coverage: Span, brush: Span, blocks: float, fill: float, halves: float = 0.0) -> None:
        self.coverage = span(coverage, "coverage", most=0.9)
        self.brush = span(brush, "brush", least=1)
        self.blocks = float(blocks)
        self.fill = float(fill)
        self.halves = fraction(halves, "halves")

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Mask `[1, 1, H, W]`, bool, true where the picture is missing."""
        if self.halves and uniform(0, 1, generator) < self.halves:
            return {"mask": self._side(height, width, severity, generator)[None, None]}
        wanted = ramp(self.coverage, severity, generator) * height * width
        # Pillow's rasteriser is the cheapest there is for thick lines, and deterministic.
        canvas = Image.new("L", (width, height))
        pen = ImageDraw.Draw(canvas)
        mask = np.zeros((height, width), dtype=bool)
        while mask.sum() < wanted:
            paint = self._block if uniform(0, 1, generator) < self.blocks else self._stroke
            paint(pen, height, width, generator)
            mask = np.asarray(canvas) > 0
        return {"mask": torch.from_numpy(mask)[None, None]}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Overwrite the missing pixels of `[B, 3, H, W]`; all others stay bit for bit."""
        return torch.where(drawn["mask"], self.fill, images)

    def _side(self, height: int, width: int, severity: float, generator: torch.Generator) -> Tensor:
        """Everything above, below, left or right of a line, bool `[H, W]`."""
        share = 0.5 * ramp((min(2 * self.coverage[0], 1.0), 1.0), severity, generator)
        mask = torch.zeros(height, width, dtype=torch.bool)
        turned, mirrored = torch.randint(2, (2,), generator=generator).tolist()
        line = mask.T if turned else mask
        line[: round(share * line.shape[0])] = True
        return mask.flip(int(turned)) if mirrored else mask

    def _stroke(self, pen: ImageDraw.ImageDraw, height: int, width: int, generator: torch.Generator) -> None:
        """One wandering line with round joints and ends."""
        side = min(height, width)
        thickness = min(uniform(*self.brush, generator), side / 8)
        step = uniform(0.5, 1.5, generator) * 2 * thickness
        count = int(torch.randint(4, 9, (), generator=generator))
        numbers = torch.rand(count + 3, generator=generator).tolist()
        x, y, heading = numbers[0] * width, numbers[1] * height, numbers[2] * 2 * math.pi
        points = [(x, y)]
        for number in numbers[3:]:
            heading += (2 * number - 1) * math.pi / 3
            x, y = x + step * math.cos(heading), y + step * math.sin(heading)
            points.append((x, y))
        pen.line(points, fill=255, width=max(round(thickness), 1))
        for x, y in points:
            pen.circle((x, y), thickness / 2, fill=255)

    def _block(self, pen: ImageDraw.ImageDraw, height: int, width: int, generator: torch.Generator) -> None:
        """One axis-parallel rectangle, at most a fifth of the picture a side."""
        numbers = torch.rand(4, generator=generator).tolist()
        rows, columns = (0.06 + 0.14 * numbers[0]) * height, (0.06 + 0.14 * numbers[1]) * width
        x, y = numbers[2] * (width - columns), numbers[3] * (height - rows)
        pen.rectangle((x, y, x + columns, y + rows), fill=255)
