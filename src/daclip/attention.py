"""Softmax attention, computed in the way that is fastest where it runs."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "trains_on_cpu"]

SMALL = 1024 * 1024
"""Entries of one head's matrix up to which it may be formed: CLIP's tokens, and the middle of the U-Net at 256²."""


def trains_on_cpu(device: torch.device) -> bool:
    """On a CPU the fused kernel's backward pass needs two to four times as long in bfloat16 as plain products."""
    return device.type == "cpu" and torch.is_grad_enabled()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v without the N×M matrix in memory, unless it is small and that is faster.

    Args:
        q: Queries, `[B, heads, N, D]`.
        k: Keys, `[B, heads, M, D]`.
        v: Values, same shape as the keys.

    Returns:
        `[B, heads, N, D]`.
    """
    if trains_on_cpu(q.device) and q.shape[-2] * k.shape[-2] <= SMALL:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)
