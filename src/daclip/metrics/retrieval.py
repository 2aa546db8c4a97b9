"""How well images find their captions."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["caption_ranks", "recall_at"]


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
