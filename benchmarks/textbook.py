"""The restoration network as the papers write it: what `make benchmark` compares ours with, and tests check it by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from daclip.backbones.layers import HEAD_WIDTH, ChannelNorm, LinearAttention, UpsamplingConv


@contextmanager
def textbook(network: nn.Module) -> Iterator[None]:
    """Compute the same function with the same weights, formula by formula in float32, attention matrices formed.

    Args:
        network: Its norms, attentions and upsampling take their own forward again when the context ends.
    """
    written: dict[type[nn.Module], Callable[..., Tensor]] = {
        ChannelNorm: _channel_norm,
        LinearAttention: _linear_attention,
        UpsamplingConv: nn.Sequential.forward,
    }
    changed = [module for module in network.modules() if type(module) in written]
    for module in changed:
        module.forward = MethodType(written[type(module)], module)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module in changed:
            del module.forward


def _channel_norm(norm: ChannelNorm, x: Tensor) -> Tensor:
    variance = x.var(dim=1, unbiased=False, keepdim=True)
    mean = x.mean(dim=1, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt() * norm.gain


def _linear_attention(attention: LinearAttention, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Efficient attention (Shen et al. 2021): q (kᵀ v / N), head by head."""
    height, width = x.shape[-2:]
    projected = attention.to_qkv(x).chunk(3, dim=1)
    q, k, v = (z.flatten(2).unflatten(1, (attention.heads, HEAD_WIDTH)) for z in projected)
    q, k, v = q.softmax(2) * HEAD_WIDTH**-0.5, k.softmax(3), v / (height * width)
    pairs = torch.einsum("bhdn,bhen->bhde", k, v)
    out = torch.einsum("bhde,bhdn->bhen", pairs, q).flatten(1, 2).unflatten(2, (height, width))
    return attention.norm(attention.to_out(out))
