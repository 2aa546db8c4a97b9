"""Both ways to attend."""

import torch
from torch import Tensor

from daclip.arithmetic import SMALL, attend


def _tokens(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 4, generator=g).requires_grad_() for n in (queries, keys, keys))
    return q, k, v


def _largest_kept(queries: int, keys: int) -> int:
    """Entries of the largest tensor that waits for the backward pass."""
    sizes: list[int] = []

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(*_tokens(queries, keys))
    return max(sizes)


def test_training_and_prediction_agree() -> None:
    q, k, v = _tokens(70, 50)
    trained = attend(q, k, v)
    with torch.no_grad():
        predicted = attend(q, k, v)
    torch.testing.assert_close(trained, predicted)
    found = torch.autograd.grad(trained.square().sum(), (q, k, v))
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    exact = torch.autograd.grad(fused.square().sum(), (q, k, v))
    torch.testing.assert_close(found, exact)


def test_only_small_matrices_are_formed() -> None:
    assert _largest_kept(1024, SMALL // 1024) == 2 * SMALL
    assert _largest_kept(1024, SMALL // 1024 + 1) < SMALL
