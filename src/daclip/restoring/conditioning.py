"""Embeddings of several photos, and the user's words in place of recognised ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from daclip.clip.controller import DaClip
from daclip.types import Conditioning

__all__ = ["rows", "stacked", "steer"]


def rows(conditioning: Conditioning, indices: list[int]) -> Conditioning:
    """The embeddings of some photos, in that order, repeated where an index is."""
    return _each([conditioning], lambda tensors: tensors[0][indices])


def stacked(conditionings: Sequence[Conditioning]) -> Conditioning:
    """The embeddings of several batches as one."""
    return _each(conditionings, torch.cat)


def _each(conditionings: Sequence[Conditioning], join: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    names = [field.name for field in fields(Conditioning)]
    values = {name: [getattr(one, name) for one in conditionings] for name in names}
    return Conditioning(**{name: None if found[0] is None else join(found) for name, found in values.items()})


def steer(
    conditioning: Conditioning, daclip: DaClip, words: Mapping[str, float], vocabulary: Sequence[str]
) -> Conditioning:
    """Put the user's words in place of what was recognised.

    The degradation embedding moves from the texts that were recognised to those that are wanted,

        u' = u + Σ_w weight(w) T_w − Σ_k p_k T_k,    rescaled to the length that it had,

    with u and the text embeddings T of unit length and p the recognised probabilities. The offset that image
    embeddings keep from text embeddings stays in place, and the restoration network sees what it was trained
    on: naming what was recognised with certainty changes nothing.

    Args:
        conditioning: Embeddings of photos, `[B, D]`.
        daclip: The network that they come from.
        words: Texts with weights that add up to 1.
        vocabulary: The words among which degradations are recognised.
    """
    degradation = conditioning.degradation
    assert degradation is not None
    with torch.autocast(degradation.device.type, enabled=False):
        unit = F.normalize(degradation.float(), dim=-1)
        recognised = daclip.classify(degradation, vocabulary) @ daclip.clip.encode_text(vocabulary)
        weights = torch.tensor(list(words.values()), device=unit.device)
        wanted = weights @ daclip.clip.encode_text(list(words))
        length = degradation.float().norm(dim=-1, keepdim=True)
        moved = F.normalize(unit + wanted - recognised, dim=-1) * length
    return replace(conditioning, degradation=moved.to(degradation.dtype))
