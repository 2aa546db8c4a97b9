"""Gathering of rows and texts over ranks: contrastive losses need every device's negatives."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from daclip.ranks import is_distributed


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks, in the order of ranks; the gradient of a rank's rows is summed over all ranks.

    Every rank computes the loss of the whole batch, so DistributedDataParallel's mean over ranks turns the sum into the
    gradient of a single process.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.size
        return total[first : first + ctx.size]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks with gradients, `[B, D]` to `[ranks * B, D]`; all ranks have the same number."""
    if not is_distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def encode_texts(
    texts: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor], like: Tensor
) -> tuple[list[str], Tensor]:
    """The K unique texts of all ranks in alphabetical order with their embeddings `[K, D]`; each rank encodes its own.

    `texts` are those of each rank, as `gather_objects` gives them; `like` `[…, D]` lies on the embeddings' device.
    """
    lists = [sorted(set(part)) for part in texts]
    if len(lists) == 1:
        unique = lists[0]
        return unique, encode(unique) if unique else like.new_zeros(0, like.shape[-1], dtype=torch.float32)
    own = lists[distributed.get_rank()]
    longest = max(len(part) for part in lists)
    rows = like.new_zeros(longest, like.shape[-1], dtype=torch.float32)
    if own:
        rows[: len(own)] = encode(own)
    place: dict[str, int] = {}
    for rank, part in enumerate(lists):
        for row, text in enumerate(part):
            place.setdefault(text, rank * longest + row)
    unique = sorted(place)
    with torch.no_grad():
        everything = gather_rows(rows) if longest else rows
    return unique, everything[[place[text] for text in unique]]
