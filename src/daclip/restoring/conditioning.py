"""Embeddings of several photos, and the user's words in place of recognised ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

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
    """Put the user's words in place of what was recognised, see `DaClip.moved`.

    Args:
        conditioning: Embeddings of photos, `[B, D]`.
        daclip: The network that they come from.
        words: Texts with weights that add up to 1.
        vocabulary: The words among which degradations are recognised.
    """
    degradation = conditioning.degradation
    assert degradation is not None
    weights = torch.tensor(list(words.values()), device=degradation.device)
    wanted = weights @ daclip.clip.encode_text(list(words)).float()
    return replace(conditioning, degradation=daclip.moved(degradation, wanted, vocabulary))
