"""Kernel distance of Inception features."""

from typing import Any

import torch

from daclip.metrics.inception import InceptionDistance

__all__ = ["Kid"]


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
