"""Blur by camera motion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, ramp, span, uniform

__all__ = ["MotionBlur"]

STEPS = 96  # points along a trajectory: closer than half a pixel for the longest kernels in use


class MotionBlur(Degradation):
    """Blur by a shaking camera: the picture averaged along a random smooth trajectory.

    The camera's heading turns with a smoothly varying rate, as in random-trajectory models (Boracchi & Foi,
    "Modeling the performance of image restoration from motion blur", 2012); the kernel is that path
    rasterised, with unit sum.

    Args:
        extent: Largest distance between the ends of the kernel, in pixels.
        turn: Largest change of heading along the path, in degrees; 0 gives straight lines.
    """

    def __init__(self, extent: Span, turn: float) -> None:
        self.extent = span(extent, "extent", least=1)
        self.turn = float(turn)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """A kernel `[1, 1, K, K]` of unit sum; K is odd and the same for every draw."""
        limit = min(height, width) / 3  # a kernel as large as the picture would leave nothing to see
        extent = min(ramp(self.extent, severity, generator), limit)
        path = self._trajectory(generator) * (extent / 2)
        reach = math.ceil(min(max(self.extent), limit) / 2) + 1
        grid = torch.arange(-reach, reach + 1, dtype=torch.float32)
        # Bilinear splatting: each point shares its weight among the four pixels around it.
        rows, columns = ((1 - (path[:, axis, None] - grid).abs()).clamp(min=0) for axis in (0, 1))
        kernel = rows.T @ columns
        return {"kernel": (kernel / kernel.sum())[None, None]}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Convolve each photo of `[B, 3, H, W]` with its kernel, mirrored at the border."""
        kernel = drawn["kernel"]
        reach = kernel.shape[-1] // 2
        padded = F.pad(images, (reach,) * 4, mode="reflect")
        # Through the Fourier domain: 0.4 ms for 128² on one core, where the direct convolution (also
        # kornia.filters.filter2d) takes 2-6 ms. The padding keeps the wrapped-around part out of the crop.
        size = padded.shape[-2:]
        blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size), s=size)
        return blurred[..., 2 * reach :, 2 * reach :].clamp(0, 1)

    def _trajectory(self, generator: torch.Generator) -> Tensor:
        """A smooth path `[STEPS, 2]` around the origin, whose farthest point has distance 1."""
        place = torch.linspace(0, 1, STEPS)
        start = uniform(0, 2 * math.pi, generator)
        amplitude = math.radians(self.turn) / 2
        bend = torch.zeros(STEPS)
        for waves in (0.5, 1.0, 2.0):  # half a wave is an arc, two are a wriggle
            phase = uniform(0, 2 * math.pi, generator)
            size = uniform(-1, 1, generator) * amplitude / (waves + 0.5)
            bend = bend + size * torch.sin(2 * math.pi * waves * place + phase)
        # Uneven speed: the hand lingers, so parts of the path weigh more.
        lingering = uniform(0, 2 * math.pi, generator)
        speed = 1 + 0.7 * torch.sin(2 * math.pi * place + lingering)
        steps = torch.stack(((start + bend).sin(), (start + bend).cos()), dim=1) * speed[:, None]
        path = steps.cumsum(dim=0)
        path = path - path.mean(dim=0)  # centred, so that the blurred photo is not shifted as a whole
        return path / path.norm(dim=1).max()
