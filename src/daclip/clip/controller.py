"""DA-CLIP: a trainable copy of the image tower steers the frozen one (Luo et al., ICLR 2024, section 3)."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.backbone import FrozenClip, attention_arithmetic
from daclip.clip.towers import blocks, embed_patches, pool_tokens, token_width
from daclip.errors import DaclipError
from daclip.types import Conditioning

__all__ = ["Controller", "DaClip", "Injection", "create_daclip"]

Injection = Literal["reversed", "aligned"]

MAX_LOGIT_SCALE = math.log(100)


class Controller(nn.Module):
    """A copy of a ViT image tower with one zero-initialised linear link after each block.

    Args:
        tower: The frozen tower that is copied.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = copy.deepcopy(tower).train().requires_grad_(True)
        width = token_width(tower)
        self.links = nn.ModuleList(nn.Linear(width, width) for _ in blocks(tower))
        for parameter in self.links.parameters():
            nn.init.zeros_(parameter)

    def forward(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the controller.

        Args:
            views: Normalised CLIP inputs `[B, 3, s, s]`.

        Returns:
            The degradation embedding `[B, D]` and the hidden states, one `[B, 1 + N, width]` a block.
        """
        tokens = embed_patches(self.tower, views)
        hiddens = []
        for block, link in zip(blocks(self.tower), self.links, strict=True):
            tokens = block(tokens)
            hiddens.append(link(tokens))
        return pool_tokens(self.tower, tokens), hiddens


class DaClip(nn.Module):
    """Frozen CLIP with its controller: degraded photos to content and degradation embeddings.

    With its links at zero the content embedding equals the frozen CLIP's bit for bit.

    Args:
        clip: The frozen model.
        injection: Which hidden state goes to which frozen block. `reversed` gives frozen block i the hidden
            state of controller block L−1−i, which the published weights need; `aligned` that of block i.

    Attributes:
        logit_scale: Logarithm of the scale that both losses share; trained from CLIP's own value.
    """

    def __init__(self, clip: FrozenClip, injection: Injection):
        super().__init__()
        if injection not in ("reversed", "aligned"):
            raise DaclipError(f"injection={injection} is not known; choose reversed or aligned")
        self.clip = clip
        self.controller = Controller(clip.tower)
        self.injection = injection
        self.logit_scale = nn.Parameter(clip.model.logit_scale.detach().clone().reshape(()))

    @property
    def embed_dim(self) -> int:
        """Length D of both embeddings."""
        return self.clip.embed_dim

    def forward(self, images: Tensor, steered: int | None = None) -> Conditioning:
        """Embeddings of degraded photos, averaged over their views.

        Args:
            images: `[B, 3, H, W]`, RGB in [0, 1], any size.
            steered: Content embeddings are made of the first so many photos, by default of all.

        Returns:
            Content embedding, `[steered, D]`, and degradation embedding, `[B, D]`; not normalised.
        """
        views = self.clip.views(images)
        count = None if steered is None else steered * views.shape[1]
        content, degradation = self.encode_views(views.flatten(0, 1), count)
        return Conditioning(
            content=content.unflatten(0, (-1, views.shape[1])).mean(1),
            degradation=degradation.unflatten(0, views.shape[:2]).mean(1),
        )

    def encode_views(self, views: Tensor, steered: int | None = None) -> tuple[Tensor, Tensor]:
        """Content (of the first `steered`) and degradation embedding of normalised CLIP inputs `[B, 3, s, s]`."""
        with attention_arithmetic(views.device):
            degradation, hiddens = self.controller(views)
            if self.injection == "reversed":
                hiddens = hiddens[::-1]
            tower = self.clip.tower
            tokens = embed_patches(tower, views[:steered])
            for block, hidden in zip(blocks(tower), hiddens, strict=True):
                tokens = block(tokens) + hidden[:steered]
        return pool_tokens(tower, tokens), degradation

    def classify(self, degradation: Tensor, words: Sequence[str]) -> Tensor:
        """Zero-shot probabilities of degradation words.

        Args:
            degradation: Degradation embeddings `[B, D]`.
            words: K words.

        Returns:
            `[B, K]`, rows sum to 1.
        """
        texts = self.clip.encode_text(words)
        # Float32: a scale of up to 100 would blow bfloat16's rounding of cosines up to visible shares.
        with torch.autocast(degradation.device.type, enabled=False):
            return (self.scale() * F.normalize(degradation.float(), dim=-1) @ texts.T).softmax(-1)

    def scale(self) -> Tensor:
        """The factor of cosine similarities, between 1 and 100."""
        return self.logit_scale.clamp(0, MAX_LOGIT_SCALE).exp()


def create_daclip(
    architecture: str | Mapping[str, Any],
    pretrained: str | None,
    view: str,
    injection: Injection,
    seed: int,
    load_weights: bool = True,
) -> DaClip:
    """DA-CLIP from the settings of `conf/clip/`; see `FrozenClip` and `DaClip` for their meaning."""
    return DaClip(FrozenClip(architecture, pretrained, view, seed, load_weights), injection)
