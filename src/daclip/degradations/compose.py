"""Degradations made of others: one after another, in random order, one of several, or in rounds as in the wild."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne, join_classes, vocabulary
from daclip.degradations.digital import Resize
from daclip.degradations.draws import choose, fork, permuted, uniform
from daclip.degradations.options import Span, fraction, span, weights_of
from daclip.errors import DaclipError
from daclip.pixels import LUMA

MARK = "/"  # between the name of a part and the names of its draws
BACK = "back"  # name of the step that gives a photo its size again
GRAY = "gray"


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


class WildPipeline(OneByOne):
    """Rounds of random parts: a photo loses something each time it is taken, edited, scaled and saved. The high-order
    degradation of Wang et al., "Real-ESRGAN", 2021, section 3, in random order as in Zhang et al. (BSRGAN, 2021), used
    for DA-CLIP by Luo et al., "Photo-Realistic Image Restoration in the Wild with Controlled Vision-Language Models",
    2024; but parts are often left out, the photo keeps its size, and severity moves all parameters. A label names all
    that was done; scaling counts if it made the photo smaller, or if nothing else happened. `chances` in [0, 1] (of
    each part; if all are left out, the last takes place) and `shares` of the severity are one a round; `shuffle` is the
    chance of random order, `gray` that the photo loses its colours first."""

    def __init__(
        self,
        parts: Mapping[str, Degradation | Resize],
        chances: Sequence[float],
        shares: Sequence[float],
        shuffle: float,
        gray: float,
    ) -> None:
        if not parts or {BACK, GRAY} & set(parts):
            raise DaclipError(f"parts: expected some, none of them called '{BACK}' or '{GRAY}', got {list(parts)}")
        if not chances or len(chances) != len(shares):
            raise DaclipError(f"expected a chance and a share for each round, got {list(chances)} and {list(shares)}")
        self.parts = dict(parts)
        scaling = [part for part in self.parts.values() if isinstance(part, Resize)]
        if len(scaling) != 1:
            raise DaclipError(f"parts: expected one Resize, got {len(scaling)} among {list(parts)}")
        self.resize = scaling[0]
        self.chances = [fraction(chance, "chances") for chance in chances]
        self.shares = [fraction(share, "shares") for share in shares]
        self.shuffle = fraction(shuffle, "shuffle")
        self.gray = fraction(gray, "gray")

    @property
    def classes(self) -> tuple[str, ...]:
        """`gray` and the parts' names."""
        return (*([GRAY] if self.gray else []), *self.parts)

    def describe(self, drawn: Drawn) -> str:
        """The classes of the parts that the sample went through, each once."""
        taken = [(name, settings) for _, part in steps(drawn) for name, settings in steps(part) if name != BACK]
        lossy = {name for name, settings in taken if not _grew(settings)} or {name for name, _ in taken}
        return join_classes(name for name in self.classes if name in lossy)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """The draws of the parts of each round, as `ROUND/PART/KEY`, in the order of application."""
        drawn: Drawn = {}
        if uniform(0, 1, generator) < self.gray:
            drawn.update(named("0", named(GRAY, {"luma": LUMA[None]})))
        size = (height, width)
        for number, names in enumerate(self._plan(generator), start=1):
            for name in names:
                own = fork(generator)
                settings: Drawn = {}
                if name != BACK:
                    settings = self.parts[name].draw(*size, severity * self.shares[number - 1], own)
                elif size != (height, width):
                    settings = self.resize.draw_to(size, (height, width), own)
                if "rows" in settings:
                    size = settings["rows"].shape[1], settings["columns"].shape[1]
                drawn.update(named(str(number), named(name, settings)))
        return drawn

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Apply the steps of the draw to `[B, 3, H, W]`."""
        for _, taken in steps(drawn):
            for name, settings in steps(taken):
                if name == GRAY:
                    images = (settings["luma"] * images).sum(dim=1, keepdim=True).expand_as(images)
                else:
                    part = self.resize if name == BACK else self.parts[name]
                    images = part.apply(images, settings)
        return images

    def _plan(self, generator: Generator) -> list[list[str]]:
        """For each round the names of its parts in order; with `back` in the last one."""
        plan = []
        for chance in self.chances:
            names = [name for name in self.parts if uniform(0, 1, generator) < chance]
            if uniform(0, 1, generator) < self.shuffle:
                names = permuted(names, generator)
            plan.append(names)
        last = plan[-1]
        if not any(plan):
            last.append(list(self.parts)[-1])
        # Anywhere after the last change of size: noise and blocks are seen at their own size or enlarged.
        scaled = [place + 1 for place, name in enumerate(last) if isinstance(self.parts[name], Resize)]
        first = max(scaled, default=0)
        last.insert(first + int(torch.randint(len(last) - first + 1, (), generator=generator)), BACK)
        return plan


def _grew(settings: Drawn) -> bool:
    """Whether the step made the picture larger or kept its size by scaling."""
    return "rows" in settings and settings["rows"].shape[1] >= settings["rows"].shape[2]


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
