"""Photos found in the wild: several rounds of blur, scaling, noise and compression."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne, join_classes
from daclip.degradations.compose import named, steps
from daclip.degradations.digital import Resize
from daclip.degradations.draws import fork, permuted, uniform
from daclip.degradations.options import fraction
from daclip.errors import DaclipError
from daclip.pixels import LUMA

BACK = "back"  # name of the step that gives the photo its size again
GRAY = "gray"


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
