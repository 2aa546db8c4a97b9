"""How well degradations are named."""

from collections.abc import Sequence

import torch
from torch import Tensor

from daclip.degradations import split_words

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts of true word against predicted word.

    >>> confusion = ConfusionMatrix(["rainy", "snowy"])
    >>> confusion.update(torch.tensor([0, 0, 1]), ["rainy", "snowy", "snowy"])
    >>> confusion.accuracy(), confusion.per_word()
    (0.6666666666666666, {'rainy': 1.0, 'snowy': 0.5})

    A photo with several degradations is named correctly by any of its words; a wrong name counts for the first:

    >>> confusion.reset()
    >>> confusion.update(torch.tensor([1]), ["rainy, snowy"])
    >>> confusion.per_word()
    {'snowy': 1.0}

    Args:
        words: The K words; a prediction is an index into them.
    """

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = torch.zeros(len(self.words), len(self.words), dtype=torch.long)

    def update(self, predicted: Tensor, truth: Sequence[str]) -> None:
        """Count a batch: predicted indices `[B]` and labels of one or more true words."""
        for index, label in zip(predicted.tolist(), truth, strict=True):
            true = split_words(label)
            word = self.words[index] if self.words[index] in true else true[0]
            self.counts[self.words.index(word), index] += 1

    def accuracy(self) -> float:
        """Share of samples named correctly."""
        return int(self.counts.diagonal().sum()) / max(int(self.counts.sum()), 1)

    def per_word(self) -> dict[str, float]:
        """Recall of each word that occurred."""
        totals = self.counts.sum(1)
        return {word: int(self.counts[i, i]) / int(totals[i]) for i, word in enumerate(self.words) if totals[i] > 0}

    def table(self) -> dict[str, dict[str, int]]:
        """Non-zero counts, true word first."""
        return {
            truth: {word: int(count) for word, count in zip(self.words, row.tolist(), strict=True) if count > 0}
            for truth, row in zip(self.words, self.counts, strict=True)
        }
