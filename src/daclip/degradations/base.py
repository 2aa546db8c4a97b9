"""Degradation base class (a random draw on the CPU, then a batched formula), and what the families draw with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from daclip.errors import DaclipError

Drawn = dict[str, Tensor]
"""The decisions of one call of `draw`; every value has a leading dimension of 1, so samples concatenate."""

Span = float | Sequence[float]
"""A range `[mild, strong]` from the configuration, or one number for a fixed value."""

SMALLEST_SIDE = 32  # below it neither a blur kernel nor a drop fits into the picture

WAVES = 10  # of smooth noise

CLEAN = "clean"  # class of photos with nothing wrong

SEPARATOR = ", "  # between the classes of a photo that is degraded in several ways


@dataclass
class Degraded:
    """Degraded photos and how they came about, one entry a sample."""

    images: Tensor  # float32 `[B, 3, H, W]`, RGB in [0, 1]
    severities: list[float]  # in [0, 1], given or drawn
    drawn: list[Drawn]  # all other random decisions; `Degradation.replay` repeats the corruption from them
    classes: list[str | None]  # by `Degradation.describe`; None: the class that it is configured under


class Degradation(ABC):
    """One family of image corruption, severity 0 (mild) to 1 (strong). `draw` decides on the CPU, one generator a
    sample; `apply` is plain tensor code over a batch. So neither the device nor the batches change the result."""

    @abstractmethod
    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Decide everything random about one sample of 32 × 32 pixels or more; severity moves parameters along their
        ranges. Returns CPU tensors with a leading dimension of 1, whose shapes depend on height and width only."""

    @abstractmethod
    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Corrupt photos, float32 `[B, 3, H, W]`, RGB in [0, 1], without randomness and into new memory, by the
        samples' draws, concatenated to a leading dimension of B on the photos' device."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Every single class that `describe` may name; empty where the configured class is the label."""
        return ()

    def describe(self, drawn: Drawn) -> str | None:
        """Label of one sample by its draw, such as `"hazy, rainy"`; None: the configured class."""
        return None

    def replay(self, images: Tensor, draws: Sequence[Drawn]) -> Tensor:
        """Corrupt photos `[B, 3, H, W]` by given draws, one a sample."""
        drawn = {key: torch.cat([sample[key] for sample in draws]).to(images.device) for key in draws[0]}
        return self.apply(images, drawn)

    def degrade(self, images: Tensor, generators: Sequence[torch.Generator], severity: float | None = None) -> Degraded:
        """Draw with a CPU generator a sample, apply to photos, float32 `[B, 3, H, W]`, RGB in [0, 1], and tell what was
        drawn. `severity` in [0, 1] is for all samples; None draws each sample's own uniformly."""
        _check(images, generators, severity)
        height, width = images.shape[-2:]
        severities, draws = [], []
        for generator in generators:
            strength = uniform(0, 1, generator) if severity is None else float(severity)
            severities.append(strength)
            draws.append(self.draw(height, width, strength, generator))
        return Degraded(self.replay(images, draws), severities, draws, [self.describe(drawn) for drawn in draws])

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator], severity: float | None = None) -> Tensor:
        """Degraded photos alone, same shape, dtype and range; see `degrade`."""
        return self.degrade(images, generators, severity).images


def join_classes(classes: Iterable[str]) -> str:
    """One label from several classes; each counts once, in its first place.
    >>> join_classes(["hazy", "rainy", "hazy"])
    'hazy, rainy'
    """
    return SEPARATOR.join(dict.fromkeys(classes))


def split_classes(label: str) -> list[str]:
    """The single classes of a label.
    >>> split_classes("hazy, rainy"), split_classes("noisy")
    (['hazy', 'rainy'], ['noisy'])
    """
    return label.split(SEPARATOR)


def vocabulary(degradations: Mapping[str, Degradation]) -> list[str]:
    """The single classes in the labels of these degradations: their own, or else their configured names."""
    named = (class_name for name, part in degradations.items() for class_name in part.classes or (name,))
    return list(dict.fromkeys(named))


def span(value: Span, name: str, least: float = 0.0, most: float = math.inf) -> tuple[float, float]:
    """The two ends of a configured range, both within [least, most]; `name` is for the error message.
    >>> span([10, 50], "sigma"), span(25, "sigma")
    ((10.0, 50.0), (25.0, 25.0))
    """
    ends = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if len(ends) != 2:
        raise DaclipError(f"{name}: expected one number or [mild, strong], got {list(ends)}")
    if not all(least <= end <= most for end in ends):
        raise DaclipError(f"{name}: expected values in [{least:g}, {most:g}], got {list(ends)}")
    return float(ends[0]), float(ends[1])


def fraction(value: float, name: str) -> float:
    """A configured share or chance, a number in [0, 1]."""
    return span(value, name, most=1)[0]


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number drawn uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def ramp(ends: tuple[float, float], severity: float, generator: torch.Generator) -> float:
    """A parameter at `severity` along its range, with a jitter of ±0.1 of severity, so that parameters differ."""
    place = min(max(severity + uniform(-0.1, 0.1, generator), 0.0), 1.0)
    return ends[0] + (ends[1] - ends[0]) * place


def logarithms(ends: tuple[float, float]) -> tuple[float, float]:
    """Logarithms of a range, for parameters that act by their ratio."""
    return math.log(ends[0]), math.log(ends[1])


def scalar(value: float) -> Tensor:
    """One number for a draw, `[1, 1, 1, 1]`."""
    return torch.full((1, 1, 1, 1), value)


def fork(generator: torch.Generator) -> torch.Generator:
    """A generator of its own for one part, so that the number of its draws does not change the parts after it."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def permuted(names: Sequence[str], generator: torch.Generator) -> list[str]:
    """The names in random order."""
    return [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]


def weights_of(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Relative frequencies of the names, one for each, not all 0; None makes all equal."""
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if set(weights) != set(names):
        raise DaclipError(f"weights: expected one for each of {list(names)}, got {list(weights)}")
    if not all(weight >= 0 for weight in weights.values()) or not sum(weights.values()) > 0:
        raise DaclipError(f"weights: expected numbers of at least 0, not all 0, got {dict(weights)}")
    return {name: float(weights[name]) for name in names}


def choose(weights: Mapping[str, float], generator: torch.Generator) -> str:
    """One of the names, in proportion to its weight."""
    names = list(weights)
    return names[int(torch.multinomial(torch.tensor(list(weights.values())), 1, generator=generator))]


def _check(images: Tensor, generators: Sequence[torch.Generator], severity: float | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise DaclipError(f"expected float32 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        raise DaclipError(f"photos need sides of at least {SMALLEST_SIDE} px, got {list(images.shape[-2:])}")
    if len(generators) != len(images) or not generators:
        raise DaclipError(f"expected one generator a sample, got {len(generators)} for {len(images)}")
    if severity is not None and not 0 <= severity <= 1:
        raise DaclipError(f"severity: expected a number in [0, 1], got {severity}")


def pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the centre: rows `[H, 1]` and columns `[1, W]`, in pixels."""
    rows = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32)[None, :] - (width - 1) / 2
    return rows, columns


def smooth_noise(height: int, width: int, cell: float, generator: torch.Generator) -> Tensor:
    """Smooth noise `[H, W]`, structures of about `cell` pixels, mean 0, standard deviation 1: plane waves of random
    direction and phase, so without preferred directions; computed at a few points a wave and scaled up."""
    waves = torch.rand(3, WAVES, 1, 1, generator=generator)
    direction, phase = 2 * math.pi * waves[0], 2 * math.pi * waves[1]
    frequency = math.pi / cell * (0.5 + 0.7 * waves[2])  # half a wave is one structure
    shape = [max(round(6 * side / cell), 8) for side in (height, width)]
    rows, columns = pixels(*shape)
    rows, columns = rows * (height / shape[0]), columns * (width / shape[1])
    field = torch.cos(frequency * (direction.sin() * rows + direction.cos() * columns) + phase).sum(dim=0)
    field = F.interpolate(field[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def fractal(height: int, width: int, cell: float, roughness: float, generator: torch.Generator) -> Tensor:
    """Cloudy noise `[H, W]`, mean 0, standard deviation 1: midpoint displacement (Fournier et al. 1982) from structures
    of `cell` pixels down to two; each octave has `roughness` times the amplitude of the one before."""
    field, amplitude = torch.zeros(1, 1, 2, 2), 1.0
    while True:
        shape = [max(round(side / cell), 2) for side in (height, width)]
        field = F.interpolate(field, shape, mode="bicubic", align_corners=False)
        field = field + amplitude * torch.randn(1, 1, *shape, generator=generator)
        if cell <= 4:
            break
        cell, amplitude = cell / 2, amplitude * roughness
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=False)[0, 0]
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def softened(images: Tensor, reach: int) -> Tensor:
    """Mean `[B, C, H, W]` of the square of `2·reach + 1` pixels a side; by sums of slices, several times faster on a
    CPU than `avg_pool2d`."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = sum((padded[..., i : i + height, :] for i in range(1, 2 * reach + 1)), padded[..., :height, :])
    total = sum((rows[..., i : i + width] for i in range(1, 2 * reach + 1)), rows[..., :width])
    return total / (2 * reach + 1) ** 2
