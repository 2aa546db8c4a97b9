"""Parts of a ViT image tower, of open_clip or timm: tokens in, equal blocks with fast arithmetic, embedding out."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from daclip.arithmetic import attend, trains_on_cpu
from daclip.errors import DaclipError

RunBlock = Callable[[nn.Module, Tensor], Tensor]
"""A function that computes a block, such as `run_block`."""


def check_tower(tower: nn.Module, name: str) -> None:
    """Refuse a tower that is no plain ViT: one residual stream of equal blocks, all with the same tokens."""
    reason = _why_not(tower)
    if reason:
        raise DaclipError(
            f"the image tower of {name} {reason}, but the controller adds a hidden state after each block of one "
            "residual stream; choose a plain ViT such as ViT-B-32, ViT-L-14 or ViT-B-16-SigLIP"
        )


def _why_not(tower: nn.Module) -> str | None:
    if isinstance(tower, VisionTransformer):
        return None if tower.attn_pool is None else "pools its tokens by CoCa's attention pooler"
    if not isinstance(tower, TimmModel):
        return f"is a {type(tower).__name__}, no ViT"
    trunk = tower.trunk
    if not isinstance(trunk, TimmTransformer):
        return f"is timm's {type(trunk).__name__}, no plain ViT"
    if not isinstance(trunk.patch_embed, PatchEmbed):
        return f"is a hybrid: convolutions ({type(trunk.patch_embed).__name__}) come before its blocks"
    if len({type(block) for block in trunk.blocks}) > 1:
        return "has blocks of different kinds"
    return None


def embed_patches(tower: Any, pixels: Tensor) -> Tensor:
    """Normalised pixels `[B, 3, s, s]` to the tokens that enter the first block, `[B, N, width]`."""
    if isinstance(tower, TimmModel):
        trunk = tower.trunk
        tokens: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))
    else:
        tokens = tower._embeds(pixels)
    return tokens


def blocks(tower: Any) -> Iterable[nn.Module]:
    """The residual blocks in their order."""
    found: Iterable[nn.Module] = tower.trunk.blocks if isinstance(tower, TimmModel) else tower.transformer.resblocks
    return found


def pool_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """Tokens after the last block to the tower's embedding, `[B, D]`."""
    if isinstance(tower, TimmModel):
        embedded: Tensor = tower.head(tower.trunk.forward_head(tower.trunk.norm(tokens)))
        return embedded
    pooled, _ = tower._pool(tokens)
    return pooled if tower.proj is None else pooled @ tower.proj


def project_patches(tower: Any, tokens: Tensor) -> Tensor:
    """Patch tokens after the last block in the space of the embedding, `[B, N, width]` to `[B, patches, D]`."""
    if isinstance(tower, TimmModel):
        projected: Tensor = tower.head(tower.trunk.norm(tokens)[:, tower.trunk.num_prefix_tokens :])
        return projected
    patches: Tensor = tower.ln_post(tokens[:, 1:])
    return patches if tower.proj is None else patches @ tower.proj


def token_width(tower: Any) -> int:
    """Length of a token."""
    width: int = tower.trunk.embed_dim if isinstance(tower, TimmModel) else tower.conv1.out_channels
    return width


@torch.no_grad()
def embed_dim(tower: Any) -> int:
    """Length of the tower's embedding."""
    parameter = next(tower.parameters())
    return pool_tokens(tower, parameter.new_zeros(1, 2, token_width(tower))).shape[-1]


def image_size(tower: Any) -> int:
    """Side of the tower's square input in pixels."""
    side: int = tower.image_size[0]
    return side


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """Tokens `[B, N, width]` after a residual block, of the plain and the steered tower. Attention gets contiguous
    tokens: PyTorch's own `[N, B, width]` costs N copies of the projection's weight, 60 % of a bfloat16 step on a CPU.
    """
    if type(block) is not ResidualAttentionBlock:
        # The choice of `attend` for blocks of other libraries.
        with sdpa_kernel(SDPBackend.MATH) if trains_on_cpu(tokens.device) else contextlib.nullcontext():
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
