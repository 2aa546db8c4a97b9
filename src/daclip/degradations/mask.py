"""Missing parts of a picture, for inpainting: strokes, scratches, text, boxes, blobs, whole sides."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.digital import resaved
from daclip.degradations.draws import choose, ramp, uniform
from daclip.degradations.fields import smooth_noise
from daclip.degradations.options import Number, Range, Weights, configured

Point = tuple[float, float]
Pen = ImageDraw.ImageDraw

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:!?&"
JPEG_QUALITY = 90
VISIBLE = 0.05  # least mean difference between a fill and what it covers


@configured
class Inpainting(Degradation):
    """Free-form holes of the value `fill`: strokes (Yu et al., "Free-Form Image Inpainting with Gated Convolution",
    2019), blocks with chance `blocks`, or with chance `halves` a missing side, half the picture at severity 1
    (Lugmayr et al., "RePaint", 2022). `brush` is in pixels, up to an eighth of the shorter side, at any severity."""

    coverage: Range = Range(most=0.9)
    brush: Range = Range(1)
    blocks: Number = Number()
    fill: Number = Number()
    halves: Number = Number(0, 1, default=0.0)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Mask `[1, 1, H, W]`, bool, true where the picture is missing."""
        if self.halves and uniform(0, 1, generator) < self.halves:
            return {"mask": self._side(height, width, severity, generator)[None, None]}
        wanted = ramp(self.coverage, severity, generator) * height * width
        # Pillow's rasteriser is the cheapest there is for thick lines, and deterministic.
        canvas = Image.new("1", (width, height))
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

    def _side(self, height: int, width: int, severity: float, generator: Generator) -> Tensor:
        """Everything above, below, left or right of a line, bool `[H, W]`."""
        share = 0.5 * ramp((min(2 * self.coverage[0], 1.0), 1.0), severity, generator)
        mask = torch.zeros(height, width, dtype=torch.bool)
        turned, mirrored = torch.randint(2, (2,), generator=generator).tolist()
        line = mask.T if turned else mask
        line[: round(share * line.shape[0])] = True
        return mask.flip(int(turned)) if mirrored else mask

    def _stroke(self, pen: Pen, height: int, width: int, generator: Generator) -> None:
        """One wandering line with round joints and ends."""
        side = min(height, width)
        thickness = min(uniform(*self.brush, generator), side / 8)
        step = uniform(0.5, 1.5, generator) * 2 * thickness
        count = int(torch.randint(4, 9, (), generator=generator))
        numbers = torch.rand(count + 3, generator=generator).tolist()
        moves = [((2 * number - 1) * math.pi / 3, step) for number in numbers[3:]]
        _polyline(pen, _way(height, width, numbers[:3], moves), thickness)

    def _block(self, pen: Pen, height: int, width: int, generator: Generator) -> None:
        """One axis-parallel rectangle, at most a fifth of the picture a side."""
        numbers = torch.rand(4, generator=generator).tolist()
        rows, columns = (0.06 + 0.14 * numbers[0]) * height, (0.06 + 0.14 * numbers[1]) * width
        x, y = numbers[2] * (width - columns), numbers[3] * (height - rows)
        pen.rectangle((x, y, x + columns, y + rows), fill=1)


@configured
class AnyHoles(Degradation):
    """Parts of the photo covered by one fill. `shapes` weigh: `strokes`, thick polylines with round ends (Suvorov et
    al., "LaMa", 2022); `freehand`, wandering ones (Yu et al., "Free-Form Image Inpainting", 2019); `scratches`; `text`;
    `boxes`, one to many; `ellipses`; `blocks` of a grid; `blobs`, where smooth noise is high; `sides`, up to everything
    on one side of a line; `frames`, everything around a box (outpainting). `fills` weigh `white`, `black`, `gray`, any
    `colour`, the photo's `mean` and `noise`. `coverage` is the missing share of the picture, `fine` that of scratches
    and text; `brush` is in pixels, up to an eighth of the shorter side. `soft` is the chance of antialiased edges,
    `jpeg` that the result is saved as JPEG."""

    names = ("strokes", "freehand", "scratches", "text", "boxes", "ellipses", "blocks", "blobs", "sides", "frames")
    known_fills = ("white", "black", "gray", "colour", "mean", "noise")

    shapes: Weights = Weights(names)
    fills: Weights = Weights(known_fills)
    coverage: Range = Range(most=0.9)
    fine: Range = Range(most=0.4)
    brush: Range = Range(1)
    soft: Number = Number(0, 1)
    jpeg: Number = Number(0, 1)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity of the fill `[1, 1, H, W]`, its values `[1, 3, H, W]` (below 0: the photo's mean), and JPEG's quality
        or 0, int64 `[1, 1]`."""
        shape = choose(self.shapes, generator)
        wanted = ramp(self.fine if shape in ("scratches", "text") else self.coverage, severity, generator)
        if shape in ("blocks", "blobs"):
            mask = (self._blocks if shape == "blocks" else _blob)(height, width, wanted, generator)
        elif shape in ("sides", "frames"):
            mask = (_side if shape == "sides" else _frame)(height, width, wanted, generator)
        else:
            mask = self._painted(shape, height, width, wanted, generator)
        opacity = mask.float()[None, None]
        if uniform(0, 1, generator) < self.soft:
            opacity = F.avg_pool2d(F.pad(opacity, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        jpeg = uniform(0, 1, generator) < self.jpeg
        return {
            "opacity": opacity,
            "fill": self._fill(height, width, generator)[None],
            "jpeg": torch.tensor([[JPEG_QUALITY * int(jpeg)]]),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Cover `[B, 3, H, W]`; without JPEG all other pixels stay bit for bit."""
        opacity = drawn["opacity"]
        fill = torch.where(drawn["fill"] < 0, images.mean(dim=(2, 3), keepdim=True), drawn["fill"])
        # A hole that cannot be seen, white in snow, would be called one nonetheless: it gets another fill.
        contrast = (opacity * (fill - images).abs()).mean(dim=(1, 2, 3)) / opacity.mean(dim=(1, 2, 3))
        fill = torch.where(contrast[:, None, None, None] < VISIBLE, (fill + 0.5) % 1, fill)
        covered = torch.lerp(images, fill, opacity)
        if not drawn["jpeg"].any():
            return covered
        return torch.where(drawn["jpeg"][:, :, None, None] > 0, resaved(covered, drawn["jpeg"]), covered)

    def _fill(self, height: int, width: int, generator: Generator) -> Tensor:
        """Values of the missing pixels `[3, H, W]`."""
        kind = choose(self.fills, generator)
        if kind == "noise":
            return torch.rand(3, height, width, generator=generator)
        flat = {"white": 1.0, "black": 0.0, "gray": 0.5, "mean": -1.0}
        colour = torch.rand(3, generator=generator) if kind == "colour" else torch.full((3,), flat[kind])
        return colour[:, None, None].repeat(1, height, width)

    def _painted(self, shape: str, height: int, width: int, wanted: float, generator: Generator) -> Tensor:
        """Figures one after another until enough is covered, bool `[H, W]`."""
        # Pillow's rasteriser is the cheapest there is for thick lines, and deterministic.
        canvas = Image.new("1", (width, height))
        pen = ImageDraw.Draw(canvas)
        side = min(height, width)
        brush = min(uniform(*self.brush, generator), side / 8)
        # Few large ones or many small ones.
        largest = min(math.sqrt(wanted) * uniform(0.25, 1.3, generator), 0.9)
        paint: Callable[[], None] = {
            "strokes": lambda: _line(pen, height, width, brush, 1.5, generator),
            "freehand": lambda: _line(pen, height, width, brush, 0.5, generator),
            "scratches": lambda: _scratch(pen, height, width, generator),
            "text": lambda: _text(pen, height, width, generator),
            "boxes": lambda: pen.rectangle(_box(height, width, largest, generator), fill=1),
            "ellipses": lambda: pen.ellipse(_box(height, width, largest, generator), fill=1),
        }[shape]
        while np.asarray(canvas).mean() < wanted:
            paint()
        return torch.from_numpy(np.array(canvas))

    def _blocks(self, height: int, width: int, wanted: float, generator: Generator) -> Tensor:
        """Cells of a grid, bool `[H, W]`: lost packets, or dead pixels where cells are small."""
        cell = round(math.exp(uniform(0, math.log(min(height, width) / 4), generator)))
        lost = torch.rand(-(-height // cell), -(-width // cell), generator=generator)
        # Exactly the wanted share, at least one.
        lost = lost <= lost.flatten().sort().values[max(round(wanted * lost.numel()) - 1, 0)]
        return lost.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]


def _blob(height: int, width: int, wanted: float, generator: Generator) -> Tensor:
    """Where smooth noise is highest, with ragged borders or round ones, bool `[H, W]`."""
    field = smooth_noise(height, width, min(height, width) * uniform(0.15, 0.7, generator), generator)
    ragged = uniform(0, 0.3, generator)
    field = field + ragged * smooth_noise(height, width, uniform(5, 15, generator), generator)
    return field > torch.quantile(field[::2, ::2].flatten(), 1 - wanted)


def _side(height: int, width: int, wanted: float, generator: Generator) -> Tensor:
    """Everything on one side of a line, for most of all along the border, bool `[H, W]`."""
    angle = float(torch.randint(4, (), generator=generator)) * math.pi / 2
    if uniform(0, 1, generator) < 0.3:
        angle = uniform(0, 2 * math.pi, generator)
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    place = rows * math.sin(angle) + columns * math.cos(angle)
    return place > torch.quantile(place[::2, ::2].flatten(), 1 - wanted)


def _frame(height: int, width: int, wanted: float, generator: Generator) -> Tensor:
    """Everything around a box, bool `[H, W]`."""
    kept = 1 - wanted
    share = kept ** uniform(0.25, 0.75, generator)
    rows, columns = round(height * share), round(width * kept / share)
    top, left = (int(uniform(0, side - size + 1, generator)) for side, size in ((height, rows), (width, columns)))
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[top : top + rows, left : left + columns] = False
    return mask


def _box(height: int, width: int, largest: float, generator: Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box, up to a share `largest` of both sides."""
    numbers = torch.rand(4, generator=generator).tolist()
    rows, columns = ((0.4 + 0.6 * numbers[axis]) * largest * side for axis, side in enumerate((height, width)))
    left, top = numbers[2] * (width - columns), numbers[3] * (height - rows)
    return left, top, left + columns, top + rows


def _line(pen: Pen, height: int, width: int, thickness: float, reach: float, generator: Generator) -> None:
    """A polyline with round joints and ends; `reach` is the length of a segment relative to 4 thicknesses."""
    count = int(torch.randint(1, 9, (), generator=generator))
    numbers = torch.rand(3 + 2 * count, generator=generator).tolist()
    moves = [
        ((2 * turn - 1) * (2.4 if reach > 1 else 1.0), 4 * thickness * reach * (0.2 + 0.8 * length))
        for turn, length in zip(numbers[3::2], numbers[4::2], strict=True)
    ]
    _polyline(pen, _way(height, width, numbers[:3], moves), thickness)


def _way(height: int, width: int, start: Sequence[float], moves: Iterable[tuple[float, float]]) -> list[Point]:
    """Points on the way of a pen that turns by an angle and goes on by a length, again and again; `start` is the first
    point and the heading, as shares of width, height and a turn."""
    x, y, heading = start[0] * width, start[1] * height, start[2] * 2 * math.pi
    points = [(x, y)]
    for turn, length in moves:
        heading += turn
        x, y = x + length * math.cos(heading), y + length * math.sin(heading)
        points.append((x, y))
    return points


def _polyline(pen: Pen, points: Sequence[Point], thickness: float) -> None:
    """A line with round joints and ends."""
    pen.line(points, fill=1, width=max(round(thickness), 1))
    for point in points:
        pen.circle(point, thickness / 2, fill=1)


def _scratch(pen: Pen, height: int, width: int, generator: Generator) -> None:
    """A thin line, nearly straight, across much of the picture."""
    *start, length, bend, thickness = torch.rand(6, generator=generator).tolist()
    step = (0.05 + 0.95 * length**2) * max(height, width) / 8
    points = _way(height, width, start, [(0.3 * (bend - 0.5), step)] * 8)
    pen.line(points, fill=1, width=1 + int(3.5 * thickness**2))


def _text(pen: Pen, height: int, width: int, generator: Generator) -> None:
    """A row of words."""
    size, y, x, count = torch.rand(4, generator=generator).tolist()
    letters = torch.randint(len(LETTERS) + 8, (3 + int(27 * count),), generator=generator).tolist()
    line = "".join(LETTERS[letter] if letter < len(LETTERS) else " " for letter in letters)
    points = int(min(9 * (4**size), min(height, width) / 4))
    pen.text((width * (x - 0.3), (height - points) * y), line, fill=1, font=_font(points))


@lru_cache(maxsize=64)
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)
