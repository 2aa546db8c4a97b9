"""Blur by random kernels `[K, K]` of unit sum, K = 2·reach + 1; lengths are in pixels, angles in radians."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.draws import choose, ramp, scalar, uniform
from daclip.degradations.fields import smooth_noise
from daclip.degradations.options import Number, Range, Weights, configured
from daclip.pixels import quantise

STEPS = 96  # points along a path: closer than half a pixel for the longest in use


class Blur(Degradation):
    """Convolution of each photo with a kernel of its own."""

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Convolve each photo of `[B, 3, H, W]` with its kernel of `[B, 1, K, K]`, mirrored at the border."""
        return next(convolved(images, drawn["kernel"])).clamp(0, 1)


def convolved(images: Tensor, kernels: Tensor) -> Iterator[Tensor]:
    """Photos `[B, 3, H, W]` under each of their N kernels `[B, N, K, K]`, one after another, mirrored at the border."""
    reach = kernels.shape[-1] // 2
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    # Through the Fourier domain: 0.4 ms for 128² on one core, where the direct convolution (also
    # kornia.filters.filter2d) takes 2-6 ms. The padding keeps the wrapped-around part out of the crop.
    size = [_fast_length(side) for side in padded.shape[-2:]]
    waves = torch.fft.rfft2(padded, s=size)
    for kernel in kernels.split(1, dim=1):
        blurred = torch.fft.irfft2(waves * torch.fft.rfft2(kernel, s=size), s=size)
        yield blurred[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


@configured
class MotionBlur(Blur):
    """Blur by a shaking camera, along a random smooth path (Boracchi & Foi, "Modeling the performance of image
    restoration from motion blur", 2012), up to `extent` pixels end to end, turning by `turn` degrees."""

    extent: Range = Range(1)
    turn: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """A kernel `[1, 1, K, K]`; K is the same for every draw."""
        limit = min(height, width) / 3  # a kernel as large as the picture would leave nothing to see
        extent = min(ramp(self.extent, severity, generator), limit)
        path = self._trajectory(generator) * (extent / 2)
        reach = math.ceil(min(max(self.extent), limit) / 2) + 1
        rows, columns = _tents(path, 1, reach)
        return {"kernel": _unit(rows.T @ columns)[None, None]}

    def _trajectory(self, generator: Generator) -> Tensor:
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
        return _centred(steps.cumsum(dim=0))


@configured
class KernelBlur(Blur):
    """Blur by a kernel of a random kind: Gaussians and sinc filter of Wang et al., "Real-ESRGAN", 2021, section 3; a
    disc (out of focus), line (motion) or box (area averaging). `kinds` are relative frequencies; `sigma` is the
    standard deviation of the kernel in pixels, of a line along it; `ratio` is the shorter over the longer axis;
    `generalised` and `plateau` are exponents; `cutoff` is the sinc filter's highest frequency in radians a pixel."""

    names = ("isotropic", "anisotropic", "generalised", "plateau", "sinc", "defocus", "line", "box")

    kinds: Weights = Weights(names, complete=False)
    sigma: Range = Range(0.1)
    ratio: Range = Range(0.1, 1)
    generalised: Range = Range(0.2)
    plateau: Range = Range(0.5)
    cutoff: Range = Range(0.3, math.pi)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """A kernel `[1, 1, K, K]`; K is the same for every draw."""
        # A spread beyond the sides' tenth would leave nothing to see; three spreads hold a Gaussian.
        limit = min(height, width) / 10
        reach = math.ceil(3 * min(max(self.sigma), limit))
        kind = choose(self.kinds, generator)
        sigma = min(ramp(self.sigma, severity, generator), limit)
        angle = uniform(0, math.pi, generator)
        short = sigma * uniform(*self.ratio, generator)
        ellipse = elliptic(reach, sigma, short, angle)
        # A disc of radius R spreads R/2, a stroke or square of length L spreads L/√12.
        kernels: dict[str, Callable[[], Tensor]] = {
            "isotropic": lambda: gaussian(elliptic(reach, sigma, sigma, angle), 1),
            "anisotropic": lambda: gaussian(ellipse, 1),
            "generalised": lambda: gaussian(
                elliptic(reach, sigma, short, angle), uniform(*self.generalised, generator)
            ),
            "plateau": lambda: plateau(ellipse, uniform(*self.plateau, generator)),
            "sinc": lambda: sinc(reach, ramp(self.cutoff, severity, generator)),
            "defocus": lambda: defocus(reach, 2 * sigma),
            "line": lambda: line(reach, math.sqrt(12) * sigma, angle),
            "box": lambda: box(reach, math.sqrt(12) * sigma),
        }
        return {"kernel": kernels[kind]()[None, None]}


@configured
class AnyMotion(Degradation):
    """Light gathered along a path, up to `extent` pixels across (in equal steps of its square root, at most a quarter
    of the shorter side). `paths` weigh `straight`, `bent` and `shaky` ones, random walks with inertia and jerks
    (Boracchi & Foi, "Modeling the performance of image restoration from motion blur", 2012); the exposure along a path
    is even or fades. `varying` is the chance that parts of the photo move differently (Nah et al., GoPro, 2017),
    `linear` that light adds up rather than pixel values, then with a chance of `lights` with highlights up to `boost`
    times brighter than white (Rim et al., "Realistic blur synthesis", 2022). `noise` is the largest σ in 8-bit units.
    """

    names = ("straight", "bent", "shaky")

    extent: Range = Range(1)
    paths: Weights = Weights(names)
    varying: Number = Number(0, 1)
    linear: Number = Number(0, 1)
    lights: Number = Number(0, 1)
    boost: Range = Range(1)
    noise: Range = Range()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
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
        sigma = max(uniform(-0.5, 1, generator), 0) * self.noise[0] / 255
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
        return quantise(blurred + drawn["noise"])

    def _path(self, generator: Generator) -> Tensor:
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

    def _other(self, path: Tensor, extent: float, limit: float, generator: Generator) -> Tensor:
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
    rows, columns = _tents(path, thickness, reach)
    return _unit((rows * exposure[:, None]).T @ columns)


def _exposure(generator: Generator) -> Tensor:
    """Weights along the path `[STEPS]`: even for half of all, or fading around a moment of most light."""
    even, moment, width, sharpness = torch.rand(4, generator=generator).tolist()
    if even < 0.5:
        return torch.ones(STEPS)
    distance = (torch.linspace(0, 1, STEPS) - moment).abs() / (0.2 + 0.5 * width)
    return torch.exp(-(distance ** (1 + 2 * sharpness)))


def _walk(generator: Generator) -> Tensor:
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
    """The path around the origin, so that the blurred photo is not shifted; the farthest point is 1 away."""
    path = path - path.mean(dim=0)
    return path / path.norm(dim=1).max()


def _tents(path: Tensor, thickness: float, reach: int) -> tuple[Tensor, Tensor]:
    """How places in pixels `[N, 2]` spread over the rows and over the columns of a kernel, each `[N, K]`: by tents,
    which for a thickness of 1 share a place among the four pixels around it."""
    grid = _grid(reach)[1]
    rows, columns = ((1 - (path[:, axis, None] - grid).abs() / thickness).clamp(min=0) for axis in (0, 1))
    return rows, columns


def elliptic(reach: int, along: float, across: float, angle: float) -> Tensor:
    """Squared distance r² from the centre, in units of the scales along and across the angle, `[K, K]`."""
    rows, columns = _grid(reach)
    first = rows * math.sin(angle) + columns * math.cos(angle)
    second = rows * math.cos(angle) - columns * math.sin(angle)
    return (first / along) ** 2 + (second / across) ** 2


def gaussian(squared: Tensor, shape: float) -> Tensor:
    """Generalised Gaussian exp(−(r²)^β / 2) of `elliptic` distances; β = 1 is the Gaussian, below it tails are heavier
    (Liu et al., "Estimating generalized Gaussian blur kernels for out-of-focus image deblurring", 2020)."""
    return _unit(torch.exp(-0.5 * squared.pow(shape)))


def plateau(squared: Tensor, shape: float) -> Tensor:
    """A flat top with soft sides, 1 / (1 + (r²)^β), of `elliptic` distances; a larger β is steeper (Real-ESRGAN)."""
    return _unit(1 / (1 + squared.pow(shape)))


def sinc(reach: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass filter, ω·J₁(ω·r) / (2π·r), up to ω radians a pixel: ringing as of sharpening."""
    rows, columns = _grid(reach)
    distance = (rows**2 + columns**2).sqrt()
    ringing = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    ringing[reach, reach] = cutoff**2 / (4 * math.pi)  # the limit at r = 0
    return _unit(ringing)


def defocus(reach: int, radius: float) -> Tensor:
    """A disc with an edge one pixel wide: the image of a point by a lens out of focus."""
    rows, columns = _grid(reach)
    return _unit((radius + 0.5 - (rows**2 + columns**2).sqrt()).clamp(0, 1))


def line(reach: int, length: float, angle: float) -> Tensor:
    """A straight stroke, one pixel wide."""
    rows, columns = _grid(reach)
    along = (rows * math.sin(angle) + columns * math.cos(angle)).abs()
    across = (rows * math.cos(angle) - columns * math.sin(angle)).abs()
    return _unit((length / 2 + 0.5 - along).clamp(0, 1) * (1 - across).clamp(min=0))


def box(reach: int, width: float) -> Tensor:
    """A square of equal weights, its border pixels weighed by what it covers of them."""
    rows, columns = _grid(reach)
    return _unit((width / 2 + 0.5 - rows.abs()).clamp(0, 1) * (width / 2 + 0.5 - columns.abs()).clamp(0, 1))


def _grid(reach: int) -> tuple[Tensor, Tensor]:
    """Pixels from the centre: rows `[K, 1]` and columns `[1, K]`."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return steps[:, None], steps[None, :]


def _unit(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _fast_length(length: int) -> int:
    """The next length without prime factors above 11: a transform of 282 = 2·3·47 takes five times that of 288."""
    while True:
        rest = length
        for prime in (2, 3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
