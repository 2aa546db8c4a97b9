"""Motion during the exposure: straight, bent and shaky paths, the same everywhere or not, with saturated lights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from daclip.degradations.base import (
    Degradation,
    Drawn,
    Span,
    choose,
    fraction,
    ramp,
    scalar,
    smooth_noise,
    span,
    uniform,
    weights_of,
)
from daclip.degradations.blur import convolved

STEPS = 96  # points along a path: closer than half a pixel for the longest in use


class AnyMotion(Degradation):
    """Light gathered along a path, up to `extent` pixels across (in equal steps of its square root, at most a quarter
    of the shorter side). `paths` weigh `straight`, `bent` and `shaky` ones, random walks with inertia and jerks
    (Boracchi & Foi, "Modeling the performance of image restoration from motion blur", 2012); the exposure along a path
    is even or fades. `varying` is the chance that parts of the photo move differently (Nah et al., GoPro, 2017),
    `linear` that light adds up rather than pixel values, then with a chance of `lights` with highlights up to `boost`
    times brighter than white (Rim et al., "Realistic blur synthesis", 2022). `noise` is the largest σ in 8-bit units.
    """

    names = ("straight", "bent", "shaky")

    def __init__(
        self,
        extent: Span,
        paths: Mapping[str, float],
        varying: float,
        linear: float,
        lights: float,
        boost: Span,
        noise: float,
    ) -> None:
        self.extent = span(extent, "extent", least=1)
        self.paths = weights_of(self.names, paths)
        self.varying = fraction(varying, "varying")
        self.linear = fraction(linear, "linear")
        self.lights = fraction(lights, "lights")
        self.boost = span(boost, "boost", least=1)
        self.noise = span(noise, "noise")[0]

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Two kernels `[1, 2, K, K]`, K the same for every draw, the second's share of each pixel `[1, 1, H, W]`,
        whether light adds up, bool, and boost of the highlights, both `[1, 1, 1, 1]`, and noise `[1, 3, H, W]`."""
        limit = min(height, width) / 4
        roots = (math.sqrt(self.extent[0]), math.sqrt(self.extent[1]))
        extent = min(ramp(roots, severity, generator) ** 2, limit)
        reach = math.ceil(min(max(self.extent), limit) / 2) + 2
        path = self._path(generator)
        exposure = _exposure(generator)
        thickness = uniform(1, 1.8, generator)
        first = kernel(path * (extent / 2), exposure, thickness, reach)
        second, share = torch.zeros_like(first), torch.zeros(height, width)
        if uniform(0, 1, generator) < self.varying:
            second = kernel(self._other(path, extent, limit, generator), exposure, thickness, reach)
            # Smooth regions, their borders sharp between things or wide within a scene.
            cell = max(height, width) * uniform(0.4, 1.2, generator)
            sharpness = math.exp(uniform(1, 3.5, generator))
            share = (sharpness * smooth_noise(height, width, cell, generator)).sigmoid()
        linear = uniform(0, 1, generator) < self.linear
        boost = uniform(*self.boost, generator) if linear and uniform(0, 1, generator) < self.lights else 1.0
        sigma = max(uniform(-0.5, 1, generator), 0) * self.noise / 255
        noise = torch.zeros(1, 3, height, width)
        if sigma:
            noise = sigma * noise.normal_(generator=generator)
        return {
            "kernels": torch.stack((first, second))[None],
            "share": share[None, None],
            "linear": torch.full((1, 1, 1, 1), linear),
            "boost": scalar(boost),
            "noise": noise,
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Blur the light of `[B, 3, H, W]`, add noise, clip, save at 8 bit."""
        linear, light = drawn["linear"], images
        if linear.any():
            light = torch.where(linear, images.square(), images)  # nearly the tone curve of sRGB, and cheap
            # Values near white stand for anything brighter, unless there are so many that they are a wall or the sky.
            bright = ((light - 0.7) / 0.3).clamp(min=0) ** 2
            few = (1 - 8 * bright.mean(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
            light = light * (1 + (drawn["boost"] - 1) * few * bright)
        several = bool(drawn["share"].any())
        blurred, *others = convolved(light, drawn["kernels"] if several else drawn["kernels"][:, :1])
        for other in others:
            blurred = torch.lerp(blurred, other, drawn["share"])
        blurred = blurred.clamp(0, 1)
        if linear.any():
            blurred = torch.where(linear, blurred.sqrt(), blurred)
        return ((blurred + drawn["noise"]).clamp(0, 1) * 255).round() / 255

    def _path(self, generator: torch.Generator) -> Tensor:
        """Places (row, column) `[STEPS, 2]` around the origin, at most 1 away."""
        kind = choose(self.paths, generator)
        angle = uniform(0, 2 * math.pi, generator)
        if kind == "shaky":
            path = _walk(generator)
        else:
            turn = uniform(0.3, 2.5, generator) if kind == "bent" else 0.0
            heading = angle + turn * torch.linspace(-0.5, 0.5, STEPS)
            path = torch.stack((heading.sin(), heading.cos()), dim=1).cumsum(dim=0)
        return _centred(path)

    def _other(self, path: Tensor, extent: float, limit: float, generator: torch.Generator) -> Tensor:
        """How another part of the photo moves, in pixels `[STEPS, 2]`: turned and longer or shorter, as the camera
        rolls or things are nearer; its own way; or hardly at all."""
        kind, angle, size = torch.rand(3, generator=generator).tolist()
        if kind < 0.25:
            return self._path(generator) * 0.5
        if kind < 0.45:
            path = self._path(generator)
        turn = 1.2 * (angle - 0.5)
        rotation = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        return path @ rotation * (min(extent * (0.4 + 0.9 * size), limit, max(self.extent)) / 2)


def kernel(path: Tensor, exposure: Tensor, thickness: float, reach: int) -> Tensor:
    """A blur kernel `[2·reach + 1, 2·reach + 1]` of unit sum, from places in pixels `[N, 2]` and their weights `[N]`,
    with its centre of mass in the middle, so that the photo is not shifted; each place spreads over a tent."""
    path = path - exposure @ path / exposure.sum()
    path = path * ((reach + 1 - thickness) / path.norm(dim=1).max().clamp(min=1e-6)).clamp(max=1)
    grid = torch.arange(-reach, reach + 1, dtype=torch.float32)
    rows, columns = ((1 - (path[:, axis, None] - grid).abs() / thickness).clamp(min=0) for axis in (0, 1))
    weights = (rows * exposure[:, None]).T @ columns
    return weights / weights.sum()


def _exposure(generator: torch.Generator) -> Tensor:
    """Weights along the path `[STEPS]`: even for half of all, or fading around a moment of most light."""
    even, moment, width, sharpness = torch.rand(4, generator=generator).tolist()
    if even < 0.5:
        return torch.ones(STEPS)
    distance = (torch.linspace(0, 1, STEPS) - moment).abs() / (0.2 + 0.5 * width)
    return torch.exp(-(distance ** (1 + 2 * sharpness)))


def _walk(generator: torch.Generator) -> Tensor:
    """A random walk `[STEPS, 2]` of a hand: it keeps its speed, is pulled back, trembles, and jerks now and then."""
    tremble, pull, jerks = torch.rand(3, generator=generator).tolist()
    pushes = torch.randn(STEPS, 2, generator=generator).tolist()
    chances = torch.rand(STEPS, generator=generator).tolist()
    tremble, pull, jerks = 0.02 + 0.15 * tremble, 0.0005 + 0.004 * pull, 0.03 * jerks
    start = uniform(0, 2 * math.pi, generator)
    (vy, vx), (y, x), places = (math.sin(start), math.cos(start)), (0.0, 0.0), []
    for (dy, dx), chance in zip(pushes, chances, strict=True):
        if chance < jerks:
            vy, vx = -vy + dy, -vx + dx
        vy, vx = vy + tremble * dy - pull * y, vx + tremble * dx - pull * x
        y, x = y + vy, x + vx
        places.append((y, x))
    return torch.tensor(places)


def _centred(path: Tensor) -> Tensor:
    path = path - path.mean(dim=0)
    return path / path.norm(dim=1).max()
