"""Blur by a random kernel `[K, K]` of unit sum, K = 2·reach + 1; lengths are in pixels, angles in radians."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, choose, ramp, span, uniform, weights_of

STEPS = 96  # points along a trajectory: closer than half a pixel for the longest kernels in use


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


class MotionBlur(Blur):
    """Blur by a shaking camera, along a random smooth path (Boracchi & Foi, "Modeling the performance of image
    restoration from motion blur", 2012), up to `extent` pixels end to end, turning by `turn` degrees."""

    def __init__(self, extent: Span, turn: float) -> None:
        self.extent = span(extent, "extent", least=1)
        self.turn = float(turn)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """A kernel `[1, 1, K, K]`; K is the same for every draw."""
        limit = min(height, width) / 3  # a kernel as large as the picture would leave nothing to see
        extent = min(ramp(self.extent, severity, generator), limit)
        path = self._trajectory(generator) * (extent / 2)
        reach = math.ceil(min(max(self.extent), limit) / 2) + 1
        grid = torch.arange(-reach, reach + 1, dtype=torch.float32)
        # Bilinear splatting: each point shares its weight among the four pixels around it.
        rows, columns = ((1 - (path[:, axis, None] - grid).abs()).clamp(min=0) for axis in (0, 1))
        return {"kernel": _unit(rows.T @ columns)[None, None]}

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


class KernelBlur(Blur):
    """Blur by a kernel of a random kind: Gaussians and sinc filter of Wang et al., "Real-ESRGAN", 2021, section 3; a
    disc (out of focus), line (motion) or box (area averaging). `kinds` are relative frequencies; `sigma` is the
    standard deviation of the kernel in pixels, of a line along it; `ratio` is the shorter over the longer axis;
    `generalised` and `plateau` are exponents; `cutoff` is the sinc filter's highest frequency in radians a pixel."""

    names = ("isotropic", "anisotropic", "generalised", "plateau", "sinc", "defocus", "line", "box")

    def __init__(
        self, kinds: Mapping[str, float], sigma: Span, ratio: Span, generalised: Span, plateau: Span, cutoff: Span
    ) -> None:
        self.kinds = weights_of(self.names, {**dict.fromkeys(self.names, 0.0), **kinds})
        self.sigma = span(sigma, "sigma", least=0.1)
        self.ratio = span(ratio, "ratio", least=0.1, most=1)
        self.generalised = span(generalised, "generalised", least=0.2)
        self.plateau = span(plateau, "plateau", least=0.5)
        self.cutoff = span(cutoff, "cutoff", least=0.3, most=math.pi)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
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
