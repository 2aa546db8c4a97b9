"""DA-CLIP as stage 2 uses it."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.degradations import split_words
from daclip.types import Conditioning

__all__ = ["FrozenGuide"]

Row = dict[str, Tensor]


class FrozenGuide:
    """Frozen DA-CLIP outside the module tree, never copied.

    A weight average deep-copies the LightningModule and a checkpoint stores its state; neither has any use
    for a frozen model, which for ViT-L/14 is fifteen times as large as the network that learns.

    Args:
        daclip: Stage 1.
        remembered: How many photos' embeddings are kept, the latest used ones. A photo is known by its pixels, so
            this only helps where the very same degraded photos come again: stored pairs without random crops,
            and held-out photos.
    """

    def __init__(self, daclip: DaClip, remembered: int = 0):
        self.daclip = daclip.eval().requires_grad_(False)
        self.remembered = remembered
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenGuide":
        """The same object: frozen things are shared."""
        return self

    def __call__(self, lq: Tensor) -> Conditioning:
        """Embeddings of degraded photos `[B, 3, H, W]`, computed once per batch."""
        if not self.remembered:
            return self._compute(lq)
        keys = [_key(photo) for photo in lq]
        new = [number for number, key in enumerate(keys) if key not in self._rows]
        if new:
            for number, row in zip(new, _rows(self._compute(lq[new])), strict=True):
                self._rows[keys[number]] = row
        for key in keys:
            self._rows.move_to_end(key)
        found = _joined([self._rows[key] for key in keys])
        while len(self._rows) > self.remembered:
            self._rows.popitem(last=False)
        return found

    @torch.no_grad()
    def told(
        self, conditioning: Conditioning, truth: Sequence[str], words: Sequence[str], told: Tensor
    ) -> Conditioning:
        """Some photos' degradation embeddings as if their true words had been recognised, see `DaClip.moved`.

        Args:
            conditioning: Embeddings of B photos.
            truth: Their true labels; one of several words, such as `hazy, rainy`, counts as their mean, as the
                user's words do when restoring.
            words: The words among which degradations are recognised.
            told: Whose embeddings move, bool `[B]`.
        """
        degradation = conditioning.degradation
        assert degradation is not None
        encode = self.daclip.clip.encode_text
        wanted = torch.stack([encode(split_words(label)).mean(0) for label in truth])
        moved = self.daclip.moved(degradation, wanted, words)
        return replace(conditioning, degradation=torch.where(told[:, None], moved, degradation))

    @torch.no_grad()
    def decided(self, conditioning: Conditioning, words: Sequence[str], certainty: float) -> Conditioning:
        """Embeddings as if recognition had been surer, see `DaClip.decided`."""
        assert conditioning.degradation is not None
        return replace(conditioning, degradation=self.daclip.decided(conditioning.degradation, words, certainty))

    def _compute(self, lq: Tensor) -> Conditioning:
        with torch.inference_mode():
            # Not in the module tree, so no Trainer moves it; where it lies already, this does nothing.
            found = self.daclip.to(lq.device)(lq)
        # Copies: the backward pass of what they enter may not keep tensors of inference mode.
        return Conditioning(**{name: value.clone() for name, value in _present(found).items()})


def _present(conditioning: Conditioning) -> Row:
    values = {field.name: getattr(conditioning, field.name) for field in fields(conditioning)}
    return {name: value for name, value in values.items() if value is not None}


def _rows(conditioning: Conditioning) -> list[Row]:
    present = _present(conditioning)
    count = len(next(iter(present.values())))
    return [{name: value[number] for name, value in present.items()} for number in range(count)]


def _joined(rows: Sequence[Row]) -> Conditioning:
    return Conditioning(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def _key(photo: Tensor) -> bytes:
    return hashlib.blake2b(photo.contiguous().cpu().numpy().tobytes(), digest_size=16).digest()
