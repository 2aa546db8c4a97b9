"""Restoration U-Net of DA-CLIP, in both official variants, and the names of its official weights."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from daclip.backbones.layers import (
    ConditionEmbedding,
    Context,
    LinearAttention,
    NormedResidual,
    ResidualBlock,
    SpatialTransformer,
    UpsamplingConv,
    check_context,
    context_tokens,
    pad_to_multiple,
)
from daclip.errors import DaclipError
from daclip.types import Conditioning


class ConditionalUNet(nn.Module):
    """U-Net `(x_t, lq, t, conditioning) → output` of DA-CLIP (Luo et al., ICLR 2024, section 3).

    The degradation embedding gates a learned prompt in the time embedding (with `degradation_context`); content enters
    by cross-attention to `context`: the content embedding (`token`, official), patch tokens as well (`patches`) or
    nothing (`none`). Both are `context_dim` wide; one that is None is skipped, but `self_attend_without_content` then
    attends to the features, as the reference does (only where `context_dim` equals the widths). Official weights give
    the official output (`from_official`). Fastest with weights in the channels_last memory format.

    Level 0 has `width` channels, a multiple of 32; below level i there are `width * multipliers[i]`.
    `transformer_levels` have transformers in place of linear attention; negative ones count from the last, None is from
    index 3 on (official `daclip-sde`), `[-1]` the official `wild-ir`; the middle always has one. `scale` 0.5 halves the
    resolution of all levels (`wild-ir`). `checkpoint` recomputes activations: less memory, a third more time.
    """

    def __init__(
        self,
        context_dim: int,
        in_channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        degradation_context: bool = True,
        context: Context = "token",
        transformer_levels: Sequence[int] | None = None,
        scale: float = 1.0,
        checkpoint: bool = False,
        self_attend_without_content: bool = False,
    ) -> None:
        super().__init__()
        if width < 32 or width % 32:
            raise DaclipError(f"the U-Net needs a width that is a multiple of 32, got {width}")
        if scale not in (0.5, 1.0):
            raise DaclipError(f"the U-Net needs scale 1.0 or 0.5, got {scale}")
        levels = len(multipliers)
        chosen = range(3, levels) if transformer_levels is None else transformer_levels
        if wrong := [i for i in chosen if not -levels <= i < levels]:
            raise DaclipError(f"transformer_levels {wrong} do not exist in a U-Net of {levels} levels")
        with_transformer = {i % levels for i in chosen}
        check_context(context)
        self.context = context
        self.checkpoint = checkpoint
        self.factor = 2**levels

        emb = 4 * width
        self.embedding = ConditionEmbedding(context_dim, width, degradation_context)

        def attention(channels: int, transformer: bool) -> NormedResidual:
            if not transformer:
                return NormedResidual(channels, LinearAttention(channels))
            body = SpatialTransformer(channels, context_dim, context, self_attend_without_content)
            return NormedResidual(channels, body)

        self.init_conv = nn.Conv2d(2 * in_channels, width, 7, padding=3, bias=False)
        self.downsample = nn.Conv2d(width, width, 4, 2, 1) if scale == 0.5 else nn.Identity()
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        widths = [width, *(width * m for m in multipliers)]
        for i in range(levels):
            narrow, wide, last = widths[i], widths[i + 1], i == levels - 1
            down = _conv3(narrow, wide) if last else nn.Conv2d(narrow, wide, 4, 2, 1)
            self.downs.append(_Level(narrow, narrow, emb, attention(narrow, i in with_transformer), down))
            up = _conv3(wide, narrow) if i == 0 else UpsamplingConv(wide, narrow)
            level = _Level(wide + narrow, wide, emb, attention(wide, i in with_transformer), up)
            self.ups.insert(0, level)
        self.mid_block1 = ResidualBlock(widths[-1], widths[-1], emb)
        self.mid_attention = attention(widths[-1], True)
        self.mid_block2 = ResidualBlock(widths[-1], widths[-1], emb)
        self.upsample = UpsamplingConv(width, width) if scale == 0.5 else nn.Identity()
        self.final_block = ResidualBlock(2 * width, width, emb)
        self.final_conv = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Output for a state and the LQ image in [0, 1], all `[B, C, H, W]`, any H and W; t is float32 `[B]`.
        Embeddings are `[B, D]`, patch tokens `[B, N, D]`; each may be None.
        """
        height, width = x_t.shape[-2:]
        content = context_tokens(conditioning, self.context)
        # Every use of the embedding begins with a SiLU; one is enough.
        emb = F.silu(self.embedding(t, conditioning.degradation))

        full = self.init_conv(pad_to_multiple(torch.cat([x_t - lq, lq], dim=1), self.factor))
        x = self.downsample(full)
        skips: list[Tensor] = []
        for level in cast(Iterable[_Level], self.downs):
            x = self._run(level.block1, x, emb)
            skips.append(x)
            x = self._run(level.block2, x, emb)
            x = self._run(level.attention, x, content)
            skips.append(x)
            x = level.resample(x)

        x = self._run(self.mid_block1, x, emb)
        x = self._run(self.mid_attention, x, content)
        x = self._run(self.mid_block2, x, emb)

        for level in cast(Iterable[_Level], self.ups):
            x = self._run(level.block1, torch.cat([x, skips.pop()], dim=1), emb)
            x = self._run(level.block2, torch.cat([x, skips.pop()], dim=1), emb)
            x = self._run(level.attention, x, content)
            x = level.resample(x)

        x = self._run(self.final_block, torch.cat([self.upsample(x), full], dim=1), emb)
        return self.final_conv(x)[..., :height, :width]

    def _run(self, module: nn.Module, x: Tensor, extra: Tensor | None) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(module, x, extra, use_reentrant=False)
        return module(x, extra)


class _Level(nn.Module):
    """Parts of one resolution, on the way down (both blocks of equal width) or up (both take a skip)."""

    def __init__(
        self, in_channels: int, channels: int, emb: int, attention: NormedResidual, resample: nn.Module
    ) -> None:
        super().__init__()
        self.block1 = ResidualBlock(in_channels, channels, emb)
        self.block2 = ResidualBlock(in_channels, channels, emb)
        self.attention = attention
        self.resample = resample


def _conv3(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


T = TypeVar("T")

# Applied in this order to every key; names that no rule mentions are the same on both sides.
_RULES = [
    (r"^module\.", ""),
    (r"^(downs|ups)\.(\d+)\.0\.", r"\1.\2.block1."),
    (r"^(downs|ups)\.(\d+)\.1\.", r"\1.\2.block2."),
    (r"^(downs|ups)\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^(downs|ups)\.(\d+)\.3\.", r"\1.\2.resample."),
    (r"^mid_attn\.", "mid_attention."),
    (r"^text_mlp\.", "degradation_mlp."),
    (r"^(time_mlp|degradation_mlp|prompt_mlp|prompt)(\.|$)", r"embedding.\1\2"),
    (r"^final_res_block\.", "final_block."),
    (r"\.mlp\.1\.", ".modulation."),
    (r"\.block([12])\.proj\.", r".conv\1."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.expand."),
    (r"\.ff\.net\.2\.", ".feed_forward.contract."),
    (r"\.transformer_blocks\.0\.", "."),
    (r"\.fn\.norm\.g$", ".norm.gain"),
    (r"\.fn\.fn\.", ".body."),
    (r"\.to_out\.1\.g$", ".norm.gain"),
    (r"\.to_out\.0\.", ".to_out."),
]


# The way back, likewise. The norm of linear attention is `body.norm`, and so is that of a transformer block, which
# has a weight and a bias and no gain.
_BACK = [
    (r"^(downs|ups)\.(\d+)\.block1\.", r"\1.\2.0."),
    (r"^(downs|ups)\.(\d+)\.block2\.", r"\1.\2.1."),
    (r"^(downs|ups)\.(\d+)\.attention\.", r"\1.\2.2."),
    (r"^(downs|ups)\.(\d+)\.resample\.", r"\1.\2.3."),
    (r"^mid_attention\.", "mid_attn."),
    (r"^embedding\.degradation_mlp\.", "text_mlp."),
    (r"^embedding\.", ""),
    (r"^final_block\.", "final_res_block."),
    (r"\.modulation\.", ".mlp.1."),
    (r"\.conv([12])\.", r".block\1.proj."),
    (r"\.shortcut\.", ".res_conv."),
    (r"\.body\.norm\.gain$", ".fn.fn.to_out.1.g"),
    (r"\.norm\.gain$", ".fn.norm.g"),
    (r"\.to_out\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.body\.(norm1|norm2|norm3|self_attention|cross_attention|feed_forward)\.", r".body.transformer_blocks.0.\1."),
    (r"\.self_attention\.", ".attn1."),
    (r"\.cross_attention\.", ".attn2."),
    (r"\.feed_forward\.expand\.", ".ff.net.0.proj."),
    (r"\.feed_forward\.contract\.", ".ff.net.2."),
    (r"\.body\.", ".fn.fn."),
]


def from_official(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the keys of an official restoration checkpoint (`daclip-sde`, `wild-ir`) to those of `ConditionalUNet`."""
    return {_rename(key, _RULES): value for key, value in state_dict.items()}


def to_official(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The exact inverse of `from_official`, without `module.`."""
    return {_rename(key, _BACK): value for key, value in state_dict.items()}


def network_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Tensors of a restoration checkpoint, the `content` of `path`, by the network's names: of a bare state dict, with
    or without the `module.` of distributed training, or the average of an `ema_pytorch` object. Else a `DaclipError`.
    """
    if not isinstance(content, Mapping) or not content:
        raise DaclipError(f"{path}: holds no state dict")
    found = {str(name): value for name, value in content.items()}
    average = {name: value for name, value in found.items() if name.startswith("ema_model.")}
    found = {name.removeprefix("ema_model."): value for name, value in (average or found).items()}
    wrong = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if wrong:
        raise DaclipError(
            f"{path}: holds no state dict, {wrong[0]} is no tensor; give the network's own file (N_G.pth)"
        )
    return {name.removeprefix("module."): value for name, value in found.items()}


def _rename(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
