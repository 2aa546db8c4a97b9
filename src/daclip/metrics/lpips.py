"""Learned perceptual distance."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from daclip.metrics.base import PairMetric, loading

__all__ = ["Lpips"]


class Lpips(PairMetric):
    """Learned perceptual image patch similarity (Zhang et al. 2018); its network is downloaded once.

    Args:
        net: `alex` (the papers' choice), `vgg` or `squeeze`.
    """

    higher_is_better = False
    needs_rgb = True

    def __init__(self, net: Literal["alex", "vgg", "squeeze"]):
        self.net = net

    @cached_property
    def _network(self) -> nn.Module:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with loading():
            return LearnedPerceptualImagePatchSimilarity(net_type=self.net).net.eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        network = self._network.to(images.device)
        distances: Tensor = network(2 * images - 1, 2 * reference - 1)
        return distances.reshape(len(images))
