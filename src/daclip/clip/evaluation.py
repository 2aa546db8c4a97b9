"""Pictures of stage 1's scores: the confusion matrix and the reliability diagram."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.degradations import split_classes
from daclip.metrics.classification import Calibration, ConfusionMatrix, calibration, caption_ranks, recall_at
from daclip.types import RestorationBatch

CELL, MARGIN, TEXT = 44, 16, 13
SIDE = 320  # of the reliability diagram
BLUE, RED, GREY = (0, 114, 178), (213, 94, 0), (150, 150, 150)


def _shade(share: float) -> tuple[int, int, int]:
    """White for 0 to blue for 1."""
    red, green, blue = (round(255 + (channel - 255) * share) for channel in BLUE)
    return red, green, blue


def confusion_picture(counts: Tensor, classes: Sequence[str]) -> Image.Image:
    """True words down, named words across; each cell shows its share of the row in percent.

    Args:
        counts: int64 `[K, K]`, true word first.
        classes: The K words.
    """
    font = ImageFont.load_default(TEXT)
    longest = max(round(font.getlength(class_name)) for class_name in classes)
    left, top = MARGIN + longest + 8, MARGIN + TEXT + 8 + longest + 8
    side = CELL * len(classes)
    picture = Image.new("RGB", (left + side + 70, top + side + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((left + side / 2, MARGIN + TEXT / 2), "named (columns) for true (rows), % of row", "black", font, "mm")
    for index, class_name in enumerate(classes):
        middle = index * CELL + CELL / 2
        pen.text((left - 8, top + middle), class_name, "black", font, "rm")
        label = Image.new("RGB", (longest, TEXT + 4), "white")
        ImageDraw.Draw(label).text((0, (TEXT + 4) / 2), class_name, "black", font, "lm")
        upright = label.rotate(90, expand=True)
        picture.paste(upright, (round(left + middle - upright.width / 2), top - 8 - upright.height))
    for row, found in enumerate(counts.tolist()):
        total = sum(found)
        pen.text((left + side + 8, top + row * CELL + CELL / 2), f"n {total}", GREY, font, "lm")
        for column, count in enumerate(found):
            share = count / max(total, 1)
            box = (left + column * CELL, top + row * CELL, left + (column + 1) * CELL, top + (row + 1) * CELL)
            pen.rectangle(box, _shade(share), (210, 210, 210))
            if count:
                centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                pen.text(centre, f"{100 * share:.0f}", "white" if share > 0.5 else "black", font, "mm")
    return picture


def reliability_picture(calibrated: Calibration, bins: int) -> Image.Image:
    """Accuracy over stated confidence; on the dashed diagonal both are the same (Guo et al. 2017, figure 1).

    Args:
        calibrated: What to draw.
        bins: Number of bins over [0, 1].
    """
    font = ImageFont.load_default(TEXT)
    left, top = MARGIN + 52, MARGIN + TEXT + 12
    picture = Image.new("RGB", (left + SIDE + 2 * MARGIN, top + SIDE + MARGIN + 2 * TEXT + 20), "white")
    pen = ImageDraw.Draw(picture)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + SIDE * x, top + SIDE * (1 - y)

    total = sum(row["count"] for row in calibrated.bins)
    title = f"calibration error {calibrated.error:.3f}, n {total:.0f}"
    pen.text((left + SIDE / 2, MARGIN + TEXT / 2), title, "black", font, "mm")
    for row in calibrated.bins:
        low, high = row["low"], row["low"] + 1 / bins
        right, upper = place(high, row["accuracy"])
        # As dark as the bin is full: a bar of two samples says little.
        pen.rectangle(
            (place(low, 0)[0] + 1, upper, right - 1, place(0, 0)[1]), _shade(0.2 + 0.8 * row["count"] / total)
        )
        x, y = place(row["confidence"], row["accuracy"])
        pen.line((x, y, x, place(0, row["confidence"])[1]), RED, 2)
    for step in range(0, 40, 2):
        pen.line((*place(step / 40, step / 40), *place((step + 1) / 40, (step + 1) / 40)), GREY, 1)
    pen.rectangle((*place(0, 1), *place(1, 0)), outline=GREY)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(tick, tick)
        pen.text((x, top + SIDE + 6), f"{tick:g}", "black", font, "ma")
        pen.text((left - 6, y), f"{tick:g}", "black", font, "rm")
    pen.text((left + SIDE / 2, top + SIDE + 10 + TEXT), "stated confidence", "black", font, "ma")
    label = Image.new("RGB", (round(font.getlength("accuracy")), TEXT + 4), "white")
    ImageDraw.Draw(label).text((0, (TEXT + 4) / 2), "accuracy", "black", font, "lm")
    upright = label.rotate(90, expand=True)
    picture.paste(upright, (4, round(top + SIDE / 2 - upright.height / 2)))
    return picture


PLACES = (1, 5, 10)
WAYS = ("clean", "degraded", "steered")


class Stage1Scores:
    """Collects what DA-CLIP says of pairs and sums it up.

    Args:
        daclip: The model.
        classes: The K words that it chooses from.
        templates: Prompts of the words, see `DaClip.word_embeddings`.
        bins: Bins of the calibration error.
    """

    def __init__(self, daclip: DaClip, classes: Sequence[str], templates: Sequence[str], bins: int):
        self.daclip = daclip
        self.classes = list(classes)
        self.templates = list(templates)
        self.bins = bins
        self.confusion = ConfusionMatrix(self.classes)
        self._confidence: list[Tensor] = []
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
        confidence, named = self.daclip.classify(out.degradation, self.classes, self.templates).max(-1)
        self.confusion.update(named.cpu(), batch.degradation)
        self._confidence.append(confidence.float().cpu())
        self._right += [
            self.classes[index] in split_classes(label)
            for index, label in zip(named.tolist(), batch.degradation, strict=True)
        ]
        self._labels += batch.degradation
        self._captions += batch.caption
        clean, degraded = self.daclip.clip.encode_image(batch.hq), self.daclip.clip.encode_image(batch.lq)
        for way, embedding in zip(WAYS, (clean, degraded, out.content), strict=True):
            self._embeddings[way].append(F.normalize(embedding.float(), dim=-1).cpu())

    def calibration(self) -> Calibration:
        """Certainty of the named word against the share of right names."""
        return calibration(torch.cat(self._confidence), torch.tensor(self._right), self.bins)

    def results(self) -> dict[str, Any]:
        """All scores, as `metrics.json` holds them."""
        calibrated = self.calibration()
        return {
            "degradation_accuracy": sum(self._right) / len(self._right),
            "per_degradation_accuracy": self._mean_by_label(self._right),
            "confusion": self.confusion.table(),
            "calibration_error": calibrated.error,
            "calibration": calibrated.bins,
            **self._content(),
            "retrieval": self._retrieval(),
            "templates": self.templates,
            "count": len(self._right),
        }

    def _mean_by_label(self, values: Sequence[float]) -> dict[str, float]:
        by_label: dict[str, list[float]] = defaultdict(list)
        for label, value in zip(self._labels, values, strict=True):
            by_label[label].append(value)
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
    """Score a model on batches of pairs.

    Args:
        daclip: The model, in evaluation mode.
        batches: Pairs, on any device.
        classes: The words that it chooses from.
        templates: Prompts of the words.
        bins: Bins of the calibration error.
        precision: `auto`, `bf16` or `fp32`.
    """
    device = daclip.logit_scale.device
    scores = Stage1Scores(daclip, classes, templates, bins)
    for batch in batches:
        batch.lq, batch.hq = batch.lq.to(device), batch.hq.to(device)
        with autocast(device, precision):
            scores.update(batch)
    return scores
