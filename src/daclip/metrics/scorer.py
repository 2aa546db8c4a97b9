"""Scores of photo after photo under one protocol, and their means with intervals."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from daclip.metrics.base import MetricUnavailableError, PairMetric, SetMetric
from daclip.metrics.protocol import Protocol
from daclip.metrics.statistics import bootstrap, interval

__all__ = ["PhotoScore", "Scorer", "summarise"]


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
        for i, (name, word) in enumerate(zip(names, degradations, strict=True)):
            named = recognised[i] if recognised is not None else None
            self.photos.append(PhotoScore(name, self._seen[name, word], word, named, rows[i]))
            self._seen[name, word] += 1
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
    words = [photo.degradation for photo in photos]
    values = torch.tensor([[photo.scores[key] for key in columns] for photo in photos], dtype=torch.float64)
    per_word: dict[str, dict[str, Any]] = {}
    for word in dict.fromkeys(words):
        found = values[torch.tensor([other == word for other in words])]
        per_word[word] = {**dict(zip(columns, found.mean(0).tolist(), strict=True)), "count": len(found)}
    mean: dict[str, Any] = {key: sum(row[key] for row in per_word.values()) / len(per_word) for key in columns}
    gains = [key for key in columns if f"{key}_lq" in columns]
    wide = torch.cat(
        [values, *(values[:, [columns.index(key)]] - values[:, [columns.index(f"{key}_lq")]] for key in gains)], 1
    )
    drawn = bootstrap([photo.name for photo in photos], words, wide, draws, generator)

    def ends(means: torch.Tensor) -> dict[str, tuple[float, float] | None]:
        named = [*columns, *(f"{key}_gain" for key in gains)]
        return {key: interval(means[:, i], confidence) for i, key in enumerate(named)}

    return {
        "per_degradation": per_word,
        "mean": {**mean, "count": len(photos)},
        "intervals": {
            "confidence": confidence,
            "draws": draws,
            "photos": drawn.units,
            "per_degradation": {word: ends(means) for word, means in drawn.per_word.items()},
            "mean": ends(drawn.macro),
        },
    }
