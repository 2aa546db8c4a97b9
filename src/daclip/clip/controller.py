"""DA-CLIP: a trainable copy of the image tower steers the frozen one (Luo et al., ICLR 2024, section 3)."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daclip.clip.frozen_clip import FrozenClip
from daclip.clip.towers import RunBlock, run_block, tower_of
from daclip.errors import DaclipError
from daclip.types import Conditioning

Injection = Literal["reversed", "aligned"]

MAX_LOGIT_SCALE = math.log(100)


class Controller(nn.Module):
    """A trainable copy of an image tower with one zero-initialised linear link after each block."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.tower = copy.deepcopy(net).train().requires_grad_(True)
        self.links = nn.ModuleList(tower_of(net).links())
        for parameter in self.links.parameters():
            nn.init.zeros_(parameter)

    def forward(self, views: Tensor, run: RunBlock = run_block) -> tuple[Tensor, list[Tensor]]:
        """Degradation embedding `[B, D]` of CLIP inputs `[B, 3, s, s]`, one hidden state `[B, N, width]` a block."""
        tower = tower_of(self.tower)
        tokens = tower.embed(views)
        hiddens = []
        for block, link in zip(tower.blocks, self.links, strict=True):
            tokens = run(block, tokens)
            hiddens.append(link(tokens))
        return tower.pool(tokens), hiddens


class DaClip(nn.Module):
    """Frozen CLIP with its controller: degraded photos to content and degradation embeddings; with zero links the
    content embedding is the frozen CLIP's, bit for bit. `reversed` injection adds the hidden state of controller block
    L−1−i to frozen block i (the published weights), `aligned` that of block i. `logit_scale` is a logarithm.
    """

    def __init__(self, clip: FrozenClip, injection: Injection):
        super().__init__()
        if injection not in ("reversed", "aligned"):
            raise DaclipError(f"injection={injection} is not known; choose reversed or aligned")
        if injection == "reversed" and tower_of(clip.tower).any_size:
            raise DaclipError("a convolutional tower has maps of several sizes; set clip.injection=aligned")
        self.clip = clip
        self.controller = Controller(clip.tower)
        self.injection = injection
        self.logit_scale = nn.Parameter(clip.model.logit_scale.detach().clone().reshape(()))

    @property
    def embed_dim(self) -> int:
        """Length D of both embeddings."""
        return self.clip.embed_dim

    def forward(self, images: Tensor, steered: int | None = None, recompute: bool = False) -> Conditioning:
        """Embeddings of photos `[B, 3, H, W]`, RGB in [0, 1], averaged over their views, not normalised. With
        `steered`, only the first photos get content embeddings, `[steered, D]`; else all do, along with the patch
        tokens of all views `[B, N, D]`. `recompute` keeps no activations inside blocks for the backward pass.
        """
        views = self.clip.views(images)
        count = None if steered is None else steered * views.shape[1]
        tokens, degradation = self._run(views.flatten(0, 1), count, recompute)
        tower, per_photo = tower_of(self.clip.tower), (-1, views.shape[1])
        return Conditioning(
            content=None if tokens is None else tower.pool(tokens).unflatten(0, per_photo).mean(1),
            degradation=degradation.unflatten(0, per_photo).mean(1),
            patches=None
            if tokens is None or steered is not None  # the training of the controller has no use for them
            else tower.project(tokens).unflatten(0, per_photo).flatten(1, 2),
        )

    def encode_views(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Content and degradation embedding of normalised CLIP inputs `[B, 3, s, s]`."""
        tokens, degradation = self._run(views, steered=None, recompute=False)
        assert tokens is not None
        return tower_of(self.clip.tower).pool(tokens), degradation

    def _run(self, views: Tensor, steered: int | None, recompute: bool) -> tuple[Tensor | None, Tensor]:
        """Last tokens of the steered tower (None for `steered=0`) and degradation embedding of CLIP inputs."""
        run: RunBlock = self.clip.run_block
        if recompute and torch.is_grad_enabled():
            run = partial(checkpoint, self.clip.run_block, use_reentrant=False)
        degradation, hiddens = self.controller(views, run)
        if steered == 0:
            return None, degradation
        if self.injection == "reversed":
            hiddens = hiddens[::-1]
        tower = tower_of(self.clip.tower)
        tokens = tower.embed(views[:steered])
        for block, hidden in zip(tower.blocks, hiddens, strict=True):
            tokens = run(block, tokens) + hidden[:steered]
        return tokens, degradation

    def compile_blocks(self) -> None:
        """Let `torch.compile` work on the transformer blocks of both towers; names of weights stay."""
        self.clip.run_block = torch.compile(run_block)

    def word_embeddings(self, classes: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Unit vectors of class names, `[K, D]`: the mean over prompts such as `"a {} photo"` (CLIP, section 3.1.4)."""
        for template in templates:
            if "{}" not in template:
                raise DaclipError(f"the prompt template '{template}' has no {{}} for the class name")
        prompts = [template.replace("{}", class_name) for class_name in classes for template in templates]
        embedded = self.clip.encode_text(prompts).unflatten(0, (len(classes), len(templates)))
        # A single prompt is a unit vector already, and normalising it again would move its last bits.
        return embedded[:, 0] if len(templates) == 1 else F.normalize(embedded.mean(1), dim=-1)

    def classify(self, degradation: Tensor, classes: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Zero-shot probabilities `[B, K]` of K classes for degradation embeddings `[B, D]`; rows sum to 1."""
        texts = self.word_embeddings(classes, templates)
        # Float32: a scale of up to 100 would blow bfloat16's rounding of cosines up to visible shares.
        with torch.autocast(degradation.device.type, enabled=False):
            return (self.scale() * F.normalize(degradation.float(), dim=-1) @ texts.T).softmax(-1)

    def moved(self, degradation: Tensor, wanted: Tensor, classes: Sequence[str]) -> Tensor:
        """Degradation embeddings `[B, D]` as if the texts `wanted` (`[B, D]` or `[D]`) had been recognised among the
        classes: u' = u + T_wanted − Σ_k p_k T_k, rescaled to the length of u, for unit vectors u, T and recognised
        probabilities p. The offset between image and text embeddings stays; a class recognised for sure does not move.
        """
        with torch.autocast(degradation.device.type, enabled=False):
            unit = F.normalize(degradation.float(), dim=-1)
            recognised = self.classify(degradation, classes) @ self.clip.encode_text(classes)
            length = degradation.float().norm(dim=-1, keepdim=True)
            return (F.normalize(unit + wanted - recognised, dim=-1) * length).to(degradation.dtype)

    def decided(self, degradation: Tensor, classes: Sequence[str], temperature: float) -> Tensor:
        """Degradation embeddings `[B, D]` as if recognition were surer: probabilities ∝ p_k^(1/T), T in (0, 1]."""
        sharpened = (self.classify(degradation, classes).log() / temperature).softmax(-1)
        return self.moved(degradation, sharpened @ self.clip.encode_text(classes), classes)

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
    tokenizer: str | None = None,
) -> DaClip:
    """DA-CLIP from the settings of `conf/clip/`; see `FrozenClip` and `DaClip` for their meaning."""
    return DaClip(FrozenClip(architecture, pretrained, view, seed, load_weights, tokenizer), injection)
