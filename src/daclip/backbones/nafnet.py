"""NAFNet with DA-CLIP's conditioning: the fast restoration network."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from daclip.backbones.layers import (
    ChannelNorm,
    ConditionEmbedding,
    Context,
    CrossAttention,
    GlobalPool,
    check_context,
    context_tokens,
    pad_to_multiple,
    to_image,
    to_tokens,
)
from daclip.errors import DaclipError
from daclip.types import Conditioning


class ConditionalNAFNet(nn.Module):
    """NAFNet (Chen et al., ECCV 2022) `(x_t, lq, t, conditioning) → output`, as DA-CLIP's section 4.4 uses it.

    Takes a third of the U-Net's arithmetic and allows a larger learning rate. Squares of `patch` pixels a side (1:
    none) become channels as DCT coefficients (`BlockDct`), which makes few, wide products; `detail_gain` multiplies all
    but the mean, about the ratio of both in photos. The sum of the time embedding and projections of both embeddings,
    `context_dim` wide, scales and shifts every block; the paper's prompt starts too small and takes long to have an
    effect.

    `width` channels double with each level; `decoder_blocks` lists the lowest resolution first. `degradation_context`
    uses the degradation embedding; `context` the content embedding (`token`), patch tokens as well by attention at the
    lowest resolution (`patches`), or nothing (`none`); an embedding that is None is skipped. `checkpoint` recomputes
    activations in the backward pass: less memory, about a third more time.
    """

    def __init__(
        self,
        context_dim: int,
        in_channels: int,
        width: int,
        encoder_blocks: Sequence[int],
        middle_blocks: int,
        decoder_blocks: Sequence[int],
        patch: int,
        detail_gain: float,
        degradation_context: bool,
        context: Context,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if len(encoder_blocks) != len(decoder_blocks):
            counts = f"{len(encoder_blocks)} and {len(decoder_blocks)}"
            raise DaclipError(f"the NAFNet needs as many encoder_blocks as decoder_blocks, got {counts}")
        check_context(context)
        self.context = context
        self.checkpoint = checkpoint
        self.dct = BlockDct(patch)
        gain = torch.full((2 * in_channels, patch**2), float(detail_gain))
        gain[:, 0] = 1 / patch  # the orthonormal coefficient is `patch` times the mean
        self.register_buffer("input_gain", gain.view(1, -1, 1, 1), persistent=False)
        self.input_gain: Tensor
        self.factor = patch * 2 ** len(encoder_blocks)
        emb = 4 * width
        self.embedding = ConditionEmbedding(context_dim, width, degradation_context=False)
        self.degradation = nn.Linear(context_dim, emb) if degradation_context else None
        self.content = nn.Linear(context_dim, emb) if context != "none" else None
        self.stem = nn.Conv2d(2 * in_channels * patch**2, width, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        channels = width
        for count in encoder_blocks:
            self.encoders.append(_blocks(count, channels, emb))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, 2))
            channels *= 2
        self.middle = _blocks(middle_blocks, channels, emb)
        self.attend_norm, self.attend = None, None
        if context == "patches":
            self.attend_norm = ChannelNorm(channels)
            self.attend = CrossAttention(channels, context_dim, single=False)
        for count in decoder_blocks:
            # A quarter of the doubled channels is left after they are unfolded: half of the incoming ones.
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(_blocks(count, channels, emb))
        self.head = nn.Conv2d(width, in_channels * patch**2, 3, padding=1)
        # A residual network that starts as the identity: the first estimate is the degraded photo itself.
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Estimate the output for a state; shapes as in `ConditionalUNet.forward`."""
        height, width = x_t.shape[-2:]
        emb = self.embedding(t, None)
        given = (self.degradation, conditioning.degradation), (self.content, conditioning.content)
        for project, embedding in given:
            if project is not None and embedding is not None:
                # Normed: the length of an embedding differs between CLIP models and carries no information.
                emb = emb + project(F.layer_norm(embedding, embedding.shape[-1:]))
        emb = F.silu(emb)

        padded = pad_to_multiple(torch.cat([x_t - lq, lq], dim=1), self.factor)
        folded = self.dct(padded) * self.input_gain
        x = self.stem(folded.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = self._run(encoder, x, emb)
            skips.append(x)
            x = down(x)
        if self.attend is not None and self.attend_norm is not None:
            context = context_tokens(conditioning, self.context)
            if context is not None:
                asking = to_tokens(self.attend_norm(x).to(x.dtype))
                found = self.attend(asking, F.layer_norm(context, context.shape[-1:]))
                x = x + to_image(found, *x.shape[-2:]).to(x.dtype)
        x = self._run(self.middle, x, emb)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            # Unfolding leaves the channels-last layout, in which everything else is fast.
            x = up(x).contiguous(memory_format=torch.channels_last) + skips.pop()
            x = self._run(decoder, x, emb)
        return self.dct.inverse(self.head(x))[..., :height, :width]

    def _run(self, blocks: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            if self.checkpoint and self.training and torch.is_grad_enabled():
                x = recompute(block, x, embedding, use_reentrant=False)
            else:
                x = block(x, embedding)
        return x


class BlockDct(nn.Module):
    """Orthonormal DCT-II of disjoint p×p squares of pixels, the coefficients as channels. On pixels, nearly equal,
    errors of brightness dominate every gradient; here mean and detail have weights, and so step sizes, of their own.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        n = torch.arange(patch, dtype=torch.float64)
        basis = torch.cos(math.pi / patch * n[:, None] * (n + 0.5)) * math.sqrt(2 / patch)
        basis[0] /= math.sqrt(2)
        squares = torch.einsum("ij,kl->ikjl", basis, basis).reshape(patch**2, 1, patch, patch)
        self.register_buffer("squares", squares.float(), persistent=False)
        self.squares: Tensor
        self.patch = patch

    def forward(self, image: Tensor) -> Tensor:
        """Map `[B, C, H, W]`, sides multiples of p, to `[B, C·p², H/p, W/p]`; a square's channels stay together."""
        channels = image.shape[1]
        return F.conv2d(image, self.squares.repeat(channels, 1, 1, 1), stride=self.patch, groups=channels)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Map `[B, C·p², h, w]` back to `[B, C, h·p, w·p]`."""
        channels = coefficients.shape[1] // self.patch**2
        squares = self.squares.repeat(channels, 1, 1, 1)
        return F.conv_transpose2d(coefficients, squares, stride=self.patch, groups=channels)


class NAFBlock(nn.Module):
    """Gated depthwise mixing, then a gated pointwise one; gate(a, b) = a·b, SCA scales channels by their mean, m
    modulates:

        h = W₂(SCA(gate(dw(W₁ m₁(norm x))))), x ← x + β h;    h = W₄(gate(W₃ m₂(norm x))), x ← x + γ h.
    """

    def __init__(self, channels: int, embedding_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding_width, 4 * channels)
        self.norm1 = ChannelNorm(channels)
        self.expand1 = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.pool = GlobalPool()
        self.attention = nn.Conv2d(channels, channels, 1)
        self.contract1 = nn.Conv2d(channels, channels, 1)
        self.norm2 = ChannelNorm(channels)
        self.expand2 = nn.Conv2d(channels, 2 * channels, 1)
        self.contract2 = nn.Conv2d(channels, channels, 1)
        # NAFNet starts these gains at zero for very deep stacks; at one, the few blocks here learn sooner.
        self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape; `embedding` `[B, E]` has been through SiLU."""
        scale1, shift1, scale2, shift2 = self.modulation(embedding)[:, :, None, None].chunk(4, dim=1)
        h = torch.addcmul(shift1, self.norm1(x).to(scale1.dtype), 1 + scale1)
        h = _gate(self.depthwise(self.expand1(h)))
        h = self.contract1(h * self.attention(self.pool(h)))
        x = x + h * self.beta.to(h.dtype)
        h = torch.addcmul(shift2, self.norm2(x).to(scale2.dtype), 1 + scale2)
        h = self.contract2(_gate(self.expand2(h)))
        return x + h * self.gamma.to(h.dtype)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * b


def _blocks(count: int, channels: int, embedding_width: int) -> nn.ModuleList:
    return nn.ModuleList(NAFBlock(channels, embedding_width) for _ in range(count))
