"""Random numbers by key: generators, and noise that belongs to a place in a photo."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CELL = 256


def generator_for(*key: int) -> torch.Generator:
    """A generator that depends on nothing but the key, such as (seed, sample index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class NoiseField:
    """Unit normal noise over a photo, a new field each draw, of which any window can be drawn by itself. Each cell of
    256² pixels has its generator: a pixel's noise is the same however a photo is cut. Key: (seed, photo number)."""

    def __init__(self, key: Sequence[int], height: int, width: int):
        self.key = tuple(key)
        self.height = height
        self.width = width

    def window(self, top: int, left: int) -> "NoiseWindow":
        """The noise of the piece whose first pixel is (top, left)."""
        return NoiseWindow(self, top, left)

    def crop(self, draw: int, channels: int, top: int, left: int, height: int, width: int) -> Tensor:
        """A window of field number `draw`: float32 `[channels, height, width]` on the CPU."""
        out = torch.empty(channels, height, width)
        for y in range(top // CELL * CELL, top + height, CELL):
            for x in range(left // CELL * CELL, left + width, CELL):
                generator = generator_for(*self.key, draw, y // CELL, x // CELL)
                size = (channels, min(CELL, self.height - y), min(CELL, self.width - x))
                cell = torch.randn(size, generator=generator)
                y0, y1 = max(y, top), min(y + CELL, top + height)
                x0, x1 = max(x, left), min(x + CELL, left + width)
                out[:, y0 - top : y1 - top, x0 - left : x1 - left] = cell[:, y0 - y : y1 - y, x0 - x : x1 - x]
        return out


class NoiseWindow:
    """The noise of one piece of a photo, draw after draw: stands in for a generator in `Sampler.sample`."""

    def __init__(self, field: NoiseField, top: int, left: int):
        self.field = field
        self.top = top
        self.left = left
        self.draws = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw for a piece of shape `[C, h, w]`."""
        channels, height, width = shape
        drawn = self.field.crop(self.draws, channels, self.top, self.left, height, width)
        self.draws += 1
        return drawn
