"""Scores of stage 1 alone: recognition, calibration, content embeddings, caption retrieval."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.degradations import split_classes
from daclip.metrics.classification import CalibrationError, ConfusionMatrix, caption_ranks, recall_at
from daclip.types import RestorationBatch

PLACES = (1, 5, 10)  # of the own caption, for retrieval
WAYS = ("clean", "degraded", "steered")  # of embedding a photo


class Stage1Scores:
    """Collects DA-CLIP's output on validation pairs and sums it up, with the templates of `DaClip.word_embeddings`."""

    def __init__(self, daclip: DaClip, classes: Sequence[str], templates: Sequence[str], bins: int):
        self.daclip = daclip
        self.classes = list(classes)
        self.templates = list(templates)
        self.confusion = ConfusionMatrix(self.classes)
        self.calibration = CalibrationError(bins)
        self._right: list[bool] = []
        self._labels: list[str] = []
        self._captions: list[str] = []
        self._embeddings: dict[str, list[Tensor]] = {way: [] for way in WAYS}

    @torch.inference_mode()
    def update(self, batch: RestorationBatch) -> None:
        """Add a batch on the model's device."""
        out = self.daclip(batch.lq)
        assert out.content is not None
        assert out.degradation is not None
        confidence, predicted = self.daclip.classify(out.degradation, self.classes, self.templates).max(-1)
        right = [
            self.classes[index] in split_classes(label)
            for index, label in zip(predicted.tolist(), batch.degradation, strict=True)
        ]
        self.confusion.update(predicted.cpu(), batch.degradation)
        self.calibration.update(confidence.float().cpu(), torch.tensor(right))
        self._right += right
        self._labels += batch.degradation
        self._captions += batch.caption
        clean, degraded = self.daclip.clip.encode_image(batch.hq), self.daclip.clip.encode_image(batch.lq)
        for way, embedding in zip(WAYS, (clean, degraded, out.content), strict=True):
            self._embeddings[way].append(F.normalize(embedding.float(), dim=-1).cpu())

    def results(self) -> dict[str, Any]:
        """All scores, as `metrics.json` holds them."""
        return {
            "degradation_accuracy": sum(self._right) / len(self._right),
            "per_degradation_accuracy": self._mean_by_label(self._right),
            "confusion": self.confusion.table(),
            "calibration_error": round(self.calibration.compute().item(), 12),
            "calibration": self.calibration.bins(),
            **self._content(),
            "retrieval": self._retrieval(),
            "templates": self.templates,
            "count": len(self._right),
        }

    def _mean_by_label(self, values: Sequence[float]) -> dict[str, float]:
        by_label: dict[str, list[float]] = {}
        for label, value in zip(self._labels, values, strict=True):
            by_label.setdefault(label, []).append(value)
        return {label: sum(found) / len(found) for label, found in by_label.items()}

    def _content(self) -> dict[str, Any]:
        clean, degraded, steered = (torch.cat(self._embeddings[way]) for way in WAYS)
        cosines = {
            "content_cosine": (steered * clean).sum(-1).tolist(),
            "content_cosine_plain": (degraded * clean).sum(-1).tolist(),
        }
        means = {name: sum(values) / len(values) for name, values in cosines.items()}
        return {**means, **{f"per_degradation_{name}": self._mean_by_label(cosines[name]) for name in cosines}}

    @torch.inference_mode()
    def _retrieval(self) -> dict[str, Any] | None:
        """Recall of the own caption for each way of embedding a photo; None where there are no two captions."""
        captions = sorted({caption for caption in self._captions if caption})
        if len(captions) < 2:
            return None
        text = self.daclip.clip.encode_text(captions).cpu()
        captioned = [index for index, caption in enumerate(self._captions) if caption]
        own = torch.tensor([captions.index(self._captions[index]) for index in captioned])
        found: dict[str, Any] = {
            way: recall_at(caption_ranks(torch.cat(self._embeddings[way])[captioned], text, own), PLACES)
            for way in WAYS
        }
        return {**found, "captions": len(captions), "photos": len(captioned)}


def score_daclip(
    daclip: DaClip,
    batches: Iterable[RestorationBatch],
    classes: Sequence[str],
    templates: Sequence[str],
    bins: int,
    precision: str,
) -> Stage1Scores:
    """Score a model in evaluation mode on batches of pairs; the precision is `auto`, `bf16` or `fp32`."""
    device = daclip.logit_scale.device
    scores = Stage1Scores(daclip, classes, templates, bins)
    for batch in batches:
        batch.lq, batch.hq = batch.lq.to(device), batch.hq.to(device)
        with autocast(device, precision):
            scores.update(batch)
    return scores
