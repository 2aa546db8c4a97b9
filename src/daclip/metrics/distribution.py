"""What distances between sets of Inception features share."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from daclip.metrics.base import MetricUnavailableError, SetMetric, loading


class InceptionDistance(SetMetric):
    """A distance between the Inception features of all restored photos and those of all references.

    Args:
        feature: Length of the Inception feature: 64, 192, 768 or 2048 (the papers' choice).
    """

    higher_is_better = False

    def __init__(self, feature: int):
        self.feature = feature
        self._photos = 0

    @cached_property
    def _metric(self) -> Any:
        with loading():
            return self.load()

    @abstractmethod
    def load(self) -> Any:
        """torchmetrics' metric, with its weights."""

    @abstractmethod
    def compute(self, metric: Any, photos: int) -> float:
        """The distance between the two sets of so many photos each that the metric has seen."""

    def add(self, images: Tensor, reference: Tensor) -> None:
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        for batch, real in ((images, False), (reference, True)):
            self._metric.to(batch.device).update(batch.mul(255).round().to(torch.uint8), real=real)
        self._photos += len(images)

    def value(self) -> float:
        """The distance."""
        if self._photos < 2:
            raise MetricUnavailableError("a distance of distributions needs at least 2 photos")
        return self.compute(self._metric, self._photos)


class Fid(InceptionDistance):
    """Fréchet inception distance (Heusel et al. 2017), 0 for equal sets.

    Biased for small sets: compare only sets of the same photos.
    """

    def load(self) -> Any:
        """torchmetrics' metric."""
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=self.feature)

    def compute(self, metric: Any, photos: int) -> float:
        """The distance."""
        return float(metric.compute())


class Kid(InceptionDistance):
    """Kernel inception distance (Bińkowski et al. 2018): unbiased, so smaller sets will do than for FID.

    Args:
        feature: Length of the Inception feature.
        subsets: Subsets that are averaged.
        subset_size: Photos of a subset; all where there are fewer.
        seed: Of the subsets.
    """

    def __init__(self, feature: int, subsets: int, subset_size: int, seed: int):
        super().__init__(feature)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def load(self) -> Any:
        """torchmetrics' metric."""
        from torchmetrics.image.kid import KernelInceptionDistance

        return KernelInceptionDistance(self.feature, subsets=self.subsets, subset_size=self.subset_size)

    def compute(self, metric: Any, photos: int) -> float:
        """Mean over the subsets."""
        metric.subset_size = min(self.subset_size, photos)
        # torchmetrics draws its subsets from the global generator.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return float(metric.compute()[0])
