"""Structural similarity."""

from torch import Tensor

from daclip.metrics.base import MetricUnavailableError, PairMetric
from daclip.metrics.image import ssim

__all__ = ["Ssim"]

WINDOW = 11


class Ssim(PairMetric):
    """Structural similarity (Wang et al. 2004), averaged over channels and the region where its window fits."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        if min(images.shape[-2:]) < WINDOW:
            raise MetricUnavailableError(
                f"photos need sides of at least {WINDOW} pixels, got {list(images.shape[-2:])}"
            )
        return ssim(images, reference)
