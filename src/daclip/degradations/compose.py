"""Degradations made of others: one after another, in random order, or one of several."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne, join_classes, vocabulary
from daclip.degradations.draws import choose, fork, permuted, uniform
from daclip.degradations.options import Span, span, weights_of
from daclip.errors import DaclipError

MARK = "/"  # between the name of a part and the names of its draws


class Composition(OneByOne):
    """Parts by name, some applied one after another to each sample. A draw holds those of its parts in order, as
    `{"hazy/transmission": …}`. The names are the classes of the label, unless a part labels its samples itself."""

    def __init__(self, parts: Mapping[str, Degradation]) -> None:
        if not parts or any(MARK in name for name in parts):
            raise DaclipError(f"parts: expected some, with names without '{MARK}', got {list(parts)}")
        self.parts = dict(parts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of all parts, or their names."""
        return tuple(vocabulary(self.parts))

    def describe(self, drawn: Drawn) -> str:
        """The classes of the sample's parts, in the order of the configuration: one label a combination."""
        used = dict(steps(drawn))
        return join_classes(self.parts[name].describe(used[name]) or name for name in self.parts if name in used)

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Apply the parts of the draw to `[B, 3, H, W]`, in their order."""
        for name, part in steps(drawn):
            images = self.parts[name].apply(images, part)
        return images


class Chain(Composition):
    """All parts in the order of the configuration, each at a share of the severity drawn from the range `share`."""

    def __init__(self, parts: Mapping[str, Degradation], share: Span) -> None:
        super().__init__(parts)
        self.share = span(share, "share", most=1)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """The draw of each part, under its name."""
        drawn: Drawn = {}
        for name in self.order(generator):
            strength = severity * uniform(*self.share, generator)
            drawn.update(named(name, self.parts[name].draw(height, width, strength, fork(generator))))
        return drawn

    def order(self, generator: Generator) -> list[str]:
        """Names of the parts in the order of application to one sample."""
        return list(self.parts)


class RandomOrder(Chain):
    """All parts, one after another, in an order of each sample's own."""

    def order(self, generator: Generator) -> list[str]:
        """A random permutation of the parts' names."""
        return permuted(list(self.parts), generator)


class OneOf(Composition):
    """One part, drawn for each sample in proportion to its weight; None weighs all equally."""

    def __init__(self, parts: Mapping[str, Degradation], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(parts)
        self.weights = weights_of(list(self.parts), weights)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """The draw of the chosen part, under its name."""
        name = choose(self.weights, generator)
        return named(name, self.parts[name].draw(height, width, severity, fork(generator)))


class Combinations(OneOf):
    """One of several chains, such as haze and rain; `combinations` lists the classes of each; `share` as in `Chain`."""

    def __init__(self, parts: Mapping[str, Degradation], combinations: Sequence[Sequence[str]], share: Span) -> None:
        unknown = {name for names in combinations for name in names} - set(parts)
        if unknown or not combinations:
            raise DaclipError(f"combinations: expected chains of {list(parts)}, got {sorted(unknown) or 'none'}")
        chains = {join_classes(names): Chain({name: parts[name] for name in names}, share) for names in combinations}
        super().__init__(chains)


def named(name: str, drawn: Drawn) -> Drawn:
    """A part's draw under the part's name."""
    return {f"{name}{MARK}{key}": value for key, value in drawn.items()}


def steps(drawn: Drawn) -> Iterator[tuple[str, Drawn]]:
    """Name and draw of each part in a composition's draw, in the order of application."""
    parts: dict[str, Drawn] = {}
    for key, value in drawn.items():
        name, _, rest = key.partition(MARK)
        parts.setdefault(name, {})[rest] = value
    yield from parts.items()
