"""Layers of the restoration networks. Images `[B, C, H, W]` are best kept in the channels_last memory format: then the
tokens `[B, H·W, C]` of a feature map and the axis of a channel norm are views of it and cost no copy.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daclip.arithmetic import attend, layer_norm_on_cpu
from daclip.errors import DaclipError
from daclip.types import Conditioning

HEAD_WIDTH = 32

Context = Literal["token", "patches", "none"]
"""A network's input about a photo's content: its embedding, its patch tokens as well, or nothing."""


def check_context(context: str) -> None:
    """Refuse a kind of context that does not exist."""
    if context not in ("token", "patches", "none"):
        raise DaclipError(f"backbone.context={context} is not known; choose token, patches or none")


def context_tokens(conditioning: Conditioning, context: str) -> Tensor | None:
    """Keys and values of cross-attention, `[B, K, D]`: the content embedding, then the patch tokens; or None."""
    if context == "none" or conditioning.content is None:
        return None
    token = conditioning.content[:, None]
    if context == "token":
        return token
    if conditioning.patches is None:
        raise DaclipError("backbone.context=patches needs the patch tokens of the guide; use context=token here")
    return torch.cat([token, conditioning.patches], dim=1)


def to_tokens(x: Tensor) -> Tensor:
    """Feature map `[B, C, H, W]` as tokens `[B, H·W, C]`; a view if `x` is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens `[B, H·W, C]` as a channels_last feature map `[B, C, H, W]`; always a view."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class SinusoidalEmbedding(nn.Module):
    """Time `[B]` as float32 sines and cosines `[B, width]` of geometrically falling frequencies, from 1 to 1e-4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        """Embed the times."""
        half = self.width // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32)
        angles = t.to(torch.float32)[:, None] * torch.exp(steps * (-math.log(10_000) / (half - 1)))
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of `[B, C, H, W]` with a gain and no bias, in float32 with eps 1e-5. Behind linear
    attention values are of the order 1/(H·W), so eps decides the output's size and must not change under autocast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position."""
        gain, pixels = self.gain.flatten(), x.permute(0, 2, 3, 1)
        # Float32 pixels, as autocast gives on a GPU, would only move twice the bytes on a CPU.
        mixed = x.device.type == "cpu" and x.dtype == torch.bfloat16
        norm = layer_norm_on_cpu if mixed else F.layer_norm
        return norm(pixels, gain.shape, weight=gain, eps=1e-5).permute(0, 3, 1, 2)


class GlobalPool(nn.Module):
    """Mean of a feature map over its positions; a module, so that a tile can be given the mean over the whole photo."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, C, 1, 1]`."""
        return x.mean((2, 3), keepdim=True)


class ConditionEmbedding(nn.Module):
    """Sinusoidal time embedding (`width` to `4 * width`) plus a learned prompt that the degradation embedding
    (`context_dim`) gates (DA-CLIP, section 3.2), if `degradation_context`.
    """

    def __init__(self, context_dim: int, width: int, degradation_context: bool) -> None:
        super().__init__()
        emb = 4 * width
        self.degradation_context = degradation_context
        self.time_mlp = nn.Sequential(SinusoidalEmbedding(width), nn.Linear(width, emb), nn.GELU(), nn.Linear(emb, emb))
        if degradation_context:
            self.prompt = nn.Parameter(torch.rand(1, emb))
            self.degradation_mlp = nn.Sequential(nn.Linear(context_dim, emb), nn.SiLU(), nn.Linear(emb, emb))
            self.prompt_mlp = nn.Linear(emb, emb)

    def forward(self, t: Tensor, degradation: Tensor | None) -> Tensor:
        """Map times `[B]` and degradation embeddings `[B, D]` (None adds nothing) to `[B, 4·width]`."""
        embedding: Tensor = self.time_mlp(t)
        if self.degradation_context and degradation is not None:
            gate = self.degradation_mlp(degradation).softmax(dim=-1)
            embedding = embedding + self.prompt_mlp(gate * self.prompt)
        return embedding


class UpsamplingConv(nn.Sequential):
    """Doubling of `[B, C, H, W]` by repeating pixels, then a 3×3 convolution, computed with 4/9 of the arithmetic as
    the equal transposed 4×4 convolution of stride 2: taps that meet the same pixel are added before the product.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Upsample(scale_factor=2), nn.Conv2d(in_channels, out_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, 2H, 2W]`."""
        conv = self[1]
        assert isinstance(conv, nn.Conv2d)
        kernel = _merge_taps(_merge_taps(conv.weight, 2), 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _merge_taps(kernel: Tensor, axis: int) -> Tensor:
    """Three taps along an axis as the four of the transposed convolution."""
    first, middle, last = kernel.unbind(axis)
    return torch.stack([last, middle + last, first + middle, first], axis)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad `[B, C, H, W]` on the right and at the bottom to multiples, by reflection where possible."""
    height, width = x.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if right == bottom == 0:
        return x
    # A reflection cannot be longer than the image; tiny images repeat their border instead.
    mode = "reflect" if right < width and bottom < height else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions: h = SiLU(conv1(x)·(1 + scale) + shift), out = SiLU(conv2(h)) + shortcut(x)."""

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding_width, 2 * out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H, W]`; `embedding` `[B, E]` has been through SiLU."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(x)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return F.silu(self.conv2(h)) + self.shortcut(x)


class LinearAttention(nn.Module):
    """Efficient attention (Shen et al. 2021), linear in the number N = H·W of positions, with 4 heads of 32 channels:
    out = norm(W_out (q (kᵀ v / N)) + b), q = softmax over a head's channels / √32, k = softmax over the positions. To
    save memory traffic v is never formed (kᵀ v = (kᵀ x) W_vᵀ), W_out acts on the small kᵀ v; q, k are `[B, 128, N]`.
    """

    heads = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = self.heads * HEAD_WIDTH
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map `[B, C, H, W]` to the same shape; `context` is ignored."""
        height, width = x.shape[-2:]
        tokens = to_tokens(x)
        # Shared, so that the gradients of q and k meet in their own memory order and are turned around once.
        turned = tokens.transpose(1, 2)
        w_q, w_k, w_v = self.to_qkv.weight.flatten(1).expand(x.shape[0], -1, -1).chunk(3, dim=1)
        q = torch.bmm(w_q, turned).unflatten(1, (self.heads, HEAD_WIDTH))
        q = q.softmax(2).flatten(1, 2)
        k = torch.bmm(w_k, turned).softmax(-1)
        # All pairs of channels in one product; each head keeps its diagonal block.
        pairs = torch.bmm(torch.bmm(k, tokens), w_v.transpose(1, 2))
        own = torch.block_diag(*[pairs.new_ones(HEAD_WIDTH, HEAD_WIDTH)] * self.heads)
        pairs = pairs * (own * (HEAD_WIDTH**-0.5 / (height * width)))
        out = torch.bmm(q.transpose(1, 2), pairs @ self.to_out.weight.flatten(1).t())
        assert self.to_out.bias is not None
        # The sum is float32 under autocast too: `out`, of the order 1/(H·W), would drown in a bfloat16 bias.
        return self.norm(to_image(out + self.to_out.bias, height, width))


class CrossAttention(nn.Module):
    """Attention from tokens `[B, N, C]`, C a multiple of 32, to context tokens `[B, K, D]`. With `single`, K is 1 and
    the result `to_out(to_v(context))`; `to_q` and `to_k` are frozen and without effect, so that official weights load.
    """

    def __init__(self, channels: int, context_width: int, single: bool) -> None:
        super().__init__()
        self.single = single
        self.to_q = nn.Linear(channels, channels, bias=False).requires_grad_(not single)
        self.to_k = nn.Linear(context_width, channels, bias=False).requires_grad_(not single)
        self.to_v = nn.Linear(context_width, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """The update of each position, `[B, N, C]`, or `[B, 1, C]` if it is the same for all."""
        if self.single:
            return self.to_out(self.to_v(context))
        return self.to_out(_attend(self.to_q(tokens), self.to_k(context), self.to_v(context)))

    def self_attend(self, tokens: Tensor) -> Tensor:
        """Attend to the tokens themselves, as the reference does without a context; needs D = C."""
        return self.to_out(_attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)))


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020): contract(a · GELU(b)) with a, b the halves of expand(x), inner width 4C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 8 * channels)
        self.contract = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[B, N, C]` to the same shape."""
        value, gate = self.expand(tokens).chunk(2, dim=-1)
        return self.contract(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """One pre-norm transformer block on the positions of a feature map of `channels`, a multiple of 32, plus the input.
    `context` is as in `ConditionalUNet`, of width `context_width`, and so is `self_attend_without_content`.
    """

    def __init__(
        self, channels: int, context_width: int, context: Context, self_attend_without_content: bool = False
    ) -> None:
        super().__init__()
        if self_attend_without_content and context_width != channels:
            raise DaclipError(f"self_attend_without_content needs context_dim = {channels}, got {context_width}")
        self.self_attend_without_content = self_attend_without_content
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = CrossAttention(channels, channels, single=False)
        self.cross_attention: CrossAttention | None = None
        if context != "none":
            single = context == "token"
            # Like to_q and to_k of the cross-attention: without effect, there for the official weights.
            self.norm2 = nn.LayerNorm(channels).requires_grad_(not single)
            self.cross_attention = CrossAttention(channels, context_width, single)
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map `[B, C, H, W]` to the same shape; `context` is `[B, K, D]`, None skips the cross-attention."""
        tokens = to_tokens(self.proj_in(self.norm(x)))
        normed = self.norm1(tokens)
        tokens = tokens + self.self_attention(normed, normed)
        if self.cross_attention is not None:
            if context is not None:
                asking = tokens if self.cross_attention.single else self.norm2(tokens)
                tokens = tokens + self.cross_attention(asking, context)
            elif self.self_attend_without_content:
                tokens = tokens + self.cross_attention.self_attend(self.norm2(tokens))
        tokens = tokens + self.feed_forward(self.norm3(tokens))
        return x + self.proj_out(to_image(tokens, *x.shape[-2:]))


class NormedResidual(nn.Module):
    """x + body(norm(x), context)."""

    def __init__(self, channels: int, body: LinearAttention | SpatialTransformer) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.body = body

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        # Float32 ends at the last norm: what follows would only move twice the bytes.
        return x + self.body(self.norm(x), context).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention of projected tokens `[B, N, C]`, scale 1/√32."""
    q, k, v = (z.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for z in (q, k, v))
    return attend(q, k, v).transpose(1, 2).flatten(2)
