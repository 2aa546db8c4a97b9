"""Recognition of degradations: confusion, calibration, caption retrieval, and means of scores by class."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from daclip.degradations import split_classes

LABEL_BYTES = 256  # room for the name of a label in a tensor


class ConfusionMatrix(MulticlassConfusionMatrix):
    """Counts of true class against predicted class, the index of one of the `classes`.

    A photo with several degradations is classified correctly by any of them; a wrong prediction counts for the first.

    >>> confusion = ConfusionMatrix(["rainy", "snowy"])
    >>> confusion.update(torch.tensor([0, 0, 1, 1]), ["rainy", "snowy", "snowy", "rainy, snowy"])
    >>> confusion.accuracy(), confusion.per_class()["rainy"]
    (0.75, 1.0)
    """

    confmat: Tensor

    def __init__(self, classes: Sequence[str]):
        super().__init__(num_classes=len(classes), validate_args=False)
        self.classes = list(classes)

    def update(self, predicted: Tensor, labels: Sequence[str]) -> None:  # type: ignore[override]
        """Count a batch: predicted indices `[B]` and labels of one or more true classes."""
        truth = []
        for index, label in zip(predicted.tolist(), labels, strict=True):
            true = split_classes(label)
            truth.append(index if self.classes[index] in true else self.classes.index(true[0]))
        super().update(predicted, torch.tensor(truth, dtype=torch.long, device=predicted.device))

    def counts(self) -> Tensor:
        """Counts `[K, K]`, true class first, over all devices."""
        # torchmetrics makes a scalar of the matrix of a single class.
        return self.compute().reshape(len(self.classes), -1)

    def accuracy(self) -> float:
        """Share of samples classified correctly."""
        counts = self.counts()
        return int(counts.diagonal().sum()) / max(int(counts.sum()), 1)

    def per_class(self) -> dict[str, float]:
        """Recall of each class that occurred."""
        counts = self.counts()
        totals = counts.sum(1).tolist()
        return {name: int(counts[i, i]) / totals[i] for i, name in enumerate(self.classes) if totals[i]}

    def table(self) -> dict[str, dict[str, int]]:
        """Non-zero counts, true class first."""
        rows = (zip(self.classes, row, strict=True) for row in self.counts().tolist())
        return {truth: {name: n for name, n in row if n} for truth, row in zip(self.classes, rows, strict=True)}


def finite_mean(values: Sequence[float]) -> float:
    """Mean without infinite values, such as the PSNR of two equal pictures; infinite where all are, NaN of none.

    >>> finite_mean([20.0, math.inf, 30.0]), finite_mean([math.inf])
    (25.0, inf)
    """
    kept = [value for value in values if not math.isinf(value)] or list(values)
    return sum(kept) / len(kept) if kept else math.nan


def means_by_label(labels: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The `finite_mean` of the values of each label, in the order in which labels occur."""
    found: dict[str, list[float]] = {}
    for label, value in zip(labels, values, strict=True):
        found.setdefault(label, []).append(value)
    return {label: finite_mean(values) for label, values in found.items()}


class MeansByLabel(Metric):
    """Means of the photos' scores within each label (a class, or several classes), and the means of those.

    >>> means = MeansByLabel("psnr")
    >>> means.update(["rainy", "rainy", "hazy"], psnr=torch.tensor([20.0, 22.0, 30.0]))
    >>> means.compute()["mean"]
    {'psnr': 25.5}
    """

    full_state_update = False
    names: list[Tensor]
    rows: list[Tensor]

    def __init__(self, *columns: str):
        super().__init__()
        self.columns = columns
        self.add_state("names", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, labels: Sequence[str], **scores: Tensor) -> None:
        """Take in a batch of B photos: their labels, and a tensor `[B]` for each column."""
        rows = torch.stack([scores[name].float() for name in self.columns], dim=1)
        # As bytes, since only tensors are gathered over devices.
        names = [list(label.encode()[:LABEL_BYTES].ljust(LABEL_BYTES, b"\0")) for label in labels]
        self.names.append(torch.tensor(names, dtype=torch.uint8, device=rows.device).reshape(len(names), LABEL_BYTES))
        self.rows.append(rows)

    def compute(self) -> dict[str, Any]:
        """Means: `per_degradation` by label with `count`, `mean` over the labels, `overall` over the photos;
        NaN of none."""
        labels = [bytes(name).rstrip(b"\0").decode(errors="ignore") for name in dim_zero_cat(self.names).tolist()]
        values = dim_zero_cat(self.rows)
        means = {name: means_by_label(labels, values[:, i].tolist()) for i, name in enumerate(self.columns)}
        return {
            "per_degradation": {
                label: {**{name: means[name][label] for name in self.columns}, "count": count}
                for label, count in Counter(labels).items()
            },
            "mean": {name: finite_mean(list(means[name].values())) for name in self.columns},
            "overall": {name: values[:, i].contiguous().mean().item() for i, name in enumerate(self.columns)},
        }


class CalibrationError(BinaryCalibrationError):
    """Expected calibration error (Guo et al. 2017, eq. 3) in [0, 1], 0 is best: confidence against accuracy, in bins.

    >>> calibration = CalibrationError(10)
    >>> calibration.update(torch.tensor([0.9, 0.9]), torch.tensor([True, False]))
    >>> round(calibration.compute().item(), 6)
    0.4
    """

    confidences: list[Tensor]
    accuracies: list[Tensor]

    def __init__(self, bins: int):
        super().__init__(n_bins=bins, validate_args=False)

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Take in a batch: probability of the predicted class, `[B]`, and whether it is right, bool `[B]`."""
        self.confidences.append(confidence.double())
        self.accuracies.append(right.double())

    def bins(self) -> list[dict[str, float]]:
        """Lower edge, mean confidence, accuracy and count of each bin that is not empty."""
        confidence, right = dim_zero_cat(self.confidences), dim_zero_cat(self.accuracies)
        # A confidence on an edge belongs to the lower bin, as in the paper: bins are (low, high].
        place = ((confidence * self.n_bins).ceil().long() - 1).clamp(0, self.n_bins - 1)
        return [
            {
                "low": index / self.n_bins,
                "confidence": float(confidence[place == index].mean()),
                "accuracy": float(right[place == index].mean()),
                "count": int((place == index).sum()),
            }
            for index in place.unique().tolist()
        ]

    def compute(self) -> Tensor:
        """The error."""
        bins = self.bins()
        gap = sum(abs(row["confidence"] - row["accuracy"]) * row["count"] for row in bins)
        return torch.tensor(gap / max(sum(row["count"] for row in bins), 1), dtype=torch.float64)


def caption_ranks(image: Tensor, text: Tensor, own: Tensor) -> Tensor:
    """Place of each image's own caption among all captions, best first, from 1, int64 `[B]`.

    `image` `[B, D]` and `text` `[N, D]` are unit vectors, `own` the row of `text` that belongs to each image. Captions
    exactly as near as the own one come before it, so that a constant embedding gains nothing.

    >>> caption_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    tensor([1, 2])
    """
    similarity = image @ text.T
    return (similarity >= similarity.gather(1, own[:, None])).sum(1)


def recall_at(ranks: Tensor, places: Sequence[int]) -> dict[str, float]:
    """Share of images whose own caption is among the first so many."""
    return {str(place): float((ranks <= place).double().mean()) for place in places}
