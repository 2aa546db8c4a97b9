"""The official loss of DA-CLIP: one-to-one InfoNCE."""

import torch
from torch import Tensor
from torch.nn import functional as F

from daclip.clip.losses.base import Matching, Targets

__all__ = ["Official", "contrastive_loss"]


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric one-to-one InfoNCE (CLIP, Radford et al. 2021), the official loss of DA-CLIP.

    Samples of a batch with the same text are negatives of each other: with K texts in a batch of B it
    cannot fall below about ln(B/K).

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors `[B, D]`; row i belongs to image i.
        scale: Factor of the cosine similarities.

    Returns:
        Scalar, the mean of both directions.
    """
    logits = scale * image @ text.T
    target = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Official(Matching):
    """`contrastive_loss` over all samples of the batch."""

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Matching`."""
        return contrastive_loss(image, targets.text[targets.label], scale)
