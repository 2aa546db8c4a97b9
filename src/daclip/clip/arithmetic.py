"""How a transformer block is computed: what open_clip's own forward pass gives, arranged for speed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

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
    if _trains_on_cpu(x.device):
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float().softmax(-1)
        mixed = weights.to(v.dtype) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    projected: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


def _trains_on_cpu(device: torch.device) -> bool:
    """On a CPU the fused kernel's backward pass needs four times as long in bfloat16 as plain matrix products.

    CLIP's few tokens, at most 577, leave the N×N matrix small.
    """
    return device.type == "cpu" and torch.is_grad_enabled()


@contextlib.contextmanager
def _plain_products(device: torch.device) -> Iterator[None]:
    """The same choice for blocks of other libraries."""
    with sdpa_kernel(SDPBackend.MATH) if _trains_on_cpu(device) else contextlib.nullcontext():
        yield
