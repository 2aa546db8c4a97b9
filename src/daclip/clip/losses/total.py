"""Losses of stage 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.backbone import FrozenClip
from daclip.errors import DaclipError

__all__ = ["DaClipLoss", "LossTerms", "contrastive_loss", "distillation_loss", "multi_positive_loss"]


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


def multi_positive_loss(image: Tensor, text: Tensor, label: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss in which every sample of equal text is a positive (SupCon, Khosla et al. 2020).

    Image to text it is the cross-entropy over the K unique texts, whose floor is 0; text to image each
    text is matched to the uniform distribution over its images, less that distribution's entropy, so that
    this floor is 0 too.

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors of the unique texts, `[K, D]`.
        label: Row of `text` that belongs to each image, int64 `[B]`.
        scale: Factor of the cosine similarities.

    Returns:
        Scalar, the mean of both directions.
    """
    logits = scale * image @ text.T
    to_text = F.cross_entropy(logits, label)
    member = F.one_hot(label, len(text)).T.to(logits.dtype)
    present = member.sum(1) > 0
    count = member[present].sum(1)
    log_likelihood = logits.T[present].log_softmax(-1)
    to_image = -(member[present] * log_likelihood).sum(1) / count - count.log()
    return (to_text + to_image.mean()) / 2


def distillation_loss(content: Tensor, clean: Tensor) -> Tensor:
    """One minus the cosine between steered and clean embeddings: scalar from `[B, D]` pairs."""
    return (1 - F.cosine_similarity(content, clean, dim=-1)).mean()


@dataclass
class LossTerms:
    """The total and its parts, scalars; absent parts are None."""

    total: Tensor
    degradation: Tensor
    caption: Tensor | None
    distillation: Tensor | None


class DaClipLoss(nn.Module):
    """Degradation loss plus content losses with weights.

    Args:
        matching: `official` is one-to-one InfoNCE; `multi_positive` counts equal texts as positives.
        degradation_weight: Weight of the degradation loss.
        caption_weight: Weight of the loss between content embedding and caption; 0 leaves it out. Samples
            without a caption are passed over.
        distillation_weight: Weight of the distance to the clean photo's frozen CLIP embedding; 0 leaves it
            out. It needs no caption.
    """

    def __init__(
        self,
        matching: Literal["official", "multi_positive"],
        degradation_weight: float,
        caption_weight: float,
        distillation_weight: float,
    ):
        super().__init__()
        if matching not in ("official", "multi_positive"):
            raise DaclipError(f"loss.matching={matching} is not known; choose official or multi_positive")
        self.matching = matching
        self.degradation_weight = degradation_weight
        self.caption_weight = caption_weight
        self.distillation_weight = distillation_weight

    def _match(self, image: Tensor, texts: Sequence[str], clip: FrozenClip, scale: Tensor) -> Tensor:
        image = F.normalize(image.float(), dim=-1)
        if self.matching == "official":
            return contrastive_loss(image, clip.encode_text(texts), scale)
        unique = sorted(set(texts))
        label = torch.tensor([unique.index(text) for text in texts], device=image.device)
        return multi_positive_loss(image, clip.encode_text(unique), label, scale)

    def forward(
        self,
        clip: FrozenClip,
        content: Tensor,
        degradation: Tensor,
        scale: Tensor,
        captions: Sequence[str],
        words: Sequence[str],
        clean: Tensor | None,
    ) -> LossTerms:
        """All terms of a batch.

        Args:
            clip: Encodes the texts.
            content: Content embeddings `[N, D]` of the batch's first N samples.
            degradation: Degradation embeddings `[B, D]`.
            scale: Factor of the cosine similarities.
            captions: One text for each of the N samples; empty where unknown.
            words: One degradation text for each of the B samples.
            clean: Frozen CLIP embeddings of the clean photos `[N, D]`; needed for distillation only.
        """
        # Float32: a scale of up to 100 would blow bfloat16's rounding of cosines up to noise in the loss.
        with torch.autocast(content.device.type, enabled=False):
            by_word = self._match(degradation, words, clip, scale)
            total = self.degradation_weight * by_word
            by_caption = distilled = None
            captioned = [i for i, caption in enumerate(captions) if caption]
            if self.caption_weight and captioned:
                by_caption = self._match(content[captioned], [captions[i] for i in captioned], clip, scale)
                total = total + self.caption_weight * by_caption
            if self.distillation_weight and clean is not None:
                distilled = distillation_loss(content.float(), clean.float())
                total = total + self.distillation_weight * distilled
        return LossTerms(total, by_word, by_caption, distilled)
