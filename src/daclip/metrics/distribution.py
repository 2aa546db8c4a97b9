"""Distances between the Inception features of all restored photos and those of all references."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from daclip.metrics.base import LazyNetwork, MetricUnavailableError, SetMetric


class Inception(nn.Module):
    """torchmetrics' Inception network, loaded when the first photos come.

    Args:
        num_features: Length of the feature: 64, 192, 768 or 2048 (the papers' choice).
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features
        self._network = LazyNetwork(lambda: NoTrainInceptionV3("inception-v3-compat", [str(num_features)]))

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, num_features]` of photos, uint8 `[B, 3, H, W]`."""
        features: Tensor = self._network.on(images.device)(images)
        return features


def _eight_bit(images: Tensor) -> Tensor:
    return images.mul(255).round().to(torch.uint8)


class Fid(FrechetInceptionDistance, SetMetric):
    """Fréchet inception distance (Heusel et al. 2017), 0 for equal sets.

    Biased for small sets: compare only sets of the same photos.

    Args:
        feature: Length of the Inception feature.
    """

    def __init__(self, feature: int):
        super().__init__(Inception(feature))

    def update(self, images: Tensor, reference: Tensor) -> None:  # type: ignore[override]
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        super().update(_eight_bit(images), real=False)
        super().update(_eight_bit(reference), real=True)

    def compute(self) -> Tensor:
        """The distance."""
        _refuse_few(int(self.fake_features_num_samples))
        return super().compute()


class Kid(KernelInceptionDistance, SetMetric):
    """Kernel inception distance (Bińkowski et al. 2018): unbiased, so smaller sets will do than for FID.

    Args:
        feature: Length of the Inception feature.
        subsets: Subsets that are averaged.
        subset_size: Photos of a subset; all where there are fewer.
        seed: Of the subsets.
    """

    def __init__(self, feature: int, subsets: int, subset_size: int, seed: int):
        with warnings.catch_warnings(action="ignore"):  # that it keeps all features
            super().__init__(Inception(feature), subsets=subsets, subset_size=subset_size)
        self.largest_subset, self.seed = subset_size, seed

    def update(self, images: Tensor, reference: Tensor) -> None:  # type: ignore[override]
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        super().update(_eight_bit(images), real=False)
        super().update(_eight_bit(reference), real=True)

    def compute(self) -> Any:
        """Mean over the subsets."""
        photos = sum(len(batch) for batch in self.fake_features)
        _refuse_few(photos)
        self.subset_size = min(self.largest_subset, photos)
        # torchmetrics draws its subsets from the global generator.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return super().compute()[0]


def _refuse_few(photos: int) -> None:
    if photos < 2:
        raise MetricUnavailableError("a distance of distributions needs at least 2 photos")
