"""How well degradations are named, and how well the stated confidence can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from daclip.degradations import split_classes


class ConfusionMatrix:
    """Counts of true word against predicted word.

    >>> confusion = ConfusionMatrix(["rainy", "snowy"])
    >>> confusion.update(torch.tensor([0, 0, 1]), ["rainy", "snowy", "snowy"])
    >>> confusion.accuracy(), confusion.per_class()
    (0.6666666666666666, {'rainy': 1.0, 'snowy': 0.5})

    A photo with several degradations is named correctly by any of its words; a wrong name counts for the first:

    >>> confusion.reset()
    >>> confusion.update(torch.tensor([1]), ["rainy, snowy"])
    >>> confusion.per_class()
    {'snowy': 1.0}

    Args:
        classes: The K words; a prediction is an index into them.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.long)

    def update(self, predicted: Tensor, truth: Sequence[str]) -> None:
        """Count a batch: predicted indices `[B]` and labels of one or more true words."""
        for index, label in zip(predicted.tolist(), truth, strict=True):
            true = split_classes(label)
            class_name = self.classes[index] if self.classes[index] in true else true[0]
            self.counts[self.classes.index(class_name), index] += 1

    def accuracy(self) -> float:
        """Share of samples named correctly."""
        return int(self.counts.diagonal().sum()) / max(int(self.counts.sum()), 1)

    def per_class(self) -> dict[str, float]:
        """Recall of each word that occurred."""
        totals = self.counts.sum(1)
        return {
            class_name: int(self.counts[i, i]) / int(totals[i])
            for i, class_name in enumerate(self.classes)
            if totals[i] > 0
        }

    def table(self) -> dict[str, dict[str, int]]:
        """Non-zero counts, true word first."""
        return {
            truth: {
                class_name: int(count)
                for class_name, count in zip(self.classes, row.tolist(), strict=True)
                if count > 0
            }
            for truth, row in zip(self.classes, self.counts, strict=True)
        }


@dataclass(frozen=True)
class Calibration:
    """Stated confidence against the share of right answers, in bins of equal width.

    Attributes:
        error: Expected calibration error in [0, 1], 0 is best.
        bins: For each bin that is not empty its lower edge, mean confidence, accuracy and count.
    """

    error: float
    bins: list[dict[str, float]]


def calibration(confidence: Tensor, right: Tensor, bins: int) -> Calibration:
    """Expected calibration error (Guo et al. 2017, eq. 3).

    >>> round(calibration(torch.tensor([0.9, 0.9]), torch.tensor([True, False]), 10).error, 6)
    0.4

    Args:
        confidence: Probability of the word that was named, `[N]` in [0, 1].
        right: Whether it is right, bool `[N]`.
        bins: Number of bins.
    """
    confidence, right = confidence.double(), right.double()
    # A confidence on an edge belongs to the lower bin, as in the paper: bins are (low, high].
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    found = []
    for index in place.unique().tolist():
        inside = place == index
        found.append(
            {
                "low": index / bins,
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "count": int(inside.sum()),
            }
        )
    gap = sum(abs(row["confidence"] - row["accuracy"]) * row["count"] for row in found)
    return Calibration(round(gap / max(len(confidence), 1), 12), found)


def caption_ranks(image: Tensor, text: Tensor, own: Tensor) -> Tensor:
    """Place of each image's own caption among all captions, best first, from 1, int64 `[B]`.

    Captions that are exactly as near as the own one come before it, so that a constant embedding gains nothing.

    >>> import torch
    >>> caption_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    tensor([1, 2])

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors of the captions, `[N, D]`.
        own: Row of `text` that belongs to each image, int64 `[B]`.
    """
    similarity = image @ text.T
    return (similarity >= similarity.gather(1, own[:, None])).sum(1)


def recall_at(ranks: Tensor, places: Sequence[int]) -> dict[str, float]:
    """Share of images whose own caption is among the first so many.

    >>> import torch
    >>> recall_at(torch.tensor([1, 2, 7, 30]), [1, 5, 10])
    {'1': 0.25, '5': 0.5, '10': 0.75}
    """
    return {str(place): float((ranks <= place).double().mean()) for place in places}
