"""Fréchet distance of Inception features."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from daclip.metrics.base import MetricUnavailableError, SetMetric, loading

__all__ = ["Fid"]


class Fid(SetMetric):
    """Fréchet inception distance (Heusel et al. 2017) between all restored photos and all references.

    Biased for small sets: compare only sets of the same photos.

    Args:
        feature: Length of the Inception feature: 64, 192, 768 or 2048 (the papers' choice).
    """

    higher_is_better = False

    def __init__(self, feature: int):
        self.feature = feature
        self._photos = 0

    @cached_property
    def _metric(self) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        with loading():
            return FrechetInceptionDistance(feature=self.feature)

    def add(self, images: Tensor, reference: Tensor) -> None:
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        for batch, real in ((images, False), (reference, True)):
            self._metric.to(batch.device).update(batch.mul(255).round().to(torch.uint8), real=real)
        self._photos += len(images)

    def value(self) -> float:
        """The distance; 0 for equal sets."""
        if self._photos < 2:
            raise MetricUnavailableError("a distance of distributions needs at least 2 photos")
        return float(self._metric.compute())
