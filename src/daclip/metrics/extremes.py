"""The best and the worst photos of an evaluation, kept as files."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from daclip.data.images import save_image

__all__ = ["Extremes", "Kept"]


@dataclass(order=True)
class Kept:
    """A photo that is kept; the order is that of `rank`, then of arrival.

    Attributes:
        rank: Its merit, with the sign that makes those to keep largest.
        arrival: Minus its number, so that the first of equals is kept.
        facts: What is known of it.
        images: Its pictures by name, `[3, H, W]`.
    """

    rank: float
    arrival: int
    facts: dict[str, Any] = field(compare=False)
    images: dict[str, Tensor] = field(compare=False)


class Extremes:
    """Holds the photos of the lowest and the highest merit, whatever the number that passes by.

    >>> extremes = Extremes(1)
    >>> for merit in (3.0, 1.0, 2.0):
    ...     extremes.offer(merit, {"merit": merit}, {})
    >>> [(which, kept.facts["merit"]) for which, kept in extremes.kept()]
    [('worst', 1.0), ('best', 3.0)]

    Args:
        count: Photos of each kind.
    """

    def __init__(self, count: int):
        self.count = count
        self._offered = 0
        self._heaps: dict[str, list[Kept]] = {"worst": [], "best": []}

    def offer(self, merit: float, facts: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        """Show one photo: how well it did, what is known of it, and its pictures `[3, H, W]` by name."""
        self._offered += 1
        for which, heap in self._heaps.items():
            entry = Kept(merit if which == "best" else -merit, -self._offered, dict(facts), dict(images))
            if len(heap) < self.count:
                heapq.heappush(heap, entry)
            elif heap and entry > heap[0]:
                heapq.heapreplace(heap, entry)

    def kept(self) -> list[tuple[str, Kept]]:
        """`worst` photos, the worst first, then `best` ones, the best first; no photo is both."""
        worst = min(self.count, self._offered // 2)
        limits = {"worst": worst, "best": min(self.count, self._offered - worst)}
        return [
            (which, entry)
            for which, heap in self._heaps.items()
            for entry in sorted(heap, reverse=True)[: limits[which]]
        ]

    def save(self, folder: Path) -> list[dict[str, Any]]:
        """Write the pictures losslessly.

        Returns:
            One entry a photo: `rank` (`worst` or `best`), its facts, and `files`, picture to file name.
        """
        entries = []
        for number, (which, entry) in enumerate(self.kept()):
            files = {}
            for name, image in entry.images.items():
                files[name] = f"{number:02d}_{which}_{name}.png"
                save_image(image, folder / files[name])
            entries.append({"rank": which, **entry.facts, "files": files})
        return entries
