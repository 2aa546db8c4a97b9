"""Multi-scale structural similarity."""

from torch import Tensor

from daclip.metrics.base import PairMetric, refuse_small
from daclip.metrics.image import ms_ssim

__all__ = ["MsSsim"]

SMALLEST_SIDE = 161  # the 11×11 window at the fifth scale


class MsSsim(PairMetric):
    """Multi-scale structural similarity (Wang et al. 2003)."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, SMALLEST_SIDE)
        return ms_ssim(images, reference)
