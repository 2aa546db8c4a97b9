"""Stage 1: the LightningModule that trains the controller, and the scores of a trained one: recognition, calibration,
content embeddings, caption retrieval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daclip.arithmetic import autocast
from daclip.clip.controller import MAX_LOGIT_SCALE, DaClip
from daclip.clip.losses import DaClipLoss
from daclip.data.datamodule import MixedDegradationData
from daclip.degradations import split_classes
from daclip.errors import DaclipError
from daclip.metrics.classification import (
    CalibrationError,
    ConfusionMatrix,
    MeansByLabel,
    caption_ranks,
    means_by_label,
    recall_at,
)
from daclip.training.optimizers import OptimizerFactory, SchedulerFactory, StageModule, decay_groups
from daclip.types import Conditioning, RestorationBatch


class ControllerPretraining(StageModule):
    """Teach the controller to name degradations and to steer CLIP towards the clean photo.

    Logs `degradation_accuracy`, also by `/CLASS`, `content_cosine` (steered embedding to the clean photo's) and
    `content_cosine_plain` (plain CLIP) on validation photos. `content_share` is the share of each batch that the
    content losses see. Photos are encoded `chunk_size` at once (None: all) with activations computed again for the
    gradients (GradCache, Gao et al. 2021); the loss sees the whole batch. `checkpoint_blocks` recomputes activations
    inside transformer blocks, `compile_blocks` compiles them. For other options see `StageModule`.
    """

    def __init__(
        self,
        daclip: DaClip,
        loss: DaClipLoss,
        classes: Sequence[str],
        optimizer: OptimizerFactory,
        warmup_steps: int,
        final_lr: float,
        content_share: float,
        chunk_size: int | None,
        checkpoint_blocks: bool,
        compile_blocks: bool,
        scheduler: SchedulerFactory | None = None,
    ):
        super().__init__(optimizer, warmup_steps, final_lr, scheduler)
        if not 0 < content_share <= 1:
            raise DaclipError(f"stage.content_share must lie in (0, 1], got {content_share}")
        if chunk_size is not None and chunk_size < 1:
            raise DaclipError(f"stage.chunk_size must be a number of photos of at least 1, or null, got {chunk_size}")
        self.content_share = content_share
        self.chunk_size = chunk_size
        self.checkpoint_blocks = checkpoint_blocks
        self.daclip = daclip
        if not loss.uses_content:
            # Nothing would move the links, and DistributedDataParallel waits for what never has a gradient.
            daclip.controller.links.requires_grad_(False)
        if compile_blocks:
            daclip.compile_blocks()
        self.loss = loss
        self.classes = list(classes)
        self.confusion = ConfusionMatrix(self.classes)
        self.cosines = MeansByLabel("content_cosine", "content_cosine_plain")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """With weight decay, without (biases, gains), and the logit scale, also without."""
        scale = self.daclip.logit_scale
        groups = [
            {**group, "params": [parameter for parameter in group["params"] if parameter is not scale]}
            for group in decay_groups(self)
        ]
        groups = [group for group in groups if group["params"]]
        return [*groups, {"params": [scale], "weight_decay": 0.0, "name": "logit_scale"}]

    def encode(self, lq: Tensor, steered: int) -> Conditioning:
        """Embeddings of degraded photos `[B, 3, H, W]`, content of the first `steered` only."""
        if self.chunk_size is None or self.chunk_size >= len(lq):
            whole: Conditioning = self.daclip(lq, steered, self.checkpoint_blocks)
            return whole

        def part(piece: Tensor, count: int) -> tuple[Tensor | None, Tensor]:
            out = self.daclip(piece, count, self.checkpoint_blocks)
            return out.content, out.degradation

        contents: list[Tensor] = []
        degradations: list[Tensor] = []
        for start in range(0, len(lq), self.chunk_size):
            piece = lq[start : start + self.chunk_size]
            count = min(max(steered - start, 0), len(piece))
            content, degradation = checkpoint(part, piece, count, use_reentrant=False)
            degradations.append(degradation)
            if content is not None:
                contents.append(content)
        return Conditioning(torch.cat(contents) if contents else None, torch.cat(degradations))

    @torch.no_grad()
    def encode_clean(self, hq: Tensor) -> Tensor:
        """Frozen CLIP's embeddings of clean photos, `[B, 3, H, W]` to `[B, D]`."""
        return torch.cat([self.daclip.clip.encode_image(piece) for piece in hq.split(self.chunk_size or len(hq))])

    def on_fit_start(self) -> None:
        """Refuse photos without captions where the loss compares with them."""
        data = getattr(self.trainer, "datamodule", None)
        if self.loss.caption_weight and isinstance(data, MixedDegradationData):
            data.require_captions()

    def training_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """One step on a batch of pairs."""
        # The classes take turns in a batch, so its first part is as mixed as the whole.
        steered = math.ceil(self.content_share * len(batch)) if self.loss.uses_content else 0
        clean = self.encode_clean(batch.hq[:steered]) if self.loss.distillation_weight else None
        out = self.encode(batch.lq, steered)
        assert out.degradation is not None
        terms = self.loss(
            self.daclip.clip,
            out.content,
            out.degradation,
            self.daclip.scale(),
            batch.caption[:steered],
            batch.degradation,
            clean,
        )
        for name, value in {**terms, "logit_scale": self.daclip.scale()}.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "degradation_loss"), batch_size=len(batch))
        return terms["loss"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then bring the scale back to [1, 100], before anything saves or averages it."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.daclip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def validation_step(self, batch: RestorationBatch, batch_index: int) -> None:
        """Classify validation photos and compare content embeddings."""
        out = self.daclip(batch.lq)
        assert out.content is not None
        assert out.degradation is not None
        kept = self.counted(self.validation_numbers(batch_index, len(batch)))
        labels = batch.degradation[:kept]
        predicted = self.daclip.classify(out.degradation, self.classes).argmax(-1)
        self.confusion.update(predicted[:kept], labels)
        clean = self.daclip.clip.encode_image(batch.hq)
        plain = self.daclip.clip.encode_image(batch.lq)
        steered_cosine, plain_cosine = (
            F.cosine_similarity(embedding.float(), clean.float(), dim=-1)[:kept] for embedding in (out.content, plain)
        )
        self.cosines.update(labels, content_cosine=steered_cosine, content_cosine_plain=plain_cosine)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation pass, which are those of all ranks."""
        results = self.results()
        self.log("val/degradation_accuracy", results["degradation_accuracy"], prog_bar=True, sync_dist=True)
        for name, share in results["per_degradation_accuracy"].items():
            self.log(f"val/degradation_accuracy/{name}", share, sync_dist=True)
        for name in self.cosines.columns:
            self.log(f"val/{name}", results[name], sync_dist=True)

    def results(self) -> dict[str, Any]:
        """Scores of the last validation pass for the artifact's `metrics.json`."""
        return {
            "degradation_accuracy": self.confusion.accuracy(),
            "per_degradation_accuracy": self.confusion.per_class(),
            "confusion": self.confusion.table(),
            **self.cosines.compute()["overall"],
        }


PLACES = (1, 5, 10)  # of the own caption, for retrieval


def score_daclip(
    daclip: DaClip,
    batches: Iterable[RestorationBatch],
    classes: Sequence[str],
    templates: Sequence[str],
    bins: int,
    precision: str,
) -> dict[str, Any]:
    """Scores of a model in evaluation mode on batches of pairs, as `metrics.json` holds them, with the templates of
    `DaClip.word_embeddings`; the precision is `auto`, `bf16` or `fp32`."""
    device = daclip.logit_scale.device
    confusion, calibration = ConfusionMatrix(classes), CalibrationError(bins)
    right: list[bool] = []
    labels: list[str] = []
    captions: list[str] = []
    parts: dict[str, list[Tensor]] = {"clean": [], "degraded": [], "steered": []}  # ways of embedding a photo
    for batch in batches:
        lq, hq = batch.lq.to(device), batch.hq.to(device)
        with torch.inference_mode(), autocast(device, precision):
            out = daclip(lq)
            confidence, predicted = daclip.classify(out.degradation, classes, templates).max(-1)
            ways = daclip.clip.encode_image(hq), daclip.clip.encode_image(lq), out.content
            for found, embedding in zip(parts.values(), ways, strict=True):
                found.append(F.normalize(embedding.float(), dim=-1).cpu())
        named = [classes[index] for index in predicted.tolist()]
        hits = [name in split_classes(label) for name, label in zip(named, batch.degradation, strict=True)]
        confusion.update(predicted.cpu(), batch.degradation)
        calibration.update(confidence.float().cpu(), torch.tensor(hits))
        right += hits
        labels += batch.degradation
        captions += batch.caption
    embeddings = {way: torch.cat(found) for way, found in parts.items()}
    ours = {"content_cosine": embeddings["steered"], "content_cosine_plain": embeddings["degraded"]}
    cosines = {name: (found * embeddings["clean"]).sum(-1).tolist() for name, found in ours.items()}
    return {
        "degradation_accuracy": sum(right) / len(right),
        "per_degradation_accuracy": means_by_label(labels, right),
        "confusion": confusion.table(),
        "calibration_error": round(calibration.compute().item(), 12),
        "calibration": calibration.bins(),
        **{name: sum(values) / len(values) for name, values in cosines.items()},
        **{f"per_degradation_{name}": means_by_label(labels, values) for name, values in cosines.items()},
        "retrieval": _retrieval(daclip, captions, embeddings),
        "templates": list(templates),
        "count": len(right),
    }


@torch.inference_mode()
def _retrieval(daclip: DaClip, captions: Sequence[str], embeddings: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Recall of the own caption for each way of embedding a photo; None where there are no two captions."""
    known = sorted({caption for caption in captions if caption})
    if len(known) < 2:
        return None
    text = daclip.clip.encode_text(known).cpu()
    captioned = [index for index, caption in enumerate(captions) if caption]
    own = torch.tensor([known.index(captions[index]) for index in captioned])
    found: dict[str, Any] = {
        way: recall_at(caption_ranks(embedding[captioned], text, own), PLACES) for way, embedding in embeddings.items()
    }
    return {**found, "captions": len(known), "photos": len(captioned)}
