"""Frozen open_clip model: photos of any size to embeddings by way of square views, texts to cached embeddings."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from daclip.backbones.layers import pad_to_multiple
from daclip.clip.sources import (
    SCHEMES,
    check_name,
    check_tokenizer,
    described,
    hub,
    model_settings,
    quiet,
    tokenizer_of,
)
from daclip.clip.towers import ConvTower, RunBlock, check_tower, run_block, tower_of
from daclip.errors import DaclipError
from daclip.files import one_line

View = Callable[[Tensor, int], Tensor]

MAX_CROPS_PER_SIDE = 3


def _scaled(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def _smaller(images: Tensor, shorter: int) -> tuple[int, int]:
    """Height and width with a shorter side of `shorter`, the longer cut as torchvision does."""
    height, width = images.shape[-2:]
    return shorter * height // min(height, width), shorter * width // min(height, width)


def _at_least(images: Tensor, size: int) -> Tensor:
    """Photos with a side below `size` enlarged to it."""
    return images if min(images.shape[-2:]) >= size else _scaled(images, _smaller(images, size)).clamp(0, 1)


def resize(images: Tensor, size: int) -> Tensor:
    """The whole photo, shrunk to CLIP's size as the original does: `[B, 3, H, W]` to `[B, 1, 3, s, s]`. Pillow, which
    it calls, rounds and clips to 8 bits after either pass; on noisy photos that moves values by up to 10 of 255."""
    height, width = _smaller(images, size)
    pixels = images.mul(255).round()
    for shape in ((images.shape[-2], width), (height, width)):
        pixels = _scaled(pixels, shape).round().clamp(0, 255)
    return center_crop(pixels / 255, [size])[:, None]


def crop(images: Tensor, size: int) -> Tensor:
    """The centre at full resolution: `[B, 3, H, W]` to `[B, 1, 3, s, s]`; small photos are enlarged."""
    return center_crop(_at_least(images, size), [size])[:, None]


def _grid(images: Tensor, size: int) -> list[Tensor]:
    """An even grid of at most 3×3 crops of at most `size` pixels a side."""

    def starts(length: int) -> list[int]:
        count = min(math.ceil(length / size), MAX_CROPS_PER_SIDE)
        return [round(i * max(length - size, 0) / max(count - 1, 1)) for i in range(count)]

    height, width = images.shape[-2:]
    return [images[..., y : y + size, x : x + size] for y in starts(height) for x in starts(width)]


def multi_crop(images: Tensor, size: int) -> Tensor:
    """An even grid of at most 3×3 full-resolution crops, `[B, 3, H, W]` to `[B, V, 3, s, s]`; gaps in large photos."""
    return torch.stack(_grid(_at_least(images, size), size), dim=1)


STRIDE = 32  # of a convolutional tower's last map, or a multiple of it


def tiles(images: Tensor, size: int) -> Tensor:
    """As `multi_crop`, but never resampled, `[B, 3, H, W]` to `[B, V, 3, h, w]`: a side shorter than `size` is taken
    whole. Sides are mirrored up to multiples of 32: others end in a fringe of zeros that training never shows, and that
    is read as missing parts. For towers that see any size."""
    return torch.stack([pad_to_multiple(tile, STRIDE) for tile in _grid(images, size)], dim=1)


VIEWS: dict[str, View] = {"resize": resize, "crop": crop, "multi_crop": multi_crop, "tiles": tiles}


class FrozenClip(nn.Module):
    """An open_clip model that never learns. `architecture` names one whose image tower is a plain ViT (`ViT-B-32`,
    `hf-hub:…`, `local-dir:…`), with `pretrained` a weight tag, a file or None (random weights from `seed`), or holds
    the arguments of `open_clip.CLIP`, random as well unless `vision_cfg` is a `ConvTower`'s. `view` makes CLIP inputs,
    see `VIEWS`.
    Without `load_weights`, for weights from an artifact, only the input normalisation of `pretrained` is used.
    `tokenizer` is the artifact's file in place of open_clip's. The attribute `architecture` names no outside source.
    """

    model: Any  # open_clip has no type hints
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str | Mapping[str, Any],
        pretrained: str | None,
        view: str,
        seed: int,
        load_weights: bool = True,
        tokenizer: str | None = None,
    ):
        super().__init__()
        self.run_block: RunBlock = run_block
        self.architecture = described(architecture)
        name = architecture if isinstance(architecture, str) else None
        if tokenizer is None:
            check_tokenizer(self.architecture, name or "clip.architecture")
        # A name with a scheme would bring its weights, wanted or not.
        by_name = name if load_weights or isinstance(self.architecture, str) else None
        model = _create(by_name, self.architecture, pretrained if load_weights else None, seed)
        self.model = model.eval().requires_grad_(False)
        check_tower(self.tower, name or "clip.architecture")
        tower = tower_of(self.tower)
        if view not in VIEWS:
            raise DaclipError(f"clip.view={view} is not known; choose from {', '.join(VIEWS)}")
        if view == "tiles" and not tower.any_size:
            raise DaclipError("clip.view=tiles needs a convolutional tower, which sees any size; take multi_crop")
        self.view = VIEWS[view]
        self.image_size: int = self.tower.image_size[0]
        self.embed_dim = tower.embed_dim
        self.tokenizer = tokenizer_of(self.architecture, name, getattr(self.model, "context_length", 77), tokenizer)
        mean, std = _statistics(self.architecture, pretrained, self.tower)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._texts: dict[str, Tensor] = {}

    @property
    def tower(self) -> Any:
        """The network of the image tower, see `tower_of`."""
        return self.model.visual

    def train(self, mode: bool = True) -> "FrozenClip":
        """Stay in evaluation mode: frozen means frozen."""
        return super().train(False)

    def views(self, images: Tensor) -> Tensor:
        """Photos `[B, 3, H, W]` in [0, 1] to normalised CLIP inputs `[B, V, 3, s, s]`."""
        return (self.view(images.float(), self.image_size) - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """Plain CLIP embedding of photos `[B, 3, H, W]`, averaged over their views: `[B, D]`, not normalised."""
        views = self.views(images)
        tower = tower_of(self.tower)
        tokens = tower.embed(views.flatten(0, 1))
        for block in tower.blocks:
            tokens = self.run_block(block, tokens)
        return tower.pool(tokens).unflatten(0, views.shape[:2]).mean(1)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings `[N, D]` of token ids `[N, L]`, not normalised; what follows the last end-of-text token is cut."""
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
        """Unit-length embeddings of texts, `[N, D]` float32; each text is computed once per process."""
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


def _create(name: str | None, described: str | Mapping[str, Any], pretrained: str | None, seed: int) -> nn.Module:
    """A model by its name for open_clip, else with random weights from its description."""
    if name is None:
        settings = model_settings(described)
        if absent := {"embed_dim", "vision_cfg", "text_cfg"} - settings.keys():
            raise DaclipError(
                f"clip.architecture lacks {', '.join(sorted(absent))}: the recipe changes parts of another CLIP; "
                "take the clip= that it names, or another recipe"
            )
        try:
            # Random weights are part of the experiment: the same seed gives the same frozen model anywhere.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                fresh = _random(settings)
                if pretrained and isinstance(fresh.visual, ConvTower):
                    fresh.visual.load(pretrained)
        except DaclipError:
            raise
        except Exception as error:  # sizes and names of a wrong type or value fail anywhere in open_clip
            raise DaclipError(f"no CLIP can be made of clip.architecture ({one_line(error)})") from error
        if isinstance(fresh.visual, VisionTransformer):
            _balance_frequencies(fresh.visual.conv1.weight, torch.Generator().manual_seed(seed))
        return fresh
    if not name.startswith(SCHEMES):
        check_name(name, pretrained)
    downloads = pretrained is not None and not Path(pretrained).is_file()
    try:
        with torch.random.fork_rng(devices=[]), quiet(), hub() if downloads else nullcontext():
            torch.manual_seed(seed)
            model: nn.Module = open_clip.create_model(
                name,
                pretrained=pretrained,
                device=torch.get_default_device(),
                pretrained_image=False,
                pretrained_text=False,
            )
    except Exception as error:
        # open_clip wraps a failed download or a bad file in whatever the hub client or loader raised.
        raise DaclipError(
            f"the CLIP weights {name}/{pretrained} could not be loaded ({one_line(error)}); check the "
            "name and the network, or set clip.pretrained to a weight file on disk"
        ) from error
    return model


def _random(settings: dict[str, Any]) -> Any:
    """A model of open_clip with random weights; a `vision_cfg` with a `model` makes its image tower a `ConvTower`."""
    vision = settings["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if settings.pop("custom_text", False):
        return open_clip.CustomTextCLIP(**settings)
    if "model" not in vision:
        return open_clip.CLIP(**settings)
    smallest = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 0}
    model = open_clip.CLIP(**{**settings, "vision_cfg": smallest})
    model.visual = ConvTower(**vision, embed_dim=settings["embed_dim"])
    return model


def _statistics(architecture: str | Mapping[str, Any], pretrained: str | None, tower: Any) -> tuple[Any, Any]:
    """Mean and deviation of inputs: the tag's, else those that all tags of the architecture share, else OpenAI's."""
    if isinstance(architecture, str):
        tags = [pretrained] if pretrained else []
        if not tags or not open_clip.get_pretrained_cfg(architecture, tags[0]):
            tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
        found = {(tuple(entry["mean"]), tuple(entry["std"])) for entry in known if entry.get("mean")}
        if len(found) == 1:
            return found.pop()
    given = {} if isinstance(architecture, str) else architecture.get("preprocess_cfg", {})
    mean = given.get("mean") or getattr(tower, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    return mean, given.get("std") or getattr(tower, "image_std", None) or open_clip.OPENAI_DATASET_STD


@torch.no_grad()
def _balance_frequencies(weight: Tensor, generator: torch.Generator) -> None:
    """Draw a patch embedding `[width, 3, p, p]` anew, with gains that grow with frequency as photos' amplitudes fall
    (1/f). White random weights see little but brightness; whitening speeds up training (Coates and Ng 2012).
    """
    patch = weight.shape[-1]
    n = torch.arange(patch, dtype=torch.float32)
    basis = torch.cos(math.pi / patch * n[:, None] * (n + 0.5)) * math.sqrt(2 / patch)
    basis[0] /= math.sqrt(2)
    # The mean of a patch keeps a little; beyond the third frequency there is more noise than picture.
    gain = (torch.hypot(n[:, None], n) + 0.3).clamp(max=3.0)
    coefficients = torch.randn(weight.shape, generator=generator) * gain
    weight.copy_(torch.einsum("ki,lj,ockl->ocij", basis, basis, coefficients) * weight.std())
