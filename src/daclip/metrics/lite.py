"""A perceptual distance that needs no download."""

from functools import cached_property

import torch
from torch import Tensor

from daclip.metrics.base import PairMetric, loading, refuse_small
from daclip.recognition import Recognizer, efficientnet_lite

__all__ = ["LiteDistance"]


class LiteDistance(PairMetric):
    """LPIPS's formula over EfficientNet-Lite0, without learned weights (`Recognizer.distance`).

    Not comparable with published LPIPS; for ranking where no weights can be downloaded.
    """

    higher_is_better = False
    needs_rgb = True

    @cached_property
    def _network(self) -> Recognizer:
        with loading():
            return efficientnet_lite()

    @torch.no_grad()
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos.

        Raises:
            MetricUnavailableError: The package with the weights is damaged; a side is below 32.
        """
        refuse_small(images, 32)
        return self._network.to(images.device).distance(images, reference)
