"""Degradations made of others: one after another, in random order, or one of several."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, fork, join_classes, span, uniform, vocabulary
from daclip.errors import DaclipError

MARK = "/"  # between the name of a part and the names of what it drew


class OneByOne(Degradation):
    """A degradation that applies its draws one by one.

    Samples differ in the parts that they use, and so do the keys and shapes of their draws. Also, a codec after
    another part would turn a last bit that depends on the size of the batch into a visible step.
    """

    def replay(self, images: Tensor, draws: Sequence[Drawn]) -> Tensor:
        """Corrupt photos by given draws, one a sample, as the base class does."""
        return torch.cat([super(OneByOne, self).replay(images[i : i + 1], [draws[i]]) for i in range(len(draws))])


class Composition(OneByOne):
    """Parts by name, some of which are applied one after another to each sample.

    A sample's draw holds what its parts drew, each under the part's name, in the order of application:
    `{"hazy/transmission": …, "hazy/airlight": …, "rainy/streaks": …}`. The names are the degradation words of
    the sample's label, unless a part labels its samples itself.

    Args:
        parts: Name to degradation.
    """

    def __init__(self, parts: Mapping[str, Degradation]) -> None:
        if not parts or any(MARK in name for name in parts):
            raise DaclipError(f"parts: expected some, with names without '{MARK}', got {list(parts)}")
        self.parts = dict(parts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The words of all parts, or their names."""
        return tuple(vocabulary(self.parts))

    def describe(self, drawn: Drawn) -> str:
        """The words of the sample's parts, in the order of the configuration: one label a combination."""
        used = dict(steps(drawn))
        return join_classes(self.parts[name].describe(used[name]) or name for name in self.parts if name in used)

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Apply the parts that drew something to `[B, 3, H, W]`, in their order."""
        for name, part in steps(drawn):
            images = self.parts[name].apply(images, part)
        return images


class Chain(Composition):
    """All parts, one after another in the order of the configuration.

    Args:
        parts: Name to degradation.
        share: Range of what each part takes of the severity, drawn for each part: several full strengths at once
            would leave nothing to see, and parts should not always move in step.
    """

    def __init__(self, parts: Mapping[str, Degradation], share: Span) -> None:
        super().__init__(parts)
        self.share = span(share, "share", most=1)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """What each part drew, under its name."""
        drawn: Drawn = {}
        for name in self.order(generator):
            strength = severity * uniform(*self.share, generator)
            drawn.update(named(name, self.parts[name].draw(height, width, strength, fork(generator))))
        return drawn

    def order(self, generator: torch.Generator) -> list[str]:
        """Names of the parts as they are applied to one sample."""
        return list(self.parts)


class RandomOrder(Chain):
    """All parts, one after another, in an order of each sample's own."""

    def order(self, generator: torch.Generator) -> list[str]:
        """A random permutation of the parts' names."""
        names = list(self.parts)
        return [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]


class OneOf(Composition):
    """One part, drawn for each sample.

    Args:
        parts: Name to degradation.
        weights: Relative frequency of each part by its name; None makes all equal.
    """

    def __init__(self, parts: Mapping[str, Degradation], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(parts)
        self.weights = weights_of(list(self.parts), weights)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """What the chosen part drew, under its name."""
        name = choose(self.weights, generator)
        return named(name, self.parts[name].draw(height, width, severity, fork(generator)))


class Combinations(OneOf):
    """One of several chains of the same parts, such as haze and rain, or low light and noise.

    Args:
        parts: Degradation word to degradation.
        combinations: Words of each chain, in the order of application.
        share: Of the severity, as in `Chain`.
    """

    def __init__(self, parts: Mapping[str, Degradation], combinations: Sequence[Sequence[str]], share: Span) -> None:
        unknown = {name for names in combinations for name in names} - set(parts)
        if unknown or not combinations:
            raise DaclipError(f"combinations: expected chains of {list(parts)}, got {sorted(unknown) or 'none'}")
        chains = {join_classes(names): Chain({name: parts[name] for name in names}, share) for names in combinations}
        super().__init__(chains)


def weights_of(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Relative frequencies of the names, checked.

    Args:
        names: All names, at least one.
        weights: Frequency of each name; None makes all equal.

    Raises:
        DaclipError: A name is unknown or left out, or the weights are negative or all 0.
    """
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


def named(name: str, drawn: Drawn) -> Drawn:
    """What a part drew, under the part's name."""
    return {f"{name}{MARK}{key}": value for key, value in drawn.items()}


def steps(drawn: Drawn) -> Iterator[tuple[str, Drawn]]:
    """Name and draw of each part of a composition's draw, in the order of application."""
    parts: dict[str, Drawn] = {}
    for key, value in drawn.items():
        name, _, rest = key.partition(MARK)
        parts.setdefault(name, {})[rest] = value
    yield from parts.items()
