"""The records that rooms hand to each other: batches of photos and DA-CLIP's embeddings of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class RestorationBatch:
    """Degraded photos `lq` and clean `hq`, float32 `[B, 3, H, W]`, RGB in [0, 1], with texts for each. `caption` is
    empty where none is known, `degradation` a class such as `"rainy"`, `name` the photo a sample comes from."""

    lq: Tensor
    hq: Tensor
    caption: list[str]
    degradation: list[str]
    name: list[str]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.lq)


@dataclass
class Conditioning:
    """DA-CLIP's embeddings of degraded photos (not normalised); None leaves a part out, zeros mean "not known".
    `content` `[B, D]` is what the clean photo would have, `degradation` `[B, D]` that of the degradation, `patches`
    `[B, N, D]` the content tower's patch tokens in the same space. Networks learn zeros by conditioning drop-out."""

    content: Tensor | None = None
    degradation: Tensor | None = None
    patches: Tensor | None = None

    def kept(self, keep: Tensor | float) -> "Conditioning":
        """The embeddings where `keep`, `[B]` or one value for all photos, is 1, and zeros where it is 0."""

        def one(value: Tensor) -> Tensor:
            return value * (keep.to(value).view(-1, *[1] * (value.ndim - 1)) if isinstance(keep, Tensor) else keep)

        return _joined([self], lambda values: one(values[0]))

    def rows(self, indices: list[int]) -> "Conditioning":
        """The embeddings of some photos, in that order, repeated where an index is."""
        return _joined([self], lambda values: values[0][indices])

    @staticmethod
    def stacked(parts: "Sequence[Conditioning]") -> "Conditioning":
        """The embeddings of several batches as one."""
        return _joined(parts, torch.cat)


def _joined(parts: Sequence[Conditioning], join: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    found = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Conditioning)}
    return Conditioning(**{name: None if values[0] is None else join(values) for name, values in found.items()})
