"""Restored photos of any system against their references, matched by name."""

import copy
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daclip.errors import DaclipError
from daclip.images import find_images, save_image
from daclip.metrics.base import MetricUnavailableError, PairMetric, SetMetric
from daclip.metrics.bootstrap import bootstrap, interval
from daclip.metrics.protocol import Protocol

UNSORTED = "all"  # the group of photos that lie in no subfolder


@dataclass(frozen=True)
class FilePair:
    """One photo on disk.

    Attributes:
        name: Path below its folder, without suffix.
        group: First subfolder of the path, such as a degradation word; `all` without one.
        pred: The restored photo.
        gt: Its reference.
        lq: The degraded photo, where a third folder is given.
    """

    name: str
    group: str
    pred: Path
    gt: Path
    lq: Path | None


def _by_name(root: Path, option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(root):
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise DaclipError(f"{option}={root}: {found[name].name} and {path.name} have the same name; remove one")
        found[name] = path
    return found


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def match_folders(pred: str | Path, gt: str | Path, lq: str | Path | None = None) -> list[FilePair]:
    """Pair the photos of two or three folders by their path below the folder; suffixes may differ.

    Args:
        pred: Restored photos.
        gt: References.
        lq: Degraded photos; optional.

    Raises:
        DaclipError: A folder is missing or empty, or a photo has no partner of its name.
    """
    folders = {"pred": Path(pred), "gt": Path(gt), **({} if lq is None else {"lq": Path(lq)})}
    found = {option: _by_name(root, option) for option, root in folders.items()}
    for option, names in found.items():
        lonely = sorted(set(names) - set(found["gt"]))
        absent = sorted(set(found["gt"]) - set(names))
        if lonely:
            raise DaclipError(f"{option}={folders[option]}: gt={gt} has no photo named {_list(lonely)}")
        if absent:
            raise DaclipError(
                f"{option}={folders[option]}: {len(absent)} of {len(found['gt'])} photos of gt={gt} are missing: "
                f"{_list(absent)}"
            )
    return [
        FilePair(
            name,
            name.split("/")[0] if "/" in name else UNSORTED,
            found["pred"][name],
            found["gt"][name],
            found["lq"][name] if lq is not None else None,
        )
        for name in sorted(found["gt"])
    ]


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


@dataclass(frozen=True)
class PhotoScore:
    """Scores of one photo.

    Attributes:
        name: Which photo.
        crop: Number of the photo's crop under this degradation.
        degradation: Its degradation word, or several.
        recognised: The word that the system named; None where none was asked for.
        scores: Metric to score; `METRIC_lq` is that of the degraded photo.
    """

    name: str
    crop: int
    degradation: str
    recognised: str | None
    scores: dict[str, float]


class Scorer:
    """Collects scores; a metric that cannot be computed is left out and its reason kept.

    Args:
        protocol: What happens to photos before they are compared.
        metrics: Name to metric.

    Attributes:
        missing: Metric to the reason why it is not computed.
        photos: One row a photo, in the order of `add`.
    """

    def __init__(self, protocol: Protocol, metrics: Mapping[str, PairMetric | SetMetric]):
        self.protocol = protocol
        self.missing: dict[str, str] = {}
        self.photos: list[PhotoScore] = []
        self.higher_is_better = {name: metric.higher_is_better for name, metric in metrics.items()}
        self._pairs = {name: metric for name, metric in metrics.items() if isinstance(metric, PairMetric)}
        # The degraded photos are a set of their own.
        self._sets = {name: metric for name, metric in metrics.items() if isinstance(metric, SetMetric)}
        self._sets_lq = {name: copy.deepcopy(metric) for name, metric in self._sets.items()}
        self._seen: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        names: Sequence[str],
        degradations: Sequence[str],
        restored: Tensor,
        hq: Tensor,
        lq: Tensor | None = None,
        recognised: Sequence[str] | None = None,
    ) -> list[dict[str, float]]:
        """Score a batch.

        Args:
            names: Which photos.
            degradations: Their words.
            restored: What is scored, `[B, 3, H, W]`, RGB in [0, 1].
            hq: References, same shape.
            lq: Degraded photos, same shape.
            recognised: Words that the system named.

        Returns:
            Metric to score for each photo, as kept in `photos`.
        """
        columns: dict[str, list[float]] = {}
        for name in list(self._pairs):
            try:
                columns |= self._compare(name, restored, hq, lq)
            except MetricUnavailableError as error:
                self._drop(name, str(error))
        for name in list(self._sets):
            try:
                self._gather(name, restored, hq, lq)
            except MetricUnavailableError as error:
                self._drop(name, str(error))
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        rows = rows or [{} for _ in names]
        for i, (name, class_name) in enumerate(zip(names, degradations, strict=True)):
            named = recognised[i] if recognised is not None else None
            self.photos.append(PhotoScore(name, self._seen[name, class_name], class_name, named, rows[i]))
            self._seen[name, class_name] += 1
        return rows

    def _compare(self, name: str, restored: Tensor, hq: Tensor, lq: Tensor | None) -> dict[str, list[float]]:
        metric = self._pairs[name]
        reference = self.protocol.prepare(hq, metric.needs_rgb)
        compared = {name: restored} if lq is None else {f"{name}_lq": lq, name: restored}
        return {
            key: metric(self.protocol.prepare(images, metric.needs_rgb), reference).tolist()
            for key, images in compared.items()
        }

    def _gather(self, name: str, restored: Tensor, hq: Tensor, lq: Tensor | None) -> None:
        metric = self._sets[name]
        reference = self.protocol.prepare(hq, metric.needs_rgb)
        metric.add(self.protocol.prepare(restored, metric.needs_rgb), reference)
        if lq is not None:
            self._sets_lq[name].add(self.protocol.prepare(lq, metric.needs_rgb), reference)

    def _drop(self, name: str, reason: str) -> None:
        self.missing[name] = reason
        self._pairs.pop(name, None)
        self._sets.pop(name, None)
        for photo in self.photos:
            for key in (name, f"{name}_lq"):
                photo.scores.pop(key, None)

    def sets(self, with_lq: bool) -> dict[str, float]:
        """Scores of the whole set."""
        found: dict[str, float] = {}
        for name in list(self._sets):
            try:
                if with_lq:
                    found[f"{name}_lq"] = self._sets_lq[name].value()
                found[name] = self._sets[name].value()
            except MetricUnavailableError as error:
                self._drop(name, str(error))
        return found


def summarise(
    photos: Sequence[PhotoScore], draws: int, confidence: float, generator: torch.Generator
) -> dict[str, Any]:
    """Means by word, their macro average, and bootstrap intervals over photos.

    Args:
        photos: All rows, with equal columns.
        draws: Redrawn sets of the bootstrap.
        confidence: Of the intervals.
        generator: Source of the draws.

    Returns:
        `per_degradation`, `mean` and `intervals` as `metrics.json` holds them. Intervals also have
        `METRIC_gain`, restored minus degraded.
    """
    columns = list(photos[0].scores)
    classes = [photo.degradation for photo in photos]
    values = torch.tensor([[photo.scores[key] for key in columns] for photo in photos], dtype=torch.float64)
    per_class: dict[str, dict[str, Any]] = {}
    for class_name in dict.fromkeys(classes):
        found = values[torch.tensor([other == class_name for other in classes])]
        per_class[class_name] = {**dict(zip(columns, found.mean(0).tolist(), strict=True)), "count": len(found)}
    mean: dict[str, Any] = {key: sum(row[key] for row in per_class.values()) / len(per_class) for key in columns}
    gains = [key for key in columns if f"{key}_lq" in columns]
    wide = torch.cat(
        [values, *(values[:, [columns.index(key)]] - values[:, [columns.index(f"{key}_lq")]] for key in gains)], 1
    )
    drawn = bootstrap([photo.name for photo in photos], classes, wide, draws, generator)

    def ends(means: torch.Tensor) -> dict[str, tuple[float, float] | None]:
        named = [*columns, *(f"{key}_gain" for key in gains)]
        return {key: interval(means[:, i], confidence) for i, key in enumerate(named)}

    return {
        "per_degradation": per_class,
        "mean": {**mean, "count": len(photos)},
        "intervals": {
            "confidence": confidence,
            "draws": draws,
            "photos": drawn.units,
            "per_degradation": {class_name: ends(means) for class_name, means in drawn.per_class.items()},
            "mean": ends(drawn.macro),
        },
    }
