"""Options of degradations, from the configuration, checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Generic, TypeVar, dataclass_transform

import torch
from torch import Tensor

from daclip.errors import DaclipError

V = TypeVar("V")
T = TypeVar("T")
C = TypeVar("C")

Ends = tuple[float, float]
"""The ends of a range, as the formulas use it."""

Span = float | Sequence[float]
"""A range `[mild, strong]` from the configuration, or one number for a fixed value."""


def span(value: Span, name: str, least: float = 0.0, most: float = math.inf) -> Ends:
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
    hints = vars(made)["__init__"].__annotations__
    for name, option in vars(made).items():
        if isinstance(option, Option):
            hints[name] = option.takes  # a configuration is held against these types before anything is made
    return made


class Option(Generic[V, T]):
    """One option of a `configured` class: `read` takes a value of the type `takes` (`V`) and the option's name for
    errors, and returns what the attribute holds (a `T`)."""

    def __init__(self, takes: Any, read: Callable[[V, str], T], default: Any = MISSING) -> None:
        self.takes, self.read, self.default = takes, read, default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None and self.default is MISSING:
            raise AttributeError(self.name)  # tells the dataclass that there is no default
        found: T = self.default if instance is None else instance.__dict__[self.name]
        return found

    def __set__(self, instance: object, value: V) -> None:
        instance.__dict__[self.name] = self.read(value, self.name)


class Range(Option[Span, Ends]):
    """A range within [least, most], by its two ends; see `span`."""

    def __init__(self, least: float = 0.0, most: float = math.inf) -> None:
        super().__init__(Span, lambda value, name: span(value, name, least, most))


class Ranges(Option[Sequence[Sequence[float]], list[Ends]]):
    """Several of `Range`."""

    def __init__(self, least: float = 0.0) -> None:
        super().__init__(Sequence[Sequence[float]], lambda value, name: [span(one, name, least) for one in value])


class Number(Option[float, float]):
    """A number within [least, most]."""

    def __init__(self, least: float = -math.inf, most: float = math.inf, default: Any = MISSING) -> None:
        super().__init__(float, lambda value, name: span(value, name, least, most)[0], default)


class Count(Option[int, int]):
    """A whole number."""

    def __init__(self) -> None:
        super().__init__(int, lambda value, _: int(value))


class Weights(Option[Mapping[str, float], dict[str, float]]):
    """Relative frequencies of the names, see `weights_of`; unless `complete`, names may be left out and weigh 0."""

    def __init__(self, names: Sequence[str], complete: bool = True) -> None:
        rest = {} if complete else dict.fromkeys(names, 0.0)
        super().__init__(Mapping[str, float], lambda value, _: weights_of(names, {**rest, **value}))


class Colours(Option[Mapping[str, Sequence[float]], dict[str, Tensor]]):
    """Colours by name, each with red, green and blue, as `[1, 3, 1, 1]`."""

    def __init__(self) -> None:
        super().__init__(Mapping[str, Sequence[float]], self._tensors)

    @staticmethod
    def _tensors(colours: Mapping[str, Sequence[float]], name: str) -> dict[str, Tensor]:
        return {name: torch.tensor(rgb).float().view(1, 3, 1, 1) for name, rgb in colours.items()}
