"""Loss of resolution: photos scaled down and up by careless software."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.degradations.base import Drawn, Span, ramp, span
from daclip.degradations.compose import choose, weights_of
from daclip.errors import DaclipError

__all__ = ["Resize", "resampling"]

SMALLEST_RESULT = 16  # pixels a side: what later parts of a pipeline can still work on


class Resize:
    """A change of size, down or up, as a step of a pipeline that undoes it in the end.

    Unlike a `Degradation` it does not keep the size of the picture. Interpolation without antialiasing is meant:
    the aliasing is part of what is found in the wild (Wang et al., "Real-ESRGAN", 2021, section 3).

    Args:
        directions: Relative frequency of `down` and `up`.
        down: Factor of both sides when the photo shrinks.
        up: Factor of both sides when it grows.
        modes: Interpolations to draw from: `area`, `bilinear`, `bicubic`.
    """

    known = ("area", "bilinear", "bicubic")

    def __init__(self, directions: Mapping[str, float], down: Span, up: Span, modes: Sequence[str]) -> None:
        self.directions = weights_of(("down", "up"), directions)
        self.ranges = {"down": span(down, "down", least=0.05, most=1), "up": span(up, "up", least=1, most=4)}
        unknown = set(modes) - set(self.known)
        if unknown or not modes:
            raise DaclipError(f"modes: expected some of {list(self.known)}, got {list(modes)}")
        self.modes = tuple(modes)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Weights of the resampling along rows `[1, H', H]` and along columns `[1, W', W]`."""
        direction = choose(self.directions, generator)
        low, high = (math.log(factor) for factor in self.ranges[direction])
        factor = math.exp(ramp((low, high), severity, generator))
        rows, columns = (max(round(side * factor), SMALLEST_RESULT) for side in (height, width))
        return self.draw_to((height, width), (rows, columns), generator)

    def draw_to(self, size: tuple[int, int], target: tuple[int, int], generator: torch.Generator) -> Drawn:
        """The same towards a given height and width, with only the interpolation drawn."""
        mode = self.modes[int(torch.randint(len(self.modes), (), generator=generator))]
        rows, columns = (resampling(*sides, mode)[None] for sides in zip(size, target, strict=True))
        return {"rows": rows, "columns": columns}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Resample `[B, 3, H, W]` to `[B, 3, H', W']`."""
        # As two products of matrices, samples of one size may differ in their interpolation.
        rows, columns = drawn["rows"][:, None], drawn["columns"][:, None]
        return (rows @ images @ columns.mT).clamp(0, 1)  # a bicubic kernel overshoots at edges


def resampling(before: int, after: int, mode: str) -> Tensor:
    """The weights `[after, before]` with which an interpolation of `before` values mixes them into `after`.

    Args:
        before: Number of values.
        after: Number of results.
        mode: `area`, `bilinear` or `bicubic`, as in `torch.nn.functional.interpolate`.
    """
    corners = {} if mode == "area" else {"align_corners": False}
    identity = torch.eye(before)[None, None]
    return F.interpolate(identity, (after, before), mode=mode, **corners)[0, 0]
