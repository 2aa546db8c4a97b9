"""Degradation base class (a random draw on the CPU, then a batched formula), its options, and how numbers are drawn."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Generic, TypeVar, dataclass_transform

import torch
from torch import Tensor

from daclip.errors import DaclipError

Drawn = dict[str, Tensor]
"""The decisions of one call of `draw`; every value has a leading dimension of 1, so samples concatenate."""

V, T, C = TypeVar("V"), TypeVar("T"), TypeVar("C")

Span = float | Sequence[float]
"""A range `[mild, strong]` from the configuration, or one number for a fixed value."""

SMALLEST_SIDE = 32  # below it neither a blur kernel nor a drop fits into the picture
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


class OneByOne(Degradation):
    """A degradation that applies its draws one by one, since samples differ in their parts; and since a codec would
    turn a last bit that depends on the size of the batch into a visible step."""

    def replay(self, images: Tensor, draws: Sequence[Drawn]) -> Tensor:
        """Corrupt photos `[B, 3, H, W]` by given draws, one a sample."""
        return torch.cat([super(OneByOne, self).replay(images[i : i + 1], [draws[i]]) for i in range(len(draws))])


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


def weights_of(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Relative frequencies of the names, one for each, not all 0; None makes all equal."""
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if set(weights) != set(names):
        raise DaclipError(f"weights: expected one for each of {list(names)}, got {list(weights)}")
    if not all(weight >= 0 for weight in weights.values()) or not sum(weights.values()) > 0:
        raise DaclipError(f"weights: expected numbers of at least 0, not all 0, got {dict(weights)}")
    return {name: float(weights[name]) for name in names}


@dataclass_transform()
def configured(cls: type[C]) -> type[C]:
    """A class whose body lists its options; the constructor takes them in this order and checks them."""
    made = dataclass(eq=False)(cls)
    for name, option in vars(made).items():
        if isinstance(option, Option):  # the types of configured values, which are checked by the signature
            made.__init__.__annotations__[name] = option.takes
    return made


class Option(Generic[V, T]):
    """One option of a `configured` class: `read` takes what the configuration gives (a `V`) and the option's name for
    errors, and returns what the attribute holds (a `T`)."""

    takes: Any  # V, for checks before the value is read

    def __init__(self, read: Callable[[V, str], T], default: Any = MISSING) -> None:
        self.read, self.default = read, default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None and self.default is MISSING:
            raise AttributeError(self.name)  # tells the dataclass that there is no default
        found: T = self.default if instance is None else instance.__dict__[self.name]
        return found

    def __set__(self, instance: object, value: V) -> None:
        instance.__dict__[self.name] = self.read(value, self.name)


class Range(Option[Span, tuple[float, float]]):
    """A range within [least, most], by its two ends; see `span`."""

    takes = Span

    def __init__(self, least: float = 0.0, most: float = math.inf) -> None:
        super().__init__(lambda value, name: span(value, name, least, most))


class Ranges(Option[Sequence[Sequence[float]], list[tuple[float, float]]]):
    """Several of `Range`."""

    takes = Sequence[Sequence[float]]

    def __init__(self, least: float = 0.0) -> None:
        super().__init__(lambda value, name: [span(one, name, least) for one in value])


class Number(Option[float, float]):
    """A number within [least, most]."""

    takes = float

    def __init__(self, least: float = -math.inf, most: float = math.inf, default: Any = MISSING) -> None:
        super().__init__(lambda value, name: span(value, name, least, most)[0], default)


class Count(Option[int, int]):
    """A whole number."""

    takes = int

    def __init__(self) -> None:
        super().__init__(lambda value, _: int(value))


class Weights(Option[Mapping[str, float], dict[str, float]]):
    """Relative frequencies of the names, see `weights_of`; unless `complete`, names may be left out and weigh 0."""

    takes = Mapping[str, float]

    def __init__(self, names: Sequence[str], complete: bool = True) -> None:
        rest = {} if complete else dict.fromkeys(names, 0.0)
        super().__init__(lambda value, _: weights_of(names, {**rest, **value}))


class Colours(Option[Mapping[str, Sequence[float]], dict[str, Tensor]]):
    """Colours by name, each with red, green and blue, as `[1, 3, 1, 1]`."""

    takes = Mapping[str, Sequence[float]]

    def __init__(self) -> None:
        super().__init__(
            lambda tints, _: {name: torch.tensor(rgb).float().view(1, 3, 1, 1) for name, rgb in tints.items()}
        )


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


def log_uniform(ends: tuple[float, float], generator: torch.Generator) -> float:
    """One number drawn from a range, every ratio as likely as any other of its size."""
    return math.exp(uniform(*logarithms(ends), generator))


def log_ramp(ends: tuple[float, float], severity: float, generator: torch.Generator) -> float:
    """As `ramp`, in equal ratios."""
    return math.exp(ramp(logarithms(ends), severity, generator))


def tint(most: float, generator: torch.Generator) -> Tensor:
    """Deviations of the channels `[1, 3, 1, 1]`, each up to `most`."""
    return most * (2 * torch.rand(1, 3, 1, 1, generator=generator) - 1)


def scalar(value: float) -> Tensor:
    """One number for a draw, `[1, 1, 1, 1]`."""
    return torch.full((1, 1, 1, 1), value)


def fork(generator: torch.Generator) -> torch.Generator:
    """A generator of its own for one part, so that the number of its draws does not change the parts after it."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def permuted(names: Sequence[str], generator: torch.Generator) -> list[str]:
    """The names in random order."""
    return [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]


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
