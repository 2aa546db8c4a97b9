"""All terms of stage 1 with their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.backbone import FrozenClip
from daclip.clip.gather import encode_texts, gather_objects, gather_rows, is_distributed
from daclip.clip.losses.base import Matching, Targets
from daclip.clip.losses.distillation import Distillation
from daclip.degradations import split_words
from daclip.errors import DaclipError

__all__ = ["DaClipLoss", "LossTerms"]


@dataclass
class LossTerms:
    """The total and its parts, scalars; absent parts are None."""

    total: Tensor
    degradation: Tensor
    caption: Tensor | None
    distillation: Tensor | None


class DaClipLoss(nn.Module):
    """Degradation loss plus content losses with weights.

    In a distributed run the samples of all ranks form one batch: every rank returns the loss of the whole, and
    after DistributedDataParallel's mean the gradients are those of a single process with that batch.

    Args:
        matching: The loss between embeddings and texts, of degradations and of captions alike.
        distillation: The distance to the clean photos' embeddings.
        degradation_weight: Weight of the degradation loss.
        caption_weight: Weight of the loss between content embedding and caption; 0 leaves it out. Samples
            without a caption are passed over.
        distillation_weight: Weight of the distance to the clean photo's frozen CLIP embedding; 0 leaves it
            out. It needs no caption.

    Raises:
        DaclipError: `matching` or `distillation` is a name.
    """

    def __init__(
        self,
        matching: Matching,
        distillation: Distillation,
        degradation_weight: float,
        caption_weight: float,
        distillation_weight: float,
    ):
        super().__init__()
        if not isinstance(matching, Matching):
            raise DaclipError(f"stage.loss.matching={matching}: choose a loss as in loss=official, see conf/loss")
        if not isinstance(distillation, Distillation):
            raise DaclipError(f"stage.loss.distillation={distillation}: choose one as in distillation=cosine")
        self.matching = matching
        self.distillation = distillation
        self.degradation_weight = degradation_weight
        self.caption_weight = caption_weight
        self.distillation_weight = distillation_weight

    @property
    def uses_content(self) -> bool:
        """Whether any term looks at content embeddings."""
        return bool(self.caption_weight or self.distillation_weight)

    def _match(self, image: Tensor, texts: Sequence[list[str]], clip: FrozenClip, scale: Tensor) -> Tensor | None:
        """The matching loss of all ranks' samples that have a text; None where no sample has one."""
        ranks = gather_objects(list(texts))
        unique, rows = encode_texts(
            [[text for sample in rank for text in sample] for rank in ranks], clip.encode_text, image
        )
        samples = [sample for rank in ranks for sample in rank]
        named = [index for index, sample in enumerate(samples) if sample]
        if not named:
            return None
        image = gather_rows(F.normalize(image.float(), dim=-1))[named]
        place = {text: row for row, text in enumerate(unique)}
        targets = Targets(rows, [[place[text] for text in samples[index]] for index in named])
        loss: Tensor = self.matching(image, targets, scale)
        return loss

    def forward(
        self,
        clip: FrozenClip,
        content: Tensor | None,
        degradation: Tensor,
        scale: Tensor,
        captions: Sequence[str],
        words: Sequence[str],
        clean: Tensor | None,
    ) -> LossTerms:
        """All terms of a batch.

        Args:
            clip: Encodes the texts.
            content: Content embeddings `[N, D]` of the batch's first N samples; None where none are made.
            degradation: Degradation embeddings `[B, D]`.
            scale: Factor of the cosine similarities.
            captions: One text for each of the N samples; empty where unknown.
            words: One degradation label for each of the B samples.
            clean: Frozen CLIP embeddings of the clean photos `[N, D]`; needed for distillation only.
        """
        # Float32: a scale of up to 100 would blow bfloat16's rounding of cosines up to noise in the loss.
        with torch.autocast(degradation.device.type, enabled=False):
            labels = [split_words(word) if self.matching.splits_labels else [word] for word in words]
            by_word = self._match(degradation, labels, clip, scale)
            assert by_word is not None
            total = self.degradation_weight * by_word
            by_caption = distilled = None
            if self.caption_weight and content is not None:
                texts = [[caption] if caption else [] for caption in captions]
                by_caption = self._match(content, texts, clip, scale)
                if by_caption is not None:
                    total = total + self.caption_weight * by_caption
            if self.distillation_weight and content is not None and clean is not None:
                distilled = self.distillation(gather_rows(content.float()), gather_rows(clean.float()), scale)
                total = total + self.distillation_weight * distilled
            if content is not None and by_caption is None and distilled is None and is_distributed():
                # DistributedDataParallel waits for the gradient of every weight, also in a batch without captions.
                total = total + 0 * content.sum()
        return LossTerms(total, by_word, by_caption, distilled)
