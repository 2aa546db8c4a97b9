"""Distance of structure and texture."""

from functools import cached_property

import torch
from torch import Tensor, nn

from daclip.metrics.base import PairMetric, loading

__all__ = ["Dists"]


class Dists(PairMetric):
    """Deep image structure and texture similarity (Ding et al. 2020); its network is downloaded once."""

    higher_is_better = False
    needs_rgb = True

    @cached_property
    def _network(self) -> nn.Module:
        from torchmetrics.functional.image.dists import DISTSNetwork

        with loading():
            return DISTSNetwork().eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        distances: Tensor = self._network.to(images.device)(images, reference)
        return distances.reshape(len(images))
