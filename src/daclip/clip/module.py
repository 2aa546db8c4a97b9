"""Stage 1: training of the controller."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.controller import MAX_LOGIT_SCALE, DaClip
from daclip.clip.losses import DaClipLoss
from daclip.errors import DaclipError
from daclip.metrics.degradation import ConfusionMatrix
from daclip.optimization import OptimizerFactory, StageModule
from daclip.types import RestorationBatch

__all__ = ["ControllerPretraining"]


class ControllerPretraining(StageModule):
    """Teach the controller to name degradations and to steer CLIP towards the clean photo.

    Logged on held-out photos: `degradation_accuracy`, `degradation_accuracy/WORD`, `content_cosine`
    (steered embedding to the clean photo's) and `content_cosine_plain` (plain CLIP on the degraded photo).

    Args:
        daclip: Frozen CLIP with controller.
        loss: Terms and weights.
        words: The K degradation words of the data.
        optimizer: Makes the optimiser from parameter groups.
        warmup_steps: Linear warm-up of the learning rate.
        final_lr: Factor of the learning rate at the end of its cosine.
        content_share: Share of each batch that the content losses see. The frozen tower is half of the
            arithmetic of a step; degradations are learned from the whole batch in any case.

    Raises:
        DaclipError: `content_share` is not in (0, 1].
    """

    def __init__(
        self,
        daclip: DaClip,
        loss: DaClipLoss,
        words: Sequence[str],
        optimizer: OptimizerFactory,
        warmup_steps: int,
        final_lr: float,
        content_share: float,
    ):
        super().__init__(optimizer, warmup_steps, final_lr)
        if not 0 < content_share <= 1:
            raise DaclipError(f"stage.content_share must lie in (0, 1], got {content_share}")
        self.content_share = content_share
        self.daclip = daclip
        self.loss = loss
        self.words = list(words)
        self.confusion = ConfusionMatrix(self.words)
        self._cosines: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """One step on a batch of pairs."""
        # The words take turns in a batch, so its first part is as mixed as the whole.
        steered = math.ceil(self.content_share * len(batch))
        clean = None
        if self.loss.distillation_weight:
            with torch.no_grad():
                clean = self.daclip.clip.encode_image(batch.hq[:steered])
        out = self.daclip(batch.lq, steered)
        terms = self.loss(
            self.daclip.clip,
            out.content,
            out.degradation,
            self.daclip.scale(),
            batch.caption[:steered],
            batch.degradation,
            clean,
        )
        size = len(batch)
        self.log("train/loss", terms.total, prog_bar=True, batch_size=size)
        self.log("train/degradation_loss", terms.degradation, prog_bar=True, batch_size=size)
        if terms.caption is not None:
            self.log("train/caption_loss", terms.caption, batch_size=size)
        if terms.distillation is not None:
            self.log("train/distillation_loss", terms.distillation, batch_size=size)
        self.log("train/logit_scale", self.daclip.scale(), batch_size=size)
        return terms.total

    def networks(self) -> list[nn.Module]:
        """The controller."""
        return [self.daclip.controller]

    def constrain(self) -> None:
        """Keep the logit scale where its exponential lies in [1, 100]."""
        with torch.no_grad():
            self.daclip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def on_validation_epoch_start(self) -> None:
        """Forget the previous held-out pass."""
        self.confusion.reset()
        self._cosines = []

    def validation_step(self, batch: RestorationBatch, batch_index: int) -> None:
        """Classify held-out photos and compare content embeddings."""
        out = self.daclip(batch.lq)
        assert out.content is not None
        assert out.degradation is not None
        predicted = self.daclip.classify(out.degradation, self.words).argmax(-1)
        self.confusion.update(predicted, batch.degradation)
        clean = self.daclip.clip.encode_image(batch.hq)
        plain = self.daclip.clip.encode_image(batch.lq)
        self._cosines.append(
            (
                F.cosine_similarity(out.content.float(), clean.float(), dim=-1),
                F.cosine_similarity(plain.float(), clean.float(), dim=-1),
            )
        )

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the held-out pass."""
        self.log("val/degradation_accuracy", self.confusion.accuracy(), prog_bar=True)
        for word, accuracy in self.confusion.per_word().items():
            self.log(f"val/degradation_accuracy/{word}", accuracy)
        steered, plain = (torch.cat(parts).mean() for parts in zip(*self._cosines, strict=True))
        self.log("val/content_cosine", steered)
        self.log("val/content_cosine_plain", plain)

    def results(self) -> dict[str, Any]:
        """Scores of the last held-out pass for the artifact's `metrics.json`."""
        steered, plain = (torch.cat(parts).mean().item() for parts in zip(*self._cosines, strict=True))
        return {
            "degradation_accuracy": self.confusion.accuracy(),
            "per_degradation_accuracy": self.confusion.per_word(),
            "confusion": self.confusion.table(),
            "content_cosine": steered,
            "content_cosine_plain": plain,
        }
