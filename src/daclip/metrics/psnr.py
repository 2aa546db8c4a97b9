"""Peak signal-to-noise ratio."""

from torch import Tensor

from daclip.metrics.base import PairMetric
from daclip.metrics.image import psnr

__all__ = ["Psnr"]


class Psnr(PairMetric):
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal photos."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """dB of each photo, `[B]`."""
        return psnr(images, reference)
