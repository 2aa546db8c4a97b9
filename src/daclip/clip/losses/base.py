"""What a loss between images and texts is given."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Matching", "Targets"]


@dataclass(frozen=True)
class Targets:
    """The texts of a batch and which of them belong to which image.

    Attributes:
        text: Unit vectors of the K unique texts, `[K, D]`.
        rows: For each of the B images the rows of `text` that belong to it, at least one.
    """

    text: Tensor
    rows: Sequence[Sequence[int]]

    @property
    def label(self) -> Tensor:
        """The first row of each image, int64 `[B]`."""
        return torch.tensor([rows[0] for rows in self.rows], device=self.text.device)

    @property
    def member(self) -> Tensor:
        """1 where a text belongs to an image, `[B, K]` of the texts' type."""
        member = torch.zeros(len(self.rows), len(self.text))
        for image, rows in enumerate(self.rows):
            member[image, list(rows)] = 1
        return member.to(self.text)


class Matching(nn.Module, ABC):
    """A loss that pulls images to their texts and pushes them from the others.

    Attributes:
        splits_labels: Whether a label of several degradation words counts as several texts; otherwise it is
            one text of its own.
    """

    splits_labels = False

    @abstractmethod
    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            image: Unit vectors `[B, D]`.
            targets: The texts and what belongs to what.
            scale: Factor of the cosine similarities.

        Returns:
            Scalar.
        """
