"""Structural similarity."""

from torch import Tensor

from daclip.metrics.base import PairMetric, refuse_small
from daclip.metrics.image import ssim

__all__ = ["Ssim"]

WINDOW = 11


class Ssim(PairMetric):
    """Structural similarity (Wang et al. 2004), averaged over channels and the region where its window fits."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, WINDOW)
        return ssim(images, reference)
