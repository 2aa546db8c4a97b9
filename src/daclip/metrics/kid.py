"""Kernel distance of Inception features."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from daclip.metrics.base import MetricUnavailableError, SetMetric, loading

__all__ = ["Kid"]


class Kid(SetMetric):
    """Kernel inception distance (Bińkowski et al. 2018): unbiased, so smaller sets will do than for FID.

    Args:
        feature: Length of the Inception feature.
        subsets: Subsets that are averaged.
        subset_size: Photos of a subset; all where there are fewer.
        seed: Of the subsets.
    """

    higher_is_better = False

    def __init__(self, feature: int, subsets: int, subset_size: int, seed: int):
        self.feature, self.subsets, self.subset_size, self.seed = feature, subsets, subset_size, seed
        self._photos = 0

    @cached_property
    def _metric(self) -> Any:
        from torchmetrics.image.kid import KernelInceptionDistance

        with loading():
            return KernelInceptionDistance(self.feature, subsets=self.subsets, subset_size=self.subset_size)

    def add(self, images: Tensor, reference: Tensor) -> None:
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        for batch, real in ((images, False), (reference, True)):
            self._metric.to(batch.device).update(batch.mul(255).round().to(torch.uint8), real=real)
        self._photos += len(images)

    def value(self) -> float:
        """Mean over the subsets."""
        if self._photos < 2:
            raise MetricUnavailableError("a distance of distributions needs at least 2 photos")
        self._metric.subset_size = min(self.subset_size, self._photos)
        # torchmetrics draws its subsets from the global generator.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return float(self._metric.compute()[0])
