"""The frozen open_clip model: towers, tokeniser, preprocessing on tensors, text-embedding cache."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from daclip.clip.views import view_by_name
from daclip.errors import DaclipError

__all__ = ["FrozenClip", "attention_arithmetic", "embed_patches", "pool_tokens"]


@contextlib.contextmanager
def attention_arithmetic(device: torch.device) -> Iterator[None]:
    """The way to compute attention, the same for the plain and the steered tower.

    PyTorch's inference shortcut of multi-head attention rounds differently from its training path; without it
    the steered tower equals the plain one bit for bit while the links are zero. On a CPU training takes plain
    matrix products: the fused kernel's backward pass needs four times as long in bfloat16, and CLIP's few
    tokens (at most 577) leave the N×N matrix small.
    """
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)


def embed_patches(tower: VisionTransformer, pixels: Tensor) -> Tensor:
    """Normalised pixels `[B, 3, s, s]` to the tokens that enter the first block, `[B, 1 + N, width]`."""
    tokens: Tensor = tower._embeds(pixels)
    return tokens


def pool_tokens(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """Tokens after the last block to the tower's embedding, `[B, D]`."""
    pooled, _ = tower._pool(tokens)
    return pooled if tower.proj is None else pooled @ tower.proj


def _create(architecture: str | Mapping[str, Any], pretrained: str | None, seed: int) -> nn.Module:
    if not isinstance(architecture, str):
        # Random weights are part of the experiment: the same seed gives the same frozen model anywhere.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = open_clip.CLIP(**{key: _plain(value) for key, value in architecture.items()})
        if isinstance(fresh.visual, VisionTransformer):
            balance_frequencies(fresh.visual.conv1.weight, torch.Generator().manual_seed(seed))
        return fresh
    hub = architecture.startswith(("hf-hub:", "local-dir:"))
    if not hub and architecture not in open_clip.list_models():
        raise DaclipError(
            f"clip.architecture={architecture} is no open_clip model; see open_clip.list_models() "
            "(for example ViT-B-32, ViT-L-14)"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = open_clip.create_model(architecture, pretrained=pretrained)
            return model
    except Exception as error:
        # open_clip wraps a failed download or a bad tag in whatever the hub client or loader raised.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DaclipError(
            f"the CLIP weights {architecture}/{pretrained} could not be loaded ({reason}); check the tag and "
            "the network, or set clip.pretrained to a weight file on disk"
        ) from error


@torch.no_grad()
def balance_frequencies(weight: Tensor, generator: torch.Generator) -> None:
    """Draw a patch embedding anew, with gains that grow with the frequency, as amplitudes in photos fall.

    White random weights see little but the brightness of a patch, and what most corruptions change is fine
    detail. Whitening the first layer is known to speed up training from scratch (Coates and Ng 2012); here
    with the 1/f spectrum that all photos share instead of one measured on the data.

    Args:
        weight: `[width, 3, p, p]`; keeps its standard deviation per frequency unit.
        generator: Source of the draw.
    """
    patch = weight.shape[-1]
    n = torch.arange(patch, dtype=torch.float32)
    basis = torch.cos(math.pi / patch * n[:, None] * (n + 0.5)) * math.sqrt(2 / patch)
    basis[0] /= math.sqrt(2)
    # The mean of a patch keeps a little; beyond the third frequency there is more noise than picture.
    gain = (torch.hypot(n[:, None], n) + 0.3).clamp(max=3.0)
    coefficients = torch.randn(weight.shape, generator=generator) * gain
    weight.copy_(torch.einsum("ki,lj,ockl->ocij", basis, basis, coefficients) * weight.std())


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


class FrozenClip(nn.Module):
    """An open_clip model that never learns.

    Args:
        architecture: Name of an open_clip ViT model (`ViT-B-32`, `hf-hub:…`, `local-dir:…`) or the arguments
            of `open_clip.CLIP` as a mapping, which gives random weights.
        pretrained: Weight tag or file for a named model; None leaves the weights random.
        view: How photos become CLIP inputs: `resize`, `crop` or `multi_crop` (see `daclip.clip.views`).
        seed: Seed of random weights.

    Attributes:
        image_size: Side of CLIP's square input.
        embed_dim: Length D of the shared embedding.

    Raises:
        DaclipError: Unknown name, weights that cannot be loaded, or an image tower that is no plain ViT.
    """

    model: Any  # open_clip has no type hints
    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str | Mapping[str, Any], pretrained: str | None, view: str, seed: int):
        super().__init__()
        self.model = _create(architecture, pretrained, seed).eval().requires_grad_(False)
        tower = self.model.visual
        if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None:
            raise DaclipError(
                f"the image tower of {architecture} is a {type(tower).__name__}, but the controller needs a "
                "plain open_clip VisionTransformer (one residual stream of equal blocks)"
            )
        self.view = view_by_name(view)
        self.image_size: int = tower.image_size[0]
        self.embed_dim: int = tower.output_dim
        named = isinstance(architecture, str)
        self.tokenizer = open_clip.get_tokenizer(
            architecture if named else "ViT-B-32", context_length=getattr(self.model, "context_length", 77)
        )
        mean = getattr(tower, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        std = getattr(tower, "image_std", None) or open_clip.OPENAI_DATASET_STD
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._texts: dict[str, Tensor] = {}

    @property
    def tower(self) -> VisionTransformer:
        """The image tower."""
        tower: VisionTransformer = self.model.visual
        return tower

    def train(self, mode: bool = True) -> "FrozenClip":
        """Stay in evaluation mode: frozen means frozen."""
        return super().train(False)

    def views(self, images: Tensor) -> Tensor:
        """Photos `[B, 3, H, W]` in [0, 1] to normalised CLIP inputs `[B, V, 3, s, s]`."""
        return (self.view(images.float(), self.image_size) - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """Plain CLIP embedding of photos, averaged over their views.

        Args:
            images: `[B, 3, H, W]`, RGB in [0, 1].

        Returns:
            `[B, D]`, not normalised.
        """
        views = self.views(images)
        with attention_arithmetic(images.device):
            tokens = embed_patches(self.tower, views.flatten(0, 1))
            for block in self.tower.transformer.resblocks:
                tokens = block(tokens)
        return pool_tokens(self.tower, tokens).unflatten(0, views.shape[:2]).mean(1)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embedding of token ids `[N, L]`, not normalised, `[N, D]`.

        A text is cut after its last end-of-text token (the largest id): attention is causal, so what
        follows cannot change the embedding, and most captions need a seventh of the 77 positions.
        """
        model = self.model
        if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax":
            embedded: Tensor = model.encode_text(tokens)
            return embedded
        end = tokens.argmax(-1)
        length = int(end.max()) + 1
        x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        mask: Tensor = model.attn_mask
        x = model.transformer(x, attn_mask=mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(tokens), device=tokens.device), end]
        projection = model.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings of texts, `[N, D]` float32; each text is computed once per process.

        The text tower is frozen, so an embedding never changes: training steps only look it up.
        """
        device = self.mean.device
        new = list(dict.fromkeys(text for text in texts if text not in self._texts))
        # One by one on a CPU: products round differently in another batch, and a resumed run meets other ones first.
        for group in [[text] for text in new] if device.type == "cpu" else [new] if new else []:
            with torch.autocast(device.type, enabled=False):
                embedded = F.normalize(self.encode_tokens(self.tokenizer(group).to(device)).float(), dim=-1)
            self._texts.update(zip(group, embedded, strict=True))
        return torch.stack([self._texts[text].to(device) for text in texts])

    def forget_texts(self) -> None:
        """Empty the cache of text embeddings, as after loading other weights."""
        self._texts.clear()
