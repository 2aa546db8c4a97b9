"""How a transformer block is computed: what open_clip's own forward pass gives, arranged for speed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from daclip.attention import attend, trains_on_cpu

__all__ = ["RunBlock", "run_block"]

RunBlock = Callable[[nn.Module, Tensor], Tensor]
"""Something that computes a block, as `run_block` does."""


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """Tokens `[B, N, width]` after a residual block; the plain and the steered tower both go this way.

    PyTorch's multi-head attention turns tokens to `[N, B, width]`. On that view its input projection becomes a
    batched product with N copies of the weight: 60 % of a bfloat16 step on a CPU. Here the projection sees
    contiguous tokens.
    """
    if type(block) is not ResidualAttentionBlock:
        with _plain_products(tokens.device):
            done: Tensor = block(tokens)
            return done
    tokens = tokens + block.ls_1(_self_attention(block.attn, block.ln_1(tokens)))
    mixed: Tensor = block.mlp(block.ln_2(tokens))
    return tokens + block.ls_2(mixed)


def _self_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    joint = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = joint.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attend(q, k, v)
    projected: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


@contextlib.contextmanager
def _plain_products(device: torch.device) -> Iterator[None]:
    """The same choice for blocks of other libraries."""
    with sdpa_kernel(SDPBackend.MATH) if trains_on_cpu(device) else contextlib.nullcontext():
        yield
