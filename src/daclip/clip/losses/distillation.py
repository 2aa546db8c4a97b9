"""Towards the embedding that frozen CLIP has of the clean photo; no caption is needed."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.losses.official import contrastive_loss

__all__ = ["ContrastiveDistillation", "CosineDistillation", "Distillation", "distillation_loss"]


def distillation_loss(content: Tensor, clean: Tensor) -> Tensor:
    """One minus the cosine between steered and clean embeddings: scalar from `[B, D]` pairs."""
    return (1 - F.cosine_similarity(content, clean, dim=-1)).mean()


class Distillation(nn.Module, ABC):
    """A distance of steered embeddings to those of the clean photos."""

    @abstractmethod
    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            content: Steered embeddings `[B, D]`, not normalised.
            clean: Frozen CLIP's embeddings of the clean photos `[B, D]`, not normalised.
            scale: Factor of the cosine similarities.

        Returns:
            Scalar.
        """


class CosineDistillation(Distillation):
    """`distillation_loss`: each photo by itself."""

    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Distillation`."""
        return distillation_loss(content, clean)


class ContrastiveDistillation(Distillation):
    """InfoNCE: each steered embedding is to find its clean photo among those of the batch, and the reverse."""

    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Distillation`."""
        return contrastive_loss(F.normalize(content, dim=-1), F.normalize(clean, dim=-1), scale)
