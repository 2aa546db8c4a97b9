"""One set of global features for all tiles of a photo."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from daclip.backbones.layers import GlobalPool
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.restoring.conditioning import rows
from daclip.types import Conditioning

__all__ = ["Pooled", "ScoutDenoiser", "Window", "has_pools", "pooling", "scouts"]

# Windows begin at multiples of this, on the pixel grid of networks of up to four levels.
FINE = 16

Pooled = list[Tensor]
"""Means over a photo, `[1, C, 1, 1]`, one for each `GlobalPool` of a network."""


def has_pools(network: nn.Module) -> bool:
    """Whether a network looks at means over the whole image."""
    return any(isinstance(module, GlobalPool) for module in network.modules())


@contextmanager
def pooling(
    network: nn.Module, given: Pooled | None = None, gathered: list[list[Tensor]] | None = None
) -> Iterator[None]:
    """While in the context, hand means to a network's pools, or listen to what they find.

    Args:
        network: Holds the pools.
        given: What the pools put out; None leaves them alone.
        gathered: Gets the means that the pools find, one list a pool with float32 `[B, C, 1, 1]` for each call.
    """
    pools = [module for module in network.modules() if isinstance(module, GlobalPool)]
    if gathered is not None:
        gathered.extend([] for _ in pools)

    def hook_of(number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, found: Tensor) -> Tensor | None:
            if gathered is not None:
                gathered[number].append(found.float())
            return None if given is None else given[number].to(found.dtype).expand_as(found)

        return hook

    hooks = [pool.register_forward_hook(hook_of(number)) for number, pool in enumerate(pools)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class ScoutDenoiser(Denoiser):
    """Finds the means over a photo that a network needs, from some windows of the photo.

    A network that was trained on means over its whole input sees other means in every tile, and two tiles of one
    hazy photo come out differently bright. Windows spread over the photo are therefore sampled first, as one
    batch with common means, and the means of each call are recorded for the tiles. A pool's mean depends on the
    pools before it, so the first pass takes each window's own means and the next the averages found: a fixed
    point iteration that starts close.

    Args:
        denoiser: What looks at a window; shared, not copied.
        batch_size: Windows in one call of the network.
        weights: How much of the photo each window stands for.
        on_call: Called after each call of the network.

    Attributes:
        record: Means for each call so far.
    """

    passes = 2

    def __init__(self, denoiser: Denoiser, batch_size: int, weights: Sequence[float], on_call: Callable[[], None]):
        super().__init__(denoiser.backbone, denoiser.process, denoiser.parameterization, denoiser.correct_epsilon_shift)
        self.train(denoiser.training)
        self.batch_size = batch_size
        self.shares = torch.tensor(weights) / sum(weights)
        self.on_call = on_call
        self.record: list[Pooled] = []

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """Estimate the clean windows; shapes as in `Denoiser.forward`, the batch being windows of one photo."""
        given: Pooled | None = None
        for _ in range(self.passes):
            gathered: list[list[Tensor]] = []
            found: list[Tensor] = []
            with pooling(self.backbone, given, gathered):
                for first in range(0, len(lq), self.batch_size):
                    part = list(range(first, min(first + self.batch_size, len(lq))))
                    found.append(super().forward(x_t[part], lq[part], t[part], rows(conditioning, part)).x0)
                    self.on_call()
            shares = self.shares.to(x_t.device).view(-1, 1, 1, 1)
            given = [(torch.cat(means) * shares).sum(0, keepdim=True) for means in gathered]
        assert given is not None
        self.record.append(given)
        x0 = torch.cat(found)
        with torch.autocast(x_t.device.type, enabled=False):
            return Prediction(x0, self.process.epsilon_from_data(x_t, lq, x0, t))


class Window(NamedTuple):
    """A piece of a photo that stands for the part of the photo around it.

    Attributes:
        top: First row.
        bottom: One past the last row.
        left: First column.
        right: One past the last column.
        weight: Pixels of the photo that it stands for.
    """

    top: int
    bottom: int
    left: int
    right: int
    weight: float


def scouts(height: int, width: int, side: int, most: int) -> list[Window]:
    """Windows of one size spread evenly over a photo.

    Args:
        height: Height of the photo.
        width: Width of the photo.
        side: Largest side of a window.
        most: Most windows; fewer if they cover the photo.

    >>> [window[:4] for window in scouts(100, 500, 256, 9)]
    [(0, 100, 0, 256), (0, 100, 240, 496)]
    """
    down, across = -(-height // side), -(-width // side)
    if down * across > most:
        share = (most / (down * across)) ** 0.5
        down = max(1, round(down * share))
        across = min(across, max(1, most // down))
        down = min(down, most // across)
    return [
        Window(top, bottom, left, right, rows * columns)
        for top, bottom, rows in _line(height, side, down)
        for left, right, columns in _line(width, side, across)
    ]


def _line(length: int, side: int, count: int) -> list[tuple[int, int, float]]:
    """`count` windows along an axis, each with the length of what is nearer to it than to the others."""
    if count * side >= length:
        side = -(-length // count // FINE) * FINE  # no larger than it takes to cover the axis
    last = max(length - side, 0)
    starts = [round(last * (i / (count - 1) if count > 1 else 0.5)) // FINE * FINE for i in range(count)]
    stops = [min(start + side, length) for start in starts]
    centres = [(start + stop) / 2 for start, stop in zip(starts, stops, strict=True)]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(centres)), float(length)]
    return [(start, stop, b - a) for start, stop, (a, b) in zip(starts, stops, pairwise(borders), strict=True)]
